"""The registry's record of a run, read from the files of its folder."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from classifier_training.core.errors import UserError
from classifier_training.core.metrics import OF_CLASS
from classifier_training.core.run_dir import RunDir
from classifier_training.core.run_reader import DamagedFileError, RunReader, read_values

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path


class Promotion(NamedTuple):
    """That a run was given an alias.

    Args:
        alias: such as production.
        number: counted in each scope, so that the highest is the present holder.
    """

    alias: str
    number: int


class Registration(NamedTuple):
    """A run's registration.

    Args:
        title: name that its versions are counted under.
        scope: what its aliases are of.
        version: counted under its title; None while it has none.
        promotions: all that it ever had.
    """

    title: str = ""
    scope: str = ""
    version: int | None = None
    promotions: tuple[Promotion, ...] = ()


def read_registration(run: RunDir) -> Registration:
    """Read a run's registration; an empty one where the file is missing or damaged."""
    try:
        found = read_values(run.registration)
        version = found["version"]
        return Registration(
            title=str(found["title"]),
            scope=str(found["scope"]),
            version=version if isinstance(version, int) else None,
            promotions=tuple(Promotion(str(item["alias"]), int(item["number"])) for item in found["promotions"]),
        )
    except (OSError, UserError, ValueError, KeyError, TypeError):
        # The version is then given anew.
        return Registration()


def read_promotions(run: RunDir) -> list[dict[str, Any]]:
    """All promotions of a run, as they were recorded; none where the file is missing or damaged."""
    try:
        found = read_values(run.registration)["promotions"]
    except (OSError, UserError, KeyError):
        return []
    return found if isinstance(found, list) else []


def write_registration(
    run: RunDir, *, title: str, scope: str, version: int | None, promotions: list[dict[str, Any]]
) -> None:
    """Write what the registry says of a run: at once and whole, but not waiting for the disk.

    A crash of the machine may lose a version number, which is then given again; thousands of runs would wait minutes.
    """
    found = {"title": title, "scope": scope, "version": version, "promotions": promotions}
    temporary = run.registration.with_name(f".{run.registration.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(run.registration)
    finally:
        temporary.unlink(missing_ok=True)


FINISHED, UNFINISHED, BUNDLE, DAMAGED = "finished", "unfinished", "bundle", "damaged"
"""A finished run; an interrupted one; an export without its run; a folder with missing files."""

RUN_FILES = frozenset(
    {
        *(path.relative for path in (RunDir.config, RunDir.model_info, RunDir.result, RunDir.metrics, RunDir.log)),
        "checkpoints",
    }
)
"""One of these makes a folder a run's."""


class RunRecord(NamedTuple):
    """One run, in values that JSON has.

    Args:
        folder: of the run, below the folder of all runs.
        status: finished, unfinished, bundle or damaged.
        problem: what is wrong with a damaged one; of another, which exports are missing.
        title: the name that its versions are counted under: [category/]name, or the network's where it has none.
        scope: what its aliases are of: [category/]name, empty for runs that have neither.
        name: as the user called it.
        category: as the user called it.
        model: what model= was.
        architecture: of the network.
        data: folder, file or kind of its data.
        seed: of the run.
        num_classes: that it knows.
        classes: digest of their names, in order.
        monitor: metric that chose the weights, and its value.
        split: that it was scored on.
        metrics: of that split, without those of single classes.
        verdict: on its targets: ready, not ready or too few test images; empty where there is none.
        verdict_words: the grounds of the verdict.
        has_own_targets: whether the verdict is on targets that were set, not on the default one.
        best_epoch: of its weights.
        num_epochs: that were trained.
        train_seconds: that these took.
        size_bytes: of model.onnx.
        started: seconds since 1970.
        exported_at: seconds since 1970; None where nothing was exported.
        unproven: exported files whose parity was not shown, with the reason.
        version: counted under its title; None until the registry has seen it finished.
        promotions: all that it ever had.
    """

    folder: str
    status: str
    problem: str = ""
    title: str = ""
    scope: str = ""
    name: str | None = None
    category: str | None = None
    model: str = ""
    architecture: str = ""
    data: str = ""
    seed: int | None = None
    num_classes: int | None = None
    classes: str = ""
    monitor: tuple[str, float] | None = None
    split: str = ""
    metrics: Mapping[str, float] = {}
    verdict: str = ""
    verdict_words: str = ""
    has_own_targets: bool = False
    best_epoch: int | None = None
    num_epochs: int | None = None
    train_seconds: float | None = None
    size_bytes: int | None = None
    started: float = 0.0
    exported_at: float | None = None
    unproven: tuple[str, ...] = ()
    version: int | None = None
    promotions: tuple[Promotion, ...] = ()

    @property
    def version_name(self) -> str:
        """Name and version, as in resnet18:v3; the folder where there is no version."""
        return self.folder if self.version is None else f"{self.title}:v{self.version}"


def read_record(folder: Path, relative: str, names: Collection[str]) -> RunRecord:
    """Read a run folder.

    Args:
        folder: the run's.
        relative: the same, below the folder of all runs.
        names: of what is in it.
    """
    run = RunDir(folder)
    try:
        return _read(RunReader(run), relative, names)
    except OSError as error:
        return _damaged(run, relative, f"{error.filename}: {error.strerror}")
    except DamagedFileError as error:
        return _damaged(run, relative, f"{error.path.name} is {error.found}")
    except (KeyError, TypeError, AttributeError) as error:
        return _damaged(run, relative, f"a file is not what this program writes ({type(error).__name__}: {error})")
    except (ValueError, UserError) as error:
        return _damaged(run, relative, str(error).partition("\n")[0])


def _damaged(run: RunDir, relative: str, problem: str) -> RunRecord:
    known = read_registration(run)._asdict()
    return RunRecord(relative, DAMAGED, problem, started=_started(run.path), **known)


def _read(reader: RunReader, relative: str, names: Collection[str]) -> RunRecord:
    run, info, result = reader.run, reader.info, reader.result
    is_finished, has_config, is_exported = (path.name in names for path in (run.result, run.config, run.model_info))
    if is_finished and not has_config:
        return _damaged(run, relative, f"{run.config.name} is missing")
    lost = [name for name in info.get("files", {}) if name.partition("/")[0] not in names]
    problem = f"{', '.join(lost)} missing, which {run.model_info.name} lists" if lost else ""
    # Without another export, which may be large and was deleted, a run is as good as with it.
    if {run.onnx.name, run.labels_mapping.name} & set(lost):
        return _damaged(run, relative, problem)
    training_info = info.get("training_info", {})
    config = training_info.get("config") or reader.config
    # An evaluation may have been repeated since; result.json stays what training gave.
    split, metrics = (result.get("split", ""), result["metrics"]) if is_finished else ("", {})
    verdict = result.get("verdict") or {}
    if reader.scores and reader.scores["split"] == split:
        found = reader.scores["metrics"].items()
        metrics = {key: figure["value"] for key, figure in found if figure["value"] is not None}
        verdict = reader.scores.get("verdict") or verdict
    best = training_info.get("best_metric")
    model, data = config.get("model") or {}, config.get("data") or {}
    name, category = config.get("name"), config.get("category")
    scope = "/".join(part for part in (category, name) if part)
    kind = model.get("name") or model.get("type") or reader.architecture
    known = read_registration(run)
    class_names = info.get("class_names")
    return RunRecord(
        folder=relative,
        status=FINISHED if is_finished else UNFINISHED if has_config else BUNDLE,
        title=scope if name else "/".join(part for part in (category, kind) if part) or "run",
        scope=scope,
        name=name,
        category=category,
        model=kind,
        architecture=reader.architecture or kind,
        data=str(data.get("root") or data.get("name") or data.get("type") or ""),
        seed=config.get("seed"),
        num_classes=None if class_names is None else len(class_names),
        classes="" if class_names is None else _digest(class_names),
        monitor=None if best is None else (str(best["name"]), float(best["value"])),
        split=split,
        metrics={key: float(value) for key, value in metrics.items() if OF_CLASS not in key},
        verdict=verdict.get("status", ""),
        verdict_words=verdict.get("words", ""),
        has_own_targets=not verdict.get("is_default_target", True),
        best_epoch=result.get("best_epoch"),
        num_epochs=len(reader.epochs) if run.metrics.name in names else None,
        train_seconds=reader.train_seconds,
        problem=problem,
        size_bytes=run.onnx.stat().st_size if run.onnx.name in names else None,
        started=_started(run.path),
        exported_at=run.model_info.stat().st_mtime if is_exported else None,
        unproven=(
            *_unproven({name: facts for name, facts in info.get("files", {}).items() if name not in lost}),
            *(f"{name} (withheld: {reason})" for name, reason in info.get("withheld", {}).items()),
        ),
        version=known.version,
        promotions=known.promotions,
    )


def _unproven(files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = []
    for name, description in files.items():
        gate = description.get("gate")
        if gate is not None and not gate.get("passed"):
            found.append(f"{name} (lost {gate.get('accuracy_drop_points', 0):.2f} points of accuracy)")
        elif gate is None and description.get("parity") is None:
            found.append(f"{name} ({description.get('unverified', 'not compared with PyTorch')})")
    return found


def _started(folder: Path) -> float:
    try:
        return (
            datetime.strptime(f"{folder.parent.name} {folder.name[:8]}", "%Y-%m-%d %H-%M-%S").astimezone().timestamp()
        )
    except ValueError:
        # A folder that was given another name keeps the time of its oldest file.
        with suppress(OSError):  # it is being deleted
            return min((entry.stat().st_mtime for entry in os.scandir(folder)), default=0.0)
        return 0.0


def _digest(class_names: list[str]) -> str:
    return hashlib.blake2b(json.dumps(class_names).encode(), digest_size=8).hexdigest()
