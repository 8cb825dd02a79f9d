"""registry promote, publish, export, cleanup, report and stop."""

from __future__ import annotations

import dataclasses
import logging
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from classifier_training.core.display import align
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.register import Choice, Word, entries, register
from classifier_training.core.run_dir import RunDir, make_folder, write_json, write_text
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.export.job import Quantization
from classifier_training.registry.cleanup import Removal, clean_up
from classifier_training.registry.leaders import find_leaders, leaders_markdown
from classifier_training.registry.mlflow_models import PREFIX, ModelReference
from classifier_training.registry.promotion import Check, Gate, promote
from classifier_training.registry.publishing import mlflow
from classifier_training.registry.record import RunRecord
from classifier_training.registry.references import BEST, LATEST, VERSION
from classifier_training.registry.runs import DEFAULT_OUTPUT, find_run, find_running
from classifier_training.registry.scan import Registry
from classifier_training.workflows.registering.registry import find_record
from classifier_training.workflows.registering.rollout import read_trial
from classifier_training.workflows.serving.export import export

log = logging.getLogger(__name__)

ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class PromoteResult:
    """A promotion.

    Args:
        record: the run that holds the alias now.
        alias: which.
        word: what stands for the run now, in every verb.
        former: the run that held it.
        checks: of the gate.
        published: message on the publication in another registry; empty without one.
    """

    record: RunRecord
    alias: str
    word: str
    former: RunRecord | None
    checks: tuple[Check, ...]
    published: str

    def __str__(self) -> str:
        others = self.former is not None and self.former.folder != self.record.folder
        instead = f", instead of {self.former.version_name}" if self.former is not None and others else ""
        checks = [f"  {check.mark}  {check.words}" for check in self.checks]
        lines = [f"{self.record.version_name} is {self.word} now{instead}", *checks]
        lines += [self.published] if self.published else []
        return "\n".join([*lines, f"\nnext:\n  {command('predict')} {setting('run', self.word)} source=…"])


@register(
    group="registry",
    name="promote",
    examples=("registry promote latest production",),
)
def promote_run(
    *,
    run: Annotated[RunText, Word()],
    alias: Annotated[str, Word()],
    output: TypedPath = DEFAULT_OUTPUT,
    metric: str = "balanced_accuracy",
    at_least: float | None = None,
    force: bool = False,
    rollout: TypedPath | None = None,
    publish: Annotated[Callable[..., Any] | None, Choice(None)] = None,
) -> PromoteResult:
    """Give a run an alias such as production, which run=production then stands for in every verb.

    The gate: a finished run; every exported file verified against PyTorch; no target missed that was set with target.…;
    the classes of the present holder; and a metric at least as good as the holder's, or as the bound that is given.
    The verdict on the default target is said, and stops nothing.

    Args:
        run: run folder, latest, best, NAME, NAME:v2 or an alias.
        alias: a word, such as production or staging.
        output: folder of all runs.
        metric: compared with the bound; of the split that the run was scored on.
        at_least: what the metric must reach instead of the holder's; for a loss, what it must not pass.
        force: promote even if a check fails; the record says so.
        rollout: folder that serve recorded to, with shadow=RUN or canary=RUN; the last `registry verdict` on it must
            be to promote this run instead of the present holder.
        publish: also register the run in another registry, mlflow or wandb; there the gate compares it with the holder
            there. A run of an MLflow server, mlflow:NAME/3, is promoted on that server alone.
    """
    if not ALIAS.fullmatch(alias) or alias in (LATEST, BEST) or VERSION.fullmatch(alias):
        raise UserError(
            f"alias={alias}: cannot be an alias",
            f"letters, digits, - and _, beginning with a letter; {LATEST}, {BEST} and v1, v2, … have a meaning",
            "alias=production",
        )
    root, gate = Path(output).expanduser(), Gate(metric=metric, bound=at_least, force=force)
    folder = find_run(run, output=output).path.resolve()
    if rollout is not None:
        gate = dataclasses.replace(gate, rollout=read_trial(Path(rollout).expanduser(), RunDir(folder), root))
    if run.startswith(PREFIX):
        return _promote_on_server(ModelReference.parse(run), RunDir(folder), alias, gate, publish or mlflow)
    if not root.is_dir() or not folder.is_relative_to(root.resolve()):
        raise UserError(
            f"run={run}: {folder} is not below {root.absolute()}",
            "a run of the registry's folder: aliases are looked for there",
            "output=FOLDER that the run is in",
        )
    registry = Registry.open(root)
    relative = folder.relative_to(root.resolve()).as_posix()
    if relative not in registry.runs:
        raise UserError(f"{folder}: no run folder", "a folder with config.yaml and model_info.json", "run=latest")
    try:
        record, former, checks = promote(registry, relative, alias, gate)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be written ({error.strerror})",
            "a run folder that can be written to: the promotion is recorded there",
            "fix the permissions, or work on a copy: output=…",
        ) from error
    # The holder in another registry is not what it was compared with in production.
    gate = dataclasses.replace(gate, rollout=None)
    published = "" if publish is None else str(publish(RunDir(folder), record, alias, gate))
    word = alias if not record.scope else f"{record.scope}:{alias}"
    return PromoteResult(record, alias, word, former, tuple(checks), published)


def _promote_on_server(
    reference: ModelReference, run: RunDir, alias: str, gate: Gate, publish: Callable[..., Any]
) -> PromoteResult:
    """Promote a version of an MLflow server there; no run folder records it."""
    record = find_record(run.path, str(run.path.parent))._replace(title=reference.name)
    published = str(publish(run, record, alias, gate))
    shown = record._replace(folder=str(reference), version=None)
    return PromoteResult(shown, alias, f"{PREFIX}{reference.name}@{alias}", None, (), published)


@dataclass(frozen=True)
class PublishResult:
    """Result of `registry publish`.

    Args:
        published: message on what is there now.
    """

    published: str

    def __str__(self) -> str:
        return self.published


@register(
    group="registry",
    name="publish",
    examples=("registry publish latest publish.model_name=rooms",),
)
def publish_run(
    *,
    run: Annotated[RunText, Word()] = "latest",
    output: TypedPath = DEFAULT_OUTPUT,
    publish: Annotated[Callable[..., Any], Choice("mlflow")],
) -> PublishResult:
    """Register a finished run in a team's registry, as a version of a model, without an alias.

    The same run again is the same version. Metrics that training could not send are sent, too.

    Args:
        run: run folder, latest, best, NAME, NAME:v2 or an alias.
        output: folder of all runs.
        publish: which registry: mlflow or wandb.
    """
    folder = find_run(run, output=output)
    return PublishResult(str(publish(folder, find_record(folder.path, output), None, Gate())))


SCHEMES: tuple[Quantization, ...] = ("fp16", "int8")


@dataclass(frozen=True)
class ExportAllResult:
    """What was written.

    Args:
        folder: where to.
        lines: a sentence on each file.
        failed: why a format was not written, by its name.
    """

    folder: Path
    lines: tuple[str, ...]
    failed: dict[str, str]

    @property
    def exit_code(self) -> int:
        """0, or 3 when a format could not be written."""
        return 3 if self.failed else 0

    def __str__(self) -> str:
        failed = [f"not written: {name}: {reason}" for name, reason in self.failed.items()]
        return "\n".join([*self.lines, *failed, f"written to {self.folder}"])


@register(
    group="registry",
    name="export",
    examples=("registry export latest folder=exports",),
)
def export_all(
    *,
    run: Annotated[RunText, Word()] = "latest",
    output: TypedPath = DEFAULT_OUTPUT,
    folder: TypedPath | None = None,
    images: TypedPath | None = None,
    max_drop: Annotated[float, Field(ge=0, le=100)] = 1.0,
) -> ExportAllResult:
    """Export a run in every format, and quantized, each compared with PyTorch; one that fails does not stop the others.

    Args:
        run: run folder, latest, best, NAME, NAME:v2 or an alias.
        output: folder of all runs.
        folder: folder for the files; the run's own when left out.
        images: folder of the run's images, if they have moved since.
        max_drop: most points of top-1 accuracy on validation that quantization may cost.
    """
    run_dir = find_run(run, output=output)
    lines: list[str] = []
    failed: dict[str, str] = {}
    formats = {item.name: item.target() for item in entries("format")}

    def write(name: str, written: str, scheme: Quantization) -> None:
        try:
            result = export(
                run=str(run_dir.path),
                format={written: formats[written]},
                quantization=scheme,
                max_drop=1.0 if scheme == "none" else max_drop,
                images=images,
                output=folder,
            )
        except UserError as error:
            failed[name] = error.came
        except Exception as error:  # converters fail with whatever exception lies next
            failed[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            log.debug("%s failed", name, exc_info=True)
        else:
            lines.extend(line for line in result.lines if scheme == "none" or scheme in line.partition(":")[0])
            return
        log.warning("%s: %s", name, failed[name])

    # ONNX before its quantized copies, which are made of it.
    for name in sorted(formats, key=lambda name: name != "onnx"):
        write(name, name, "none")
    for scheme in SCHEMES if "onnx" not in failed else ():
        write(scheme, "onnx", scheme)
    if not lines:
        raise UserError(
            f"{run_dir.path}: no format could be written; the first reason: {next(iter(failed.values()))}",
            "a finished run and its images",
            "images=FOLDER if they have moved since",
        )
    return ExportAllResult(Path(folder).expanduser() if folder else run_dir.path, tuple(lines), failed)


@dataclass(frozen=True)
class CleanupResult:
    """Result of `registry cleanup`.

    Args:
        removals: runs and logs.
        spared: what was kept although it matches, and why.
        freed_bytes: freed disk space; None for a dry run.
    """

    removals: tuple[Removal, ...]
    spared: tuple[str, ...]
    freed_bytes: int | None

    def __str__(self) -> str:
        total = sum(removal.size_bytes for removal in self.removals)
        rows = [(f"{one.size_bytes / 2**20:.1f}", one.reason, str(one.path)) for one in self.removals]
        lines = align(("MiB", "why", "what"), rows, right=frozenset({"MiB"})) if rows else ["nothing to clean up"]
        lines += [f"left alone: {words}" for words in self.spared]
        if self.freed_bytes is not None:
            lines.append(f"freed {self.freed_bytes / 2**20:.1f} MiB")
        elif rows:
            lines.append(f"{len(rows)} would be removed, {total / 2**20:.1f} MiB; nothing was removed: add apply=true")
        return "\n".join(lines)


@register(
    group="registry",
    name="cleanup",
    examples=(
        "registry cleanup --failed",
        "registry cleanup keep=3 --apply",
    ),
)
def cleanup(
    *,
    output: Annotated[TypedPath, Word()] = DEFAULT_OUTPUT,
    failed: bool = False,
    keep: Annotated[int, Field(ge=1)] | None = None,
    log_days: Annotated[float, Field(ge=0)] | None = None,
    apply: bool = False,
) -> CleanupResult:
    """Remove failed runs, old versions and old logs; never a promoted run, nor one that a process works in.

    It is a dry run that lists what would be removed, unless apply=true. Links are removed, not their targets.

    Args:
        output: folder of all runs.
        failed: remove runs that did not finish, and damaged ones; those that wrote in the last hour stay.
        keep: remove the finished runs of each name, model and data set but for so many of the newest.
        log_days: remove train.log, tensorboard/ and wandb/ of finished runs, and the logs of finished searches, when
            they are older than so many days.
        apply: remove them; else only list them.
    """
    if not failed and keep is None and log_days is None:
        raise UserError(
            "registry cleanup: nothing to remove is named",
            "one or more of failed=true, keep=3, log_days=7",
            "classifier-training registry cleanup failed=true   (a dry run, until apply=true is added)",
        )
    registry = Registry.open(Path(output).expanduser())
    removals, spared, freed = clean_up(registry, failed=failed, keep=keep, log_days=log_days, apply=apply)
    return CleanupResult(tuple(removals), tuple(spared), freed if apply else None)


@dataclass(frozen=True)
class ReportResult:
    """A report.

    Args:
        text: the page.
        files: JSON and Markdown.
    """

    text: str
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.text}\nwritten to {' and '.join(map(str, self.files))}"


@register(
    group="registry",
    name="report",
    examples=("registry report",),
)
def report(
    *,
    output: Annotated[TypedPath, Word()] = DEFAULT_OUTPUT,
    metric: str = "balanced_accuracy",
    folder: TypedPath | None = None,
) -> ReportResult:
    """Write the best model of each data set, and of each kind of model on it: model_selection.json and .md.

    Args:
        output: folder of all runs.
        metric: by which runs are ranked; of the split that they were scored on.
        folder: folder for the report; that of all runs when left out.
    """
    root = Path(output).expanduser()
    registry = Registry.open(root)
    found = find_leaders(registry, metric)
    if not found["tasks"]:
        known = sorted({name for record in registry.runs.values() for name in record.metrics})
        raise UserError(
            f"metric={metric}: no finished run below {root} has exported a model and has this metric",
            f"one of {enumerate_words(known)}" if known else "a finished run",
            f"metric={known[0]}" if known else "classifier-training train",
        )
    target = Path(folder).expanduser() if folder else root
    make_folder(target)
    files = target / "model_selection.json", target / "model_selection.md"
    text = leaders_markdown(found)
    write_json(files[0], found)
    write_text(files[1], text)
    return ReportResult(text, files)


@dataclass(frozen=True)
class StopResult:
    """A run that was asked to stop.

    Args:
        run_dir: the run.
    """

    run_dir: RunDir

    def __str__(self) -> str:
        return (
            f"asked to stop: {self.run_dir.path}; training ends after the present epoch, then come export and report\n"
            f"to take it back: rm {shlex.quote(str(self.run_dir.stop_request))}"
        )


@register(
    group="registry",
    name="stop",
    examples=("registry stop latest",),
)
def stop(*, run: Annotated[RunText, Word()] = "latest", output: TypedPath = DEFAULT_OUTPUT) -> StopResult:
    """End a training after its present epoch; the run is scored, exported and reported as after early stopping.

    Resumed, it trains the rest. An empty file stop.request in the run folder does the same. Models that are fitted at
    once end by themselves.

    Args:
        run: run folder; or latest, the newest run in training.
        output: folder of all runs.
    """
    found = find_running(run, output=output)
    try:
        found.stop_request.touch()
    except OSError as error:
        raise UserError(
            f"{found.stop_request}: cannot be written ({error.strerror})",
            "a run folder that can be written to: the training looks for that file",
            "stop it as the user who trains it, or by Ctrl-C in its terminal",
        ) from error
    return StopResult(found)
