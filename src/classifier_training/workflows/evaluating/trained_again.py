"""A run that was trained again against the run before, on the held-out images of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.display import align
from classifier_training.core.errors import enumerate_words, plural, shown
from classifier_training.core.run_dir import write_json
from classifier_training.core.run_reader import RunReader
from classifier_training.core.types import TEST
from classifier_training.data.corrections import saved_corrections, standing
from classifier_training.evaluation import report
from classifier_training.evaluation.comparison import SIGNIFICANCE, Comparison, compare, equal
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.report import Html
from classifier_training.registry.promotion import Check
from classifier_training.workflows.evaluating.run_model import open_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.report import Cell

MARGIN = 0.01
"""By how much the balanced accuracy of the old classes may fall where classes are new, some of which may look like
them. Without new classes it may not fall."""

COLUMNS = ("class", "n", "before", "after", "p")
SECTION = "Trained again"


@dataclass(frozen=True, kw_only=True)
class TrainedAgain:
    """A run against the run before it.

    Args:
        before: folder of that run.
        split: of the images.
        comparison: on images of the old classes that neither was trained on; None where there are none.
        new_classes: images and recall of each class that the run before does not know.
    """

    before: str
    split: str
    comparison: Comparison | None
    new_classes: dict[str, tuple[int, float]]

    @property
    def worse(self) -> list[str]:
        """Old classes with a recall that is significantly lower than before."""
        return [item.name for item in (self.comparison.classes if self.comparison else ()) if item.verdict == "lost"]

    @property
    def checks(self) -> tuple[Check, ...]:
        """What a promotion asks, besides the other conditions of the gate."""
        found = self.comparison
        if found is None:
            words = f"no held-out image of {self.before} is there to compare on"
            return (Check(name="held-out images", passed=False, words=words),)
        after, before = found.balanced_accuracy
        margin = MARGIN if self.new_classes else 0.0
        allowed = f", which may be {margin:g} lower with new classes" if margin else ""
        passed = after >= before - margin - 1e-9 and found.p_worse >= SIGNIFICANCE
        return (
            Check(
                name="held-out images",
                passed=passed,
                words=f"{self.split}/balanced_accuracy {after:.4f} against {before:.4f} of the run before, on the same "
                f"{plural(found.num_images, 'image')} of its classes{allowed} (p of being worse {found.p_worse:.2g})",
            ),
            Check(
                name="old classes",
                passed=not self.worse,
                words=f"significantly worse than before: {enumerate_words(map(shown, self.worse))}"
                if self.worse
                else f"none of the {len(found.classes)} old classes is significantly worse than before",
            ),
        )

    @property
    def rows(self) -> list[tuple[str, int, str, str, str]]:
        """Class, images, recall before and after, and p of the paired exact test, adjusted for all classes."""
        old = self.comparison.classes if self.comparison else ()
        known = [
            (shown(item.name), item.support, f"{item.recall_against:.4f}", f"{item.recall:.4f}", f"{item.p_value:.2g}")
            for item in old
        ]
        return known + [
            (shown(name), number, "new", f"{recall:.4f}", "") for name, (number, recall) in self.new_classes.items()
        ]

    @property
    def caution(self) -> str:
        """What the numbers do not tell; empty on a test split."""
        return "" if self.split == TEST else "there is no test split: these images chose the weights"

    @property
    def words(self) -> list[str]:
        """Say what changed, in a table by class and a line for each check."""
        cells = [tuple(map(str, row)) for row in self.rows]
        return [
            f"before and after ({self.before}), on the held-out images of both:",
            *(f"  {line}" for line in align(COLUMNS, cells, right=frozenset(COLUMNS[1:]))),
            *(f"  {check.words}" for check in self.checks),
            *([f"  {self.caution}"] if self.caution else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {
            "before": self.before,
            "split": self.split,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "new_classes": {
                name: {"support": number, "recall": recall} for name, (number, recall) in self.new_classes.items()
            },
            "worse": self.worse,
            "rows": [dict(zip(COLUMNS, row, strict=True)) for row in self.rows],
            "caution": self.caution,
            "checks": {check.name: {"passed": check.passed, "words": check.words} for check in self.checks},
        }


def compare_again(
    run_dir: RunDir, before: RunDir, scored: SplitResult, table: SplitTable, class_names: Sequence[str]
) -> TrainedAgain:
    """Have the run before predict the same held-out images, and write evaluation/trained_again.json.

    Old classes are compared by McNemar's exact test, adjusted after Holm for their number, or by the exact test over
    groups where images come in groups. Images of new classes are counted apart, and so are none that a correction moved
    out of the training split of the run before.

    Args:
        run_dir: the new run.
        before: the run that it started from.
        scored: predictions of the new run.
        table: samples of the scored split.
        class_names: of the new run [K].

    Raises:
        UserError: when the model of the run before cannot be opened.
    """
    predictor = open_model(str(before.path)).predictor
    names, old = list(class_names), set(predictor.class_names)
    moved = {line.path for line in standing(saved_corrections(run_dir)).values() if line.action == "move"}
    paths = [table.paths[row] for row in scored.indices]
    is_right = scored.predicted == scored.targets
    is_known = np.isin(scored.targets, [number for number, name in enumerate(names) if name in old])
    # A correction names an image by the end of its path; all ends are looked up, since both may be many.
    ends = ((path[place + 1 :] for place, letter in enumerate(path) if letter == "/") for path in paths)
    is_fair = np.array([moved.isdisjoint(own) for own in ends], dtype=bool)
    rows = np.flatnonzero(is_known & is_fair)
    predicted = [
        None if output.logits is None else predictor.class_names[int(output.logits.argmax())]
        for output in predictor.raw_outputs([paths[row] for row in rows])
    ]
    rows = rows[np.array([name is not None for name in predicted], dtype=bool)]
    comparison = None
    if len(rows):
        targets = scored.targets[rows]
        theirs = [name for name in predicted if name is not None]
        right_before = equal(theirs, [names[number] for number in targets])
        groups = Groups.of([table.groups[index] for index in scored.indices[rows]])
        comparison = compare(targets, is_right[rows], right_before, names, groups)
    new = {}
    for number, name in enumerate(names):
        own = scored.targets == number
        if name not in old and own.any():
            new[name] = (int(own.sum()), float(is_right[own].mean()))
    found = TrainedAgain(before=str(before.path), split=scored.split, comparison=comparison, new_classes=new)
    write_json(run_dir.trained_again, {"schema": 1, "run": str(run_dir.path.absolute()), **found.to_dict()})
    return found


def again_section(run_dir: RunDir) -> Html:
    """Return the part of a run's page that compares it with the run before; empty where it was not trained again."""
    found = RunReader(run_dir).trained_again
    if not found:
        return Html("")
    rows: list[Sequence[Cell]] = [tuple(row[name] for name in COLUMNS) for row in found["rows"]]
    kinds = {True: "good", False: "warning"}
    return report.section(
        SECTION,
        report.paragraph(f"Against {found['before']}, on the {found['split']} images of both:"),
        report.table(COLUMNS, rows),
        *(
            report.card(
                kinds[check["passed"]],
                name.capitalize(),
                check["words"],
                "",
                badge="passed" if check["passed"] else "not passed",
            )
            for name, check in found["checks"].items()
        ),
        report.paragraph(
            "before and after: recall of each class. p: paired exact test (McNemar), adjusted for the number of "
            f"classes (Holm). {found['caution']}"
        ),
    )
