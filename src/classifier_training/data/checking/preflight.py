"""Checks before every training: classes, groups and exact duplicates. No image is decoded."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, plural, shown
from classifier_training.core.labels import skeleton
from classifier_training.core.types import SPLITS, TRAIN
from classifier_training.data.checking.findings import Finding, rank
from classifier_training.data.checking.known_files import FileTable
from classifier_training.data.checking.statistics import imbalance_ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.data.checking.findings import Severity
    from classifier_training.data.index import SampleIndex

TINY_CLASS = 20
"""Training images below which a class is called tiny."""

REPORTED_IMBALANCE = 10.0


def check_classes(index: SampleIndex) -> Iterator[Finding]:
    """Yield the findings about class names, counts and groups."""
    yield from _duplicate_names(index)
    yield from _repeated_images(index)
    yield from _groups_over_splits(index)
    yield from _missing(index)
    yield from _rare(index)


def _duplicate_names(index: SampleIndex) -> Iterator[Finding]:
    counts = index.labels.counts()
    similar: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        similar[skeleton(label)].append(label)
    twice = [names for key, names in similar.items() if len(names) > 1 and key]
    plurals = [
        [*similar[key], *similar[ending]]
        for key in sorted(similar)
        for ending in (f"{key}s", f"{key}es")
        if len(key) > 2 and key.isalpha() and ending in similar
    ]
    for names, severity, code, words in (
        (
            twice, "error", "class_spelt_twice",
            ("These names differ only in case, spaces, hyphens or in how an accent is stored. The network treats them "
            "as different classes and cannot tell them apart."),
        ),
        (
            plurals, "warning", "class_singular_and_plural",
            "One name is the plural of the other; they may be the same class.",
        ),
    ):  # fmt: skip
        if names:
            yield Finding(
                code=code,
                severity="error" if severity == "error" else "warning",
                title=f"{plural(len(names), 'duplicate class name')}: "
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


def _repeated_images(index: SampleIndex) -> Iterator[Finding]:
    """Images that several rows of a list name."""
    images, first = index.paths.numbers()
    if len(first) == len(images):
        return
    labels = np.bincount(np.unique(np.stack([images, index.labels.codes]), axis=1)[0], minlength=len(first))
    rows = np.bincount(images, minlength=len(first))
    kinds: tuple[tuple[NDArray[np.bool_], str, Severity, str, str], ...] = (
        (labels > 1, "image_with_several_labels", "warning", "with several labels",
         "Each row is a sample: the network is shown the image with one label and with another."),
        ((labels == 1) & (rows > 1), "image_listed_again", "note", "in several rows with the same label",
         "It counts as several images."),
    )  # fmt: skip
    for chosen, code, severity, title, words in kinds:
        named: dict[str, set[str]] = defaultdict(set)
        own = np.flatnonzero(chosen[images])
        for path, label in zip(index.paths[own], index.labels[own], strict=True):
            named[path].add(shown(label))
        if named:
            yield Finding(
                code=code,
                severity=severity,
                title=f"{plural(len(named), 'image')} {title}; the first: {next(iter(named))}",
                words=words,
                remedy="leave one row for each image",
                count=len(named),
                rows=tuple((path, enumerate_words(sorted(found))) for path, found in named.items()),
            )


def _visible(label: str) -> str:
    """Return a label with a note where its accents are stored in the rarer way."""
    if unicodedata.normalize("NFC", label) != label:
        return f"{shown(label)} (accents stored as separate characters, NFD)"
    return shown(label)


def _groups_over_splits(index: SampleIndex) -> Iterator[Finding]:
    splits: dict[str, set[str]] = defaultdict(set)
    for split in index.present_splits():
        for group in index.groups[index.splits.where(split)].counts().keys() - {""}:
            splits[group].add(split)
    shared = sorted(group for group, found in splits.items() if len(found) > 1)
    if shared:
        yield Finding(
            code="groups_across_splits",
            severity="error",
            title=f"{plural(len(shared), 'group')} of {len(splits):,} in more than one split",
            words="Images of one session, video or person are used for training and for scoring, so the scores are too "
            "high for a new session.",
            remedy="move each group into one split, or use a random split by group: data.group=…",
            count=len(shared),
            rows=tuple((group, enumerate_words(sorted(splits[group]))) for group in shared),
        )


def _missing(index: SampleIndex) -> Iterator[Finding]:
    present = index.present_splits()
    found = {split: {*index.labels[index.splits.where(split)].counts()} for split in SPLITS if split in present}
    if index.empty_classes:
        yield Finding(
            code="empty_class_folders",
            severity="warning",
            title=f"{plural(len(index.empty_classes), 'class folder')} without an image",
            words="Training stops at an empty class folder unless data.on_error=skip is set.",
            remedy="fill or remove them, or train with data.on_error=skip",
            count=len(index.empty_classes),
            rows=tuple((name,) for name in index.empty_classes),
        )
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
                words="A class without training images is never predicted; its images in other splits are left out."
                if split == TRAIN
                else f"The accuracy on these classes is unknown: {split} has no image of them.",
                remedy=f"add images of each to {split}",
                count=len(missing),
                rows=tuple((_visible(name),) for name in missing),
            )


def _rare(index: SampleIndex) -> Iterator[Finding]:
    split = TRAIN if TRAIN in index.present_splits() else ""
    counts = index.labels[index.splits.where(split)].counts()
    tiny = sorted((number, name) for name, number in counts.items() if number < TINY_CLASS)
    if tiny:
        yield Finding(
            code="tiny_classes",
            severity="warning",
            title=f"{plural(len(tiny), 'class', 'classes')} with fewer than {TINY_CLASS} "
            f"{'training ' if split else ''}images",
            words="So few images show little of how a class can look, and scores on a handful are unreliable.",
            remedy="collect more images, or merge the class into a related one",
            count=len(tiny),
            rows=tuple((_visible(name), plural(number, "image")) for number, name in tiny),
        )
    ratio = imbalance_ratio(np.array(list(counts.values()), dtype=np.int64))
    if ratio >= REPORTED_IMBALANCE:
        yield Finding(
            code="imbalance",
            severity="note",
            title=f"The most frequent class has {ratio:,.0f} times as many images as the rarest",
            words="Training corrects this automatically (imbalance=auto); judge by balanced accuracy, not by accuracy.",
            remedy="nothing, or collect more of the rare classes",
            count=1,
        )


MAX_LINES = 5


def exact_copies(root: Path, paths: Iterable[str]) -> list[tuple[str, ...]]:
    """Group files with the same bytes, in the order of their first files.

    Files that vanish or cannot be read are left out; decoding them will report them.

    Args:
        root: folder that the paths are relative to.
        paths: of the files; one that is named twice counts once.
    """
    return FileTable(root, paths).copies()


def preflight(index: SampleIndex, copies: Sequence[tuple[str, ...]], *, allow_leaks: bool) -> list[str]:
    """Look for problems of the data before a run starts.

    Args:
        index: readable samples with their splits.
        copies: groups of exact duplicates; see `exact_copies`.
        allow_leaks: whether files may be in two splits under different names.

    Returns:
        The problems, in at most five lines; the most severe first.

    Raises:
        UserError: when a file of one split is an exact copy of another split's, and this is not allowed.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    labels: dict[str, set[str]] = defaultdict(set)
    rows = index.paths.find({path for group in copies for path in group})
    for path, split, label in zip(index.paths[rows], index.splits[rows], index.labels[rows], strict=True):
        splits[path].add(split)
        labels[path].add(label)
    # Files that are not used, such as those that data.splits does not name, do not count.
    kept = [tuple(path for path in group if path in splits) for group in copies]
    groups = [group for group in kept if len(group) > 1]
    leaks = [group for group in groups if len(set().union(*(splits[path] for path in group))) > 1]
    lines = []
    if leaks:
        first = enumerate_words(sorted(leaks[0], key=lambda path: TRAIN in splits[path]), limit=2)
        came = (
            f"{plural(sum(map(len, leaks)), 'file')} in {plural(len(leaks), 'group')} "
            f"are exact duplicates across splits, "
            f"so the scores would be too high; the first: {first}"
        )
        if not allow_leaks:
            raise UserError(
                f"{index.root}: {came}",
                "every image in one split only",
                "remove the duplicates (classifier-training analyze lists them), or train anyway: allow_leaks=true",
            )
        lines.append(came)
    two_labels = [group for group in groups if len({frozenset(labels[path]) for path in group}) > 1]
    if two_labels:
        lines.append(
            f"{plural(len(two_labels), 'group')} of exact duplicates with different labels; the first: "
            f"{enumerate_words(two_labels[0], limit=2)}"
        )
    rest = len(groups) - len({*leaks, *two_labels})
    if rest:
        lines.append(f"{plural(rest, 'group')} of exact duplicates within a class and split")
    reported = {
        "image_with_several_labels",
        "image_listed_again",
        "class_spelt_twice",
        "class_singular_and_plural",
        "groups_across_splits",
    }
    lines += [finding.title for finding in rank(check_classes(index)) if finding.code in reported]
    counts = index.labels[index.splits.where(TRAIN)].counts()
    if tiny := [name for name, number in counts.items() if number < TINY_CLASS]:
        named = enumerate_words(map(repr, sorted(tiny)), limit=3)
        lines.append(f"{plural(len(tiny), 'class', 'classes')} with fewer than {TINY_CLASS} training images: {named}")
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [f"and {len(lines) - MAX_LINES + 1} more; classifier-training analyze shows all"]
    return lines
