"""`registry`, `registry list` and `registry show`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from classifier_training.core.display import align
from classifier_training.core.errors import UserError, enumerate_words, nearest, plural
from classifier_training.core.metrics import goal_of
from classifier_training.core.processes import is_held
from classifier_training.core.register import Word, register
from classifier_training.core.run_dir import RunDir
from classifier_training.core.run_reader import RunReader
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.core.types import epoch_name
from classifier_training.registry.mlflow_cache import list_models
from classifier_training.registry.mlflow_models import PREFIX
from classifier_training.registry.record import (
    BUNDLE,
    DAMAGED,
    FINISHED,
    UNFINISHED,
    RunRecord,
    read_promotions,
    read_record,
)
from classifier_training.registry.references import present_holders
from classifier_training.registry.runs import DEFAULT_OUTPUT, find_run
from classifier_training.registry.scan import Registry

COLUMNS = ("run", "alias", "model", "data", "", "split", "epochs", "MiB", "started", "folder")
FIGURES = frozenset({"epochs", "MiB"})

Status = Literal["finished", "running", "failed", "damaged", "bundle", "all"]
Sort = Literal["newest", "oldest", "best", "worst", "name", "smallest"]


@dataclass(frozen=True)
class ListResult:
    """Runs, and what to show of them.

    Args:
        records: those that match.
        lines: a row each, and the damaged runs.
    """

    records: tuple[RunRecord, ...]
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


@register(
    group="verb",
    name="registry",
    examples=(
        "registry list",
        "registry show latest",
        "registry promote latest production",
    ),
)
def registry() -> ListResult:
    """List, show, stop, promote, export, report and clean up runs. Without a sub-verb it lists the newest."""
    return list_runs()


@register(
    group="registry",
    name="list",
    examples=(
        "registry list",
        "registry list model=resnet sort=best",
        "registry list mlflow:rooms",
    ),
)
def list_runs(
    *,
    output: Annotated[TypedPath, Word()] = DEFAULT_OUTPUT,
    model: str | None = None,
    data: str | None = None,
    name: str | None = None,
    category: str | None = None,
    alias: str | None = None,
    status: Status = "finished",
    metric: str = "balanced_accuracy",
    at_least: float | None = None,
    at_most: float | None = None,
    sort: Sort = "newest",
    limit: Annotated[int, Field(ge=0)] = 50,
) -> ListResult:
    """List runs, with versions and aliases.

    Args:
        output: folder of all runs; or mlflow:NAME, the versions of a model on an MLflow server, and mlflow: for its
            models.
        model: a part of the model's name.
        data: a part of the data's folder or kind.
        name: that the runs are called by, or their title in this list.
        category: that the runs are in.
        alias: that the runs hold now, such as production.
        status: finished, running, failed (begun, and neither finished nor running), damaged, bundle, or all.
        metric: shown, sorted by and bounded; of the split that the run was scored on.
        at_least: runs whose metric is this or more.
        at_most: runs whose metric is this or less.
        sort: order of the rows.
        limit: rows shown; 0 shows all.
    """
    if output.startswith(PREFIX):
        return ListResult((), tuple(list_models(output, limit=limit)))
    runs = Registry.open(Path(output).expanduser())
    records = list(runs.runs.values())
    _check_metric(metric, records)
    holders = present_holders(records)
    aliases: dict[str, list[str]] = {}
    for (_, held), record in holders.items():
        aliases.setdefault(record.folder, []).append(held)
    chosen = [
        record
        for record in records
        if (model is None or model.casefold() in f"{record.model} {record.architecture}".casefold())
        and (data is None or data.casefold() in record.data.casefold())
        and (name is None or name in (record.name, record.title, record.scope))
        and (category is None or category == record.category)
        and (alias is None or alias in aliases.get(record.folder, ()))
        and _bounded(record, metric, at_least, at_most)
    ]
    # Only an unfinished run can be running; its lock says whether it is.
    states = {record.folder: _state(runs, record) for record in chosen if record.status == UNFINISHED}
    chosen = [record for record in chosen if status in ("all", states.get(record.folder, record.status))]
    chosen.sort(key=_order(sort, metric))
    shown = chosen[: limit or None]
    header = tuple(column or metric for column in COLUMNS)
    rows = [
        _row(record, metric, aliases.get(record.folder, []), states.get(record.folder, record.status))
        for record in shown
    ]
    lines = align(header, rows, right=FIGURES | {metric}) if rows else ["no run matches"]
    if len(shown) < len(chosen):
        lines.append(f"… and {len(chosen) - len(shown):,} more: limit=0 shows all")
    damaged = [record for record in records if record.status == DAMAGED]
    if status != DAMAGED:
        lines += [f"left out {runs.folder(record)}: {record.problem}" for record in damaged[:5]]
        lines += [f"… and {len(damaged) - 5} more damaged: status=damaged lists them"] if len(damaged) > 5 else []
    return ListResult(tuple(chosen), tuple(lines))


@dataclass(frozen=True)
class ShowResult:
    """Result of `registry show`.

    Args:
        record: in short.
        facts: as lines of name and value.
    """

    record: RunRecord
    facts: dict[str, str]

    def __str__(self) -> str:
        width = max(map(len, self.facts))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.facts.items())


@register(
    group="registry",
    name="show",
    examples=("registry show latest",),
)
def show(*, run: Annotated[RunText, Word()], output: TypedPath = DEFAULT_OUTPUT) -> ShowResult:
    """Show one run: configuration in short, all its metrics, its files and its promotions.

    Args:
        run: run folder, latest, best, NAME, NAME:v2 or an alias.
        output: folder of all runs.
    """
    folder = find_run(run, output=output).path
    record = find_record(folder, output)
    facts = {
        "run": record.version_name,
        "folder": str(folder),
        "status": _live_state(record.status, folder),
        "problem": record.problem,
        "model": f"{record.model} ({record.architecture})",
        "data": record.data,
        "classes": "" if record.num_classes is None else str(record.num_classes),
        "seed": "" if record.seed is None else str(record.seed),
        "started": _when(record.started),
        "trained": _training(record),
        "monitored": "" if record.monitor is None else f"{record.monitor[0]} {record.monitor[1]:.4f}",
        "verdict": f"{record.verdict}: {record.verdict_words}" if record.verdict else "",
        **{f"{record.split}/{name}": f"{value:.4f}" for name, value in record.metrics.items()},
    }
    info = _described(RunDir(folder))
    for name, description in info.get("files", {}).items():
        facts[name] = _proof(description)
    for name, reason in info.get("withheld", {}).items():
        facts[name] = f"WITHHELD: {reason}"
    for item in read_promotions(RunDir(folder)):
        facts[f"promoted {item['number']}"] = (
            f"{item['alias']} on {item['promoted_at']}{', forced' if item.get('forced') else ''}"
        )
    return ShowResult(record, {name: value for name, value in facts.items() if value})


def find_record(folder: Path, output: str) -> RunRecord:
    """Return what is known of a run folder: out of the registry, or read by itself where it lies elsewhere.

    Raises:
        UserError: when it is no run folder.
    """
    root = Path(output).expanduser()
    if root.is_dir() and folder.resolve().is_relative_to(root.resolve()):
        relative = folder.resolve().relative_to(root.resolve()).as_posix()
        found = Registry.open(root).runs.get(relative)
        if found is not None:
            return found
    record = read_record(folder, folder.name, {entry.name for entry in folder.iterdir()})
    if record.status == BUNDLE and record.exported_at is None:
        raise UserError(f"{folder}: no run folder", "a folder with config.yaml and model_info.json", "run=latest")
    return record


def _check_metric(metric: str, records: list[RunRecord]) -> None:
    known = {name for record in records for name in record.metrics}
    if known and metric not in known:
        close = nearest(metric.rpartition("/")[2], known)
        raise UserError(
            f"metric={metric}: no run has it",
            f"one of {enumerate_words(sorted(known))}",
            f"metric={close[0] if close else min(known)}",
        )


def _bounded(record: RunRecord, metric: str, at_least: float | None, at_most: float | None) -> bool:
    if at_least is None and at_most is None:
        return True
    value = record.metrics.get(metric)
    return value is not None and (at_least is None or value >= at_least) and (at_most is None or value <= at_most)


def _order(sort: Sort, metric: str) -> Any:
    sign = 1 if goal_of(f"any/{metric}") == "min" else -1

    def score(record: RunRecord) -> tuple[bool, float]:
        value = record.metrics.get(metric)
        return value is None, 0.0 if value is None else sign * value * (-1 if sort == "worst" else 1)

    return {
        "newest": lambda record: -record.started,
        "oldest": lambda record: record.started,
        "best": score,
        "worst": score,
        "name": lambda record: (record.title, record.version or 0, record.folder),
        "smallest": lambda record: (record.size_bytes is None, record.size_bytes or 0),
    }[sort]


def _state(runs: Registry, record: RunRecord) -> str:
    return _live_state(record.status, runs.folder(record))


def _live_state(status: str, folder: Path) -> str:
    if status != UNFINISHED:
        return status
    return "running" if is_held(RunDir(folder).lock) else "failed"


def _row(record: RunRecord, metric: str, aliases: list[str], state: str) -> tuple[str, ...]:
    value = record.metrics.get(metric)
    return (
        record.version_name if record.version is not None else f"({state})",
        ",".join(aliases) or "-",
        record.model or "-",
        Path(record.data).name or "-",
        "-" if value is None else f"{value:.4f}",
        record.split or "-",
        "-" if record.num_epochs is None else str(record.num_epochs),
        "-" if record.size_bytes is None else f"{record.size_bytes / 2**20:.1f}",
        _when(record.started),
        record.folder if state in (FINISHED, "running", "failed") else f"{record.folder} ({record.problem or state})",
    )


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _training(record: RunRecord) -> str:
    if record.num_epochs is None:
        return ""
    seconds = "" if record.train_seconds is None else f" in {record.train_seconds:,.0f} s"
    best = "" if record.best_epoch is None else f", weights of {epoch_name(record.best_epoch)}"
    return f"{plural(record.num_epochs, 'epoch')}{seconds}{best}"


def _described(run: RunDir) -> dict[str, Any]:
    try:
        return RunReader(run).info
    except (OSError, UserError):
        # A damaged one has said so.
        return {}


def _proof(description: dict[str, Any]) -> str:
    gate, parity = description.get("gate"), description.get("parity")
    if gate is not None:
        return (
            f"{description['quantization']}: top-1 accuracy {gate['accuracy']:.4f} against "
            f"{gate['float_accuracy']:.4f}, gate {'passed' if gate['passed'] else 'FAILED'}"
        )
    if parity is None:
        return f"UNVERIFIED: {description.get('unverified', 'not compared')}"
    return (
        f"{description['format']}: agrees with {parity['reference']} on {parity['top1_agreement']:.2%} of "
        f"{parity['num_images']} images, probabilities within {parity['max_probability_difference']:.1e}"
    )
