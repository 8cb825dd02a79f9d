"""Findings about classes and groups: who is missing where, who is rare, who is there twice."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import enumerate_words
from classifier_training.core.types import SPLITS, TRAIN
from classifier_training.data.checking.findings import Finding, plural, shown
from classifier_training.data.checking.quality import imbalance_ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier_training.data.index import SampleIndex

TINY_CLASS = 20
"""Training images below which a class is called tiny."""

IMBALANCE_WORTH_SAYING = 10.0


def check_classes(index: SampleIndex) -> Iterator[Finding]:
    """Yield what there is to say of class names, counts and groups."""
    yield from _spelt_twice(index)
    yield from _groups_over_splits(index)
    yield from _missing(index)
    yield from _rare(index)


def _spelt_twice(index: SampleIndex) -> Iterator[Finding]:
    counts = Counter(sample.label for sample in index.samples)
    similar: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        similar[_skeleton(label)].append(label)
    twice = [names for key, names in similar.items() if len(names) > 1 and key]
    plurals = [
        [*similar[key], *similar[ending]]
        for key in sorted(similar)
        for ending in (f"{key}s", f"{key}es")
        if len(key) > 2 and key.isalpha() and ending in similar
    ]
    for names, severity, code, words in (
        (twice, "error", "class_spelt_twice", ("These names differ only in case, spaces, hyphens or in how an accent "
         "is stored. To the network they are different classes, and it must guess between them.")),
        (plurals, "warning", "class_singular_and_plural", "One name is the other's plural; they may be one class."),
    ):  # fmt: skip
        if names:
            yield Finding(
                code=code,
                severity="error" if severity == "error" else "warning",
                title=f"{plural(len(names), 'class', 'classes')} may be spelt in two ways: "
                + enumerate_words([" and ".join(map(_visible, group)) for group in names], limit=3),
                words=words,
                remedy="rename the folders or labels so that each class has one name",
                count=len(names),
                rows=tuple(
                    (str(number), _visible(name), f"{counts[name]:,} images")
                    for number, group in enumerate(names, start=1)
                    for name in group
                ),
            )


def _skeleton(label: str) -> str:
    folded = unicodedata.normalize("NFKC", label).casefold()
    return "".join(letter for letter in folded if letter not in " _-\t\u00a0")


def _visible(label: str) -> str:
    """Make visible what two spellings differ in."""
    if unicodedata.normalize("NFC", label) != label:
        return f"{shown(label)} (accents as letters of their own, NFD)"
    return shown(label)


def _groups_over_splits(index: SampleIndex) -> Iterator[Finding]:
    splits: dict[str, set[str]] = defaultdict(set)
    for sample in index.samples:
        if sample.group and sample.split:
            splits[sample.group].add(sample.split)
    torn = sorted(group for group, found in splits.items() if len(found) > 1)
    if torn:
        yield Finding(
            code="groups_across_splits",
            severity="error",
            title=f"{plural(len(torn), 'group')} of {len(splits):,} on more than one side of the split",
            words="Images of one session, video or person are learnt from and scored on: scores are too good for "
            "a new session.",
            remedy="move each group to one side, or have the split drawn by group: data.group=…",
            count=len(torn),
            rows=tuple((group, enumerate_words(sorted(splits[group]))) for group in torn),
        )


def _missing(index: SampleIndex) -> Iterator[Finding]:
    present = index.present_splits()
    found = {split: {s.label for s in index.samples if s.split == split} for split in SPLITS if split in present}
    if TRAIN not in found:
        return
    everything = set().union(*found.values())
    for split, labels in found.items():
        missing = sorted(everything - labels)
        if missing:
            listed = enumerate_words(map(_visible, missing), limit=6)
            yield Finding(
                code=f"classes_missing_from_{split}",
                severity="error" if split == TRAIN else "warning",
                title=f"{plural(len(missing), 'class', 'classes')} not in {split}: {listed}",
                words="What is not learnt is never predicted; these images of other splits are left out."
                if split == TRAIN
                else f"Nothing is known of how well these are recognised: {split} has no image of them.",
                remedy=f"add images of each to {split}",
                count=len(missing),
                rows=tuple((_visible(name),) for name in missing),
            )
    if index.empty_classes:
        yield Finding(
            code="empty_class_folders",
            severity="warning",
            title=f"{plural(len(index.empty_classes), 'class folder')} without an image",
            words="Training stops at an empty class folder unless it is told to go on.",
            remedy="fill or remove them, or train with data.on_error=skip",
            count=len(index.empty_classes),
            rows=tuple((name,) for name in index.empty_classes),
        )


def _rare(index: SampleIndex) -> Iterator[Finding]:
    split = TRAIN if TRAIN in index.present_splits() else ""
    counts = Counter(sample.label for sample in index.samples if sample.split == split)
    tiny = sorted((number, name) for name, number in counts.items() if number < TINY_CLASS)
    if tiny:
        yield Finding(
            code="tiny_classes",
            severity="warning",
            title=f"{plural(len(tiny), 'class', 'classes')} with fewer than {TINY_CLASS} "
            f"{'training ' if split else ''}images",
            words="So few show little of what a class may look like, and scores on a handful of images say little.",
            remedy="collect more, or merge the class with one that it is part of",
            count=len(tiny),
            rows=tuple((_visible(name), plural(number, "image")) for number, name in tiny),
        )
    ratio = imbalance_ratio(np.array(list(counts.values()), dtype=np.int64))
    if ratio >= IMBALANCE_WORTH_SAYING:
        yield Finding(
            code="imbalance",
            severity="note",
            title=f"The most frequent class has {ratio:,.0f} times the images of the rarest",
            words="Training corrects this by itself (imbalance=auto); judge by balanced accuracy, not by accuracy.",
            remedy="nothing, or collect more of the rare classes",
            count=1,
        )
