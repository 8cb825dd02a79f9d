"""Which predictions a person should look at: confused classes, the worst mistakes, the unsure ones; and their pages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.display import left_to_right, num_columns, shorten
from classifier_training.core.errors import shown
from classifier_training.evaluation.metrics import confusion_counts
from classifier_training.evaluation.report import (
    Html,
    Number,
    Opener,
    Thumbnail,
    escape,
    opener,
    panels,
    paragraph,
    table,
    thumbnail,
    thumbnails,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitResult, SplitTable

MAX_MATRIX = 25
"""Classes up to which the page shows every cell; of more, the most confused pairs."""

MAX_PAIRS = 100
MAX_CAPTION, MAX_HEADING, LONG_HEADING = 40, 32, 8
PER_WRONG_CELL, PER_RIGHT_CELL = 12, 4
MAX_PICTURES = 400
"""On the page, all cells together: it stays under 10 MB, and opens on a phone."""


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were predicted as another.

    Args:
        true: number of the class that they are of.
        predicted: number of the class that was predicted.
        count: how many.
        support: images of the true class.
    """

    true: int
    predicted: int
    count: int
    support: int

    @property
    def share(self) -> float:
        """Of the true class's images."""
        return self.count / self.support


def most_confused(counts: NDArray[np.int64], limit: int | None = None) -> list[Confusion]:
    """Return the confusions that occur, the most frequent first; of equals, the larger share of its class.

    Args:
        counts: images by true class (rows) and predicted class (columns), int64 [K, K].
        limit: of so many; all when left out.
    """
    support = counts.sum(axis=1)
    rows, columns = np.nonzero(counts)
    rows, columns = rows[rows != columns], columns[rows != columns]
    found = counts[rows, columns]
    order = np.lexsort((-found / support[rows], -found))[:limit]
    return [
        Confusion(true, predicted, number, int(support[true]))
        for true, predicted, number in zip(
            rows[order].tolist(), columns[order].tolist(), found[order].tolist(), strict=True
        )
    ]


@dataclass(frozen=True)
class SortedPredictions:
    """The predictions of a split in the orders in which a person looks at them.

    Args:
        result: with calibrated logits where there are such.
        num_classes: K.
    """

    result: SplitResult
    num_classes: int

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image [N]."""
        return self.result.predicted

    @property
    def confidences(self) -> NDArray[np.float32]:
        """Its probability [N]."""
        return self.result.confidences

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Images by true class (rows) and predicted class (columns), int64 [K, K]."""
        return confusion_counts(self.result.targets, self.predicted, self.num_classes)

    def worst(self) -> NDArray[np.int64]:
        """Rows of the wrong predictions, the largest loss first: fastai's top losses without the correct ones."""
        wrong = np.flatnonzero(self.predicted != self.result.targets)
        return np.asarray(wrong[np.argsort(-self.result.losses[wrong], kind="stable")])

    def unsure(self) -> NDArray[np.int64]:
        """Rows of the correct predictions, the least confident first."""
        correct = np.flatnonzero(self.predicted == self.result.targets)
        return np.asarray(correct[np.argsort(self.confidences[correct], kind="stable")])

    def cell(self, true: int, predicted: int) -> NDArray[np.int64]:
        """Rows of the images of one class that were predicted as another, or as it; the most confident first."""
        order, pairs = self._by_cell
        first, end = np.searchsorted(pairs, [(pair := true * self.num_classes + predicted), pair + 1])
        return order[first:end]

    @cached_property
    def _by_cell(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows in the order of their cells, the most confident of each first; and the numbers of these cells."""
        pairs = self.result.targets * self.num_classes + self.predicted
        order = np.lexsort((-self.confidences, pairs))
        return order, pairs[order]


def image_paths(rows: Iterable[int], result: SplitResult, table_: SplitTable) -> list[str]:
    """Paths of the images of some predictions."""
    return [table_.paths[result.indices[row]] for row in rows]


def confusion_pieces(predictions: SortedPredictions, table_: SplitTable, class_names: Sequence[str]) -> list[Html]:
    """Return the matrix, or of many classes the list of confused pairs, and the panels with the images.

    Args:
        predictions: of the split.
        table_: its samples.
        class_names: [K].
    """
    counts = predictions.counts
    small = len(class_names) <= MAX_MATRIX
    pairs = [(item.true, item.predicted) for item in most_confused(counts, None if small else MAX_PAIRS)]
    opened = [*pairs, *((n, n) for n in range(len(class_names)) if small and counts[n, n])]
    contents, left = [], MAX_PICTURES
    for true, predicted in opened:
        rows = predictions.cell(true, predicted)
        limit = PER_RIGHT_CELL if true == predicted else PER_WRONG_CELL
        chosen = rows[: max(0, min(limit, left))]
        left -= len(chosen)
        hidden = len(rows) - len(chosen)
        words = "correct" if true == predicted else f"predicted as {shown(class_names[predicted])}"
        inside = [thumbnails(pictures_of(chosen, predictions, table_, class_names))] if len(chosen) else []
        if hidden:
            inside.append(paragraph(f"{hidden:,} more are in predictions.csv."))
        contents.append(
            (_panel(true, predicted), f"{shown(class_names[true])}, {words}: {len(rows):,}", Html("".join(inside)))
        )
    listed = _matrix(counts, class_names) if small else _pairs(counts, pairs, class_names)
    return [listed, panels(contents)]


def pictures_of(
    rows: NDArray[np.int64], predictions: SortedPredictions, table_: SplitTable, class_names: Sequence[str]
) -> list[Thumbnail]:
    """Return thumbnails of some predictions: true class, predicted class, confidence and file."""
    result = predictions.result
    found = []
    for path, target, predicted, share in zip(
        image_paths(rows, result, table_),
        result.targets[rows],
        predictions.predicted[rows],
        predictions.confidences[rows],
        strict=True,
    ):
        name = _short(class_names[predicted])
        truth = "" if predicted == target else f"is {_short(class_names[target])}; "
        found.append(thumbnail(Path(path), f"{name} {share:.0%}", f"{truth}{Path(path).name}"))
    return found


def _short(name: str, length: int = MAX_CAPTION) -> str:
    """Cut a name to what fits there; the panels and the table of the classes have it whole."""
    return left_to_right(shorten(shown(name), length))


def _long(name: str) -> str:
    """Mark the heading of a long name, which is given width: some scripts break at every letter."""
    return " class=long" if num_columns(name) > LONG_HEADING else ""


def _panel(true: int, predicted: int) -> str:
    # By number: a class may be called what no identifier can be.
    return f"cell-{true}-{predicted}"


def _matrix(counts: NDArray[np.int64], class_names: Sequence[str]) -> Html:
    support = counts.sum(axis=1)
    heads = "".join(
        f'<th scope="col"{_long(name)} title="{escape(name)}">{escape(_short(name, MAX_HEADING))}</th>'
        for name in class_names
    )
    lines = []
    for true, name in enumerate(class_names):
        cells = []
        for predicted, count in enumerate(counts[true].tolist()):
            if not count:
                cells.append("<td></td>")
                continue
            words = "correct" if predicted == true else f"predicted as {shown(class_names[predicted])}"
            button = opener(Opener(f"{count:,}", f"{shown(name)}, {words}: {count:,}", _panel(true, predicted)))
            kind = "right" if predicted == true else "wrong"
            cells.append(f'<td class="{kind}" style="--share: {100 * count / support[true]:.0f}">{button}</td>')
        heading = f'<th scope="row"{_long(name)} title="{escape(name)}">{escape(_short(name, MAX_HEADING))}</th>'
        lines.append(f"<tr>{heading}{''.join(cells)}</tr>")
    return Html(
        '<div class="scroll" tabindex="0"><table class="matrix"><caption>Rows: true; columns: predicted. A click on '
        f"a cell shows its images.</caption><thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"
        "</table></div>"
    )


def _pairs(
    counts: NDArray[np.int64], pairs: Sequence[tuple[int, int]], class_names: Sequence[str]
) -> Html:  # fmt: skip
    support = counts.sum(axis=1)
    rows = []
    for true, predicted in pairs:
        one, other, count = shown(class_names[true]), shown(class_names[predicted]), int(counts[true, predicted])
        share = count / support[true]
        button = Opener("show", f"{one} predicted as {other}: {count:,}", _panel(true, predicted))
        rows.append((one, other, count, Number(share, f"{share:.0%}"), button))
    number = int((counts > 0).sum() - (counts.diagonal() > 0).sum())
    more = [paragraph(f"The {MAX_PAIRS} most frequent of {number:,} pairs.")] if number > MAX_PAIRS else []
    columns = ("true class", "predicted", "images", "share of the class", "images")
    return Html("".join([table(columns, rows), *more]))
