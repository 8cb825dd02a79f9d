"""`registry report`: the best model of each task, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.register import register
from classifier_training.core.run_dir import make_folder, write_json, write_text
from classifier_training.registry.leaders import find_leaders, leaders_markdown
from classifier_training.registry.runs import DEFAULT_OUTPUT
from classifier_training.registry.scan import Registry


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


@register(group="registry", name="report")
def report(
    *, output: str = DEFAULT_OUTPUT, metric: str = "balanced_accuracy", folder: str | None = None
) -> ReportResult:
    """Write the best model of each data set, and of each kind of model on it: model_selection.json and .md.

    Args:
        output: folder of all runs.
        metric: figure that decides, of the split that the runs were scored on.
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
