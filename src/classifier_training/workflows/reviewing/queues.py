"""The lists of images that are worth a look, and what part of a list is asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import plural, shown
from classifier_training.core.runtime import command
from classifier_training.core.types import TRAIN
from classifier_training.data.checking.preflight import exact_copies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from classifier_training.workflows.reviewing.collection import Collection, Predicted
    from classifier_training.workflows.reviewing.decisions import Decisions

    Rows = NDArray[np.int64]

UNSURE = 0.6
"""Confidence below which a prediction counts as unsure where the model has no threshold of its own."""

MIN_OUTLIER = 0.5
"""How unlike the training images an image must be to be listed."""

STATES = ("", "open", "keep", "relabel", "drop", "move")
"""What may be asked for of the decision: any, none yet, or one of a kind."""


@dataclass(frozen=True)
class Queue:
    """A list of images.

    Args:
        name: in addresses.
        title: for people.
        words: what it holds and in what order.
        rows: of the images, in the order in which they are shown.
    """

    name: str
    title: str
    words: str
    rows: Rows


@dataclass(frozen=True)
class Filter:
    """What of a list is asked for; an empty text asks for all.

    Args:
        split: of the images.
        label: as it is corrected; None for any, since an empty label is legal.
        true: label that the prediction was scored with; None for any.
        predicted: class; None for any.
        state: one of STATES.
        text: that the path has, in any case.
    """

    split: str = ""
    label: str | None = None
    true: str | None = None
    predicted: str | None = None
    state: str = ""
    text: str = ""


class Queues:
    """All lists of a collection.

    Args:
        collection: the images.
        decisions: on them.
    """

    def __init__(self, collection: Collection, decisions: Decisions) -> None:
        self.collection = collection
        self.decisions = decisions
        self.is_searching = collection.is_labelled
        """Whether copies are still being looked for."""
        self._copies = np.zeros(0, dtype=np.int64)
        self._thread = Thread(target=self._search, name="copies", daemon=True)
        if self.is_searching:
            self._thread.start()

    def _search(self) -> None:
        """Compare the files, which takes a minute where there are many, while the pages answer."""
        self._copies = _disagreeing(self.collection)
        self.is_searching = False

    def wait(self) -> None:
        """Wait until all lists are there."""
        if self.is_searching:
            self._thread.join()

    @property
    def all(self) -> dict[str, Queue]:
        """Every list that is not empty, by name, the most useful first."""
        words = "The same image under several labels, side by side."
        copies = Queue("copies", "Copies that disagree", words, self._copies)
        words = "Those first that teach the model the most, as analyze chose them."
        chosen = Queue("next", "Worth labelling next", words, np.array(self.collection.chosen, dtype=np.int64))
        found = [chosen, *self._of_model, copies, self._everything]
        return {queue.name: queue for queue in found if len(queue.rows)}

    @cached_property
    def _of_model(self) -> tuple[Queue, ...]:
        return tuple(_of_model(self.collection))

    @cached_property
    def _everything(self) -> Queue:
        collection = self.collection
        words = "Every image, by class." if collection.is_labelled else "Every image of the folder."
        order = sorted(range(len(collection)), key=lambda row: (collection.labels[row], collection.paths[row]))
        return Queue("all", "All images", words, np.array(order, dtype=np.int64))

    def select(self, name: str, wanted: Filter) -> Rows:
        """Return the rows of a list that pass a filter, in its order.

        Raises:
            KeyError: when there is no such list.
        """
        collection, rows = self.collection, self.all[name].rows
        if wanted.split:
            rows = rows[[collection.splits[row] == wanted.split for row in rows.tolist()]]
        if collection.predicted is not None:
            classes = {name: number for number, name in enumerate(collection.predicted.class_names)}
            if wanted.true is not None:
                rows = rows[collection.predicted.labels[rows] == classes.get(wanted.true, -2)]
            if wanted.predicted is not None:
                rows = rows[collection.predicted.top[rows, 0] == classes.get(wanted.predicted, -2)]
        if wanted.label is not None:
            rows = rows[[self.decisions.label(row) == wanted.label for row in rows.tolist()]]
        if wanted.text:
            text = wanted.text.casefold()
            rows = rows[[text in collection.paths[row].casefold() for row in rows.tolist()]]
        if wanted.state == "open":
            rows = rows[~self.decisions.is_decided[rows]]
        elif wanted.state:
            actions = (self.decisions.standing(row) for row in rows.tolist())
            rows = rows[[found is not None and found.action == wanted.state for found in actions]]
        return rows

    def num_decided(self, rows: Rows) -> int:
        """How many of some images somebody has decided on."""
        return int(self.decisions.is_decided[rows].sum())

    def confusion(self) -> NDArray[np.int64] | None:
        """Images by their label then and the predicted class, int64 [K, K]; None without predictions."""
        predicted = self.collection.predicted
        if predicted is None:
            return None
        number = len(predicted.class_names)
        rows = predicted.known[predicted.labels[predicted.known] >= 0]
        counts = np.zeros((number, number), dtype=np.int64)
        np.add.at(counts, (predicted.labels[rows], predicted.top[rows, 0]), 1)
        return counts

    def class_counts(self) -> Mapping[str, int]:
        """Images of each label as it is corrected."""
        return Counter(self.decisions.label(row) for row in range(len(self.collection)))


def _of_model(collection: Collection) -> Iterator[Queue]:
    predicted, issues = collection.predicted, collection.issues
    if not collection.is_labelled:
        return
    if issues is not None:
        yield Queue(
            "doubtful", "Doubtful labels",
            "Labels that the model contradicts, the most doubtful first, as analyze listed them.",
            issues.rows,
        )  # fmt: skip
    elif predicted is not None:
        how = f"{command('analyze')} run={collection.run.path if collection.run else 'RUN'} looks at every label."
        yield Queue(
            "doubtful", "Doubtful labels",
            f"Held-out images of which the model is surer of another class than it usually is of that class. {how}",
            _doubtful(predicted),
        )  # fmt: skip
    if predicted is not None:
        rows = predicted.known
        wrong = rows[predicted.top[rows, 0] != predicted.labels[rows]]
        yield Queue(
            "mistakes", "Mistakes", "Held-out images that the model gets wrong, the worst first.",
            wrong[np.argsort(-predicted.losses[wrong], kind="stable")],
        )  # fmt: skip
        unsure = rows[predicted.probabilities[rows, 0] < UNSURE]
        yield Queue(
            "unsure", "Unsure predictions", f"A confidence below {UNSURE:.0%}, the lowest first.",
            unsure[np.argsort(predicted.probabilities[unsure, 0], kind="stable")],
        )  # fmt: skip
        rejected = np.flatnonzero(predicted.is_rejected)
        yield Queue("rejected", "Rejected predictions", "Predictions that the model rejects.", rejected)
    if issues is not None:
        unlike = np.flatnonzero(issues.outliers >= MIN_OUTLIER)
        yield Queue(
            "unlike", "Unlike the training images", "The strangest first: other subjects, damaged or empty images.",
            unlike[np.argsort(-issues.outliers[unlike], kind="stable")],
        )  # fmt: skip


def _doubtful(predicted: Predicted) -> Rows:
    """Find labels that the model contradicts with more confidence than it has on average for a class's own images.

    The thresholds are those of confident learning (Northcutt et al. 2021, arXiv:1911.00068).
    """
    rows = predicted.known[predicted.labels[predicted.known] >= 0]
    usual = np.ones(len(predicted.class_names))
    for number in range(len(usual)):
        own = predicted.own[rows[predicted.labels[rows] == number]]
        usual[number] = own.mean() if len(own) else 1.0
    best, confidence = predicted.top[rows, 0], predicted.probabilities[rows, 0]
    doubtful = rows[(best != predicted.labels[rows]) & (confidence >= usual[best])]
    return np.asarray(doubtful[np.argsort(predicted.own[doubtful], kind="stable")])


def _disagreeing(collection: Collection) -> Rows:
    """Find copies of images that have several labels; the copies of one image follow each other."""
    by_path: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(collection.paths):
        by_path[path].append(row)
    groups = [[row for path in group for row in by_path[path]] for group in exact_copies(collection.root, [*by_path])]
    copied = {path for group in groups for path in (collection.paths[row] for row in group)}
    groups += [rows for path, rows in by_path.items() if len(rows) > 1 and path not in copied]
    if collection.issues is not None:
        for row, other in collection.issues.copies.items():
            name = next((path for path in _endings(other) if path in by_path), None)
            groups.append([row, *(by_path[name] if name is not None else ())])
    found = [group for group in groups if len({collection.labels[row] for row in group}) > 1]
    return np.array(list(dict.fromkeys(row for group in found for row in group)), dtype=np.int64)


def _endings(path: str) -> Iterator[str]:
    yield path
    for at, letter in enumerate(path):
        if letter == "/":
            yield path[at + 1 :]


def reasons(collection: Collection, row: int) -> list[str]:
    """Say in short lines why an image is worth a look."""
    found = [collection.notes[row]] if row in collection.notes else []
    if not collection.is_labelled:
        return found
    predicted, issues = collection.predicted, collection.issues
    if issues is not None and row in issues.suggested:
        name, confidence = issues.suggested[row]
        found.append(f"its label is doubtful; suggested: {shown(name)} ({confidence:.0%})")
    if predicted is not None and predicted.top[row, 0] >= 0:
        confidence = float(predicted.probabilities[row, 0])
        name = shown(predicted.class_names[predicted.top[row, 0]])
        if predicted.top[row, 0] != predicted.labels[row]:
            found.append(f"the model says {name} with {confidence:.0%}")
        if confidence < UNSURE:
            found.append(f"the model is unsure: {confidence:.0%} for {name}")
        if predicted.is_rejected[row]:
            found.append("the model rejects its own prediction")
    if issues is not None and row in issues.copies:
        found.append(f"a near copy has another label: {issues.copies[row]}")
    if issues is not None and issues.outliers[row] >= MIN_OUTLIER:
        found.append(f"unlike the training images ({float(issues.outliers[row]):.2f} of 1)")
    if collection.splits[row] == TRAIN and predicted is not None and predicted.top[row, 0] < 0:
        found.append("the model was trained on it, so its prediction is not shown")
    return found


def progress_words(decided: int, number: int) -> str:
    """Say how much of a list is done."""
    return f"{decided:,} of {plural(number, 'image')} looked at"
