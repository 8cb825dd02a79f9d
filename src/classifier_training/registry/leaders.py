"""The best model of each task: what a program that serves several tasks loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classifier_training.core.display import markdown
from classifier_training.core.metrics import goal_of
from classifier_training.core.run_dir import RunDir
from classifier_training.registry.record import DAMAGED, FINISHED, RunRecord
from classifier_training.registry.references import present_holders

if TYPE_CHECKING:
    from classifier_training.registry.scan import Registry

Task = tuple[str, str, str]
"""Data, digest of the class names, split: runs that agree in them can be compared."""


def find_leaders(registry: Registry, metric: str) -> dict[str, Any]:
    """Return the best finished run of each task, and the best of each of its models.

    A task is a data set with its classes and the split that the runs were scored on.

    Args:
        registry: of all runs.
        metric: what decides.

    Returns:
        Values that JSON has: the metric, the tasks, the present holders of aliases, and what was left out.
    """
    tasks: dict[Task, list[RunRecord]] = {}
    left_out = []
    for record in registry.runs.values():
        if record.status == DAMAGED:
            left_out.append({"folder": record.folder, "reason": record.problem})
        elif record.status == FINISHED and record.exported_at is None:
            left_out.append({"folder": record.folder, "reason": "exported nothing"})
        elif record.status == FINISHED and metric not in record.metrics:
            left_out.append({"folder": record.folder, "reason": f"has no {metric}"})
        elif record.status == FINISHED:
            tasks.setdefault((record.data, record.classes, record.split), []).append(record)
    return {
        "metric": metric,
        "num_runs": sum(map(len, tasks.values())),
        "tasks": [_task(task, records, metric) for task, records in sorted(tasks.items())],
        "aliases": [
            {"scope": scope, "alias": alias, "run": record.version_name, "folder": record.folder}
            for (scope, alias), record in sorted(present_holders(registry.runs.values()).items())
        ],
        "left_out": left_out,
    }


def _task(task: Task, records: list[RunRecord], metric: str) -> dict[str, Any]:
    data, _, split = task
    sign = -1 if goal_of(f"{split}/{metric}") == "min" else 1
    ranked = sorted(records, key=lambda record: sign * record.metrics[metric], reverse=True)
    models: dict[str, RunRecord] = {}
    counts: dict[str, int] = {}
    for record in ranked:
        models.setdefault(record.model, record)
        counts[record.model] = counts.get(record.model, 0) + 1
    return {
        "data": data,
        "num_classes": ranked[0].num_classes,
        "split": split,
        "num_runs": len(ranked),
        "best": _facts(ranked[0]),
        "models": [{**_facts(record), "num_runs": counts[model]} for model, record in models.items()],
    }


def _facts(record: RunRecord) -> dict[str, Any]:
    return {
        "run": record.version_name,
        "model": record.model,
        "architecture": record.architecture,
        "folder": record.folder,
        "model_file": f"{record.folder}/{RunDir.onnx.relative}" if record.size_bytes is not None else None,
        "labels_file": f"{record.folder}/{RunDir.labels_mapping.relative}",
        "metrics": dict(record.metrics),
        "size_bytes": record.size_bytes,
        "train_seconds": record.train_seconds,
        "proven": not record.unproven,
    }


def leaders_markdown(found: dict[str, Any]) -> str:
    """Write the leaders as a Markdown page."""
    metric = found["metric"]
    lines = [
        "# Model selection",
        "",
        f"{found['num_runs']} finished runs; the best of each task by {metric} on the split it was scored on.",
    ]
    for task in found["tasks"]:
        best = task["best"]
        lines += [
            "",
            f"## {task['data'] or 'data without a name'}",
            "",
            f"{task['num_classes']} classes, {task['num_runs']} runs, scored on {task['split']}. Best: "
            f"**{best['run']}** ({best['architecture']}), {metric} {best['metrics'][metric]:.4f}, in `{best['folder']}`"
            + ("." if best["proven"] else "; an export of it was not verified against PyTorch."),
            "",
            *markdown(
                ("model", "best run", metric, "MiB", "training s", "runs"),
                [_row(one, metric) for one in task["models"]],
            ),
        ]
    if found["aliases"]:
        rows = [(one["scope"] or "-", one["alias"], one["run"], one["folder"]) for one in found["aliases"]]
        lines += ["", "## Aliases", "", *markdown(("of", "alias", "run", "folder"), rows)]
    if found["left_out"]:
        reasons = [(one["folder"], one["reason"]) for one in found["left_out"]]
        lines += ["", "## Left out", "", *markdown(("folder", "why"), reasons)]
    return "\n".join(lines) + "\n"


def _row(one: dict[str, Any], metric: str) -> tuple[str, ...]:
    return (
        one["model"],
        one["run"],
        f"{one['metrics'][metric]:.4f}",
        "-" if one["size_bytes"] is None else f"{one['size_bytes'] / 2**20:.1f}",
        "-" if one["train_seconds"] is None else f"{one['train_seconds']:.0f}",
        str(one["num_runs"]),
    )
