"""What is wrong with classes, groups and exact copies, found before every training: nothing is decoded."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, plural, shown
from classifier_training.core.runtime import num_cores
from classifier_training.core.types import SPLITS, TRAIN
from classifier_training.data.checking.findings import Finding, rank
from classifier_training.data.checking.scan import hash_file
from classifier_training.data.checking.statistics import imbalance_ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

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


MAX_LINES = 5
BEGINNING = 4096
"""Bytes by which files of one size are told apart before any is read whole."""


def exact_copies(root: Path, paths: Sequence[str]) -> list[tuple[str, ...]]:
    """Group files with the same bytes: those of one size, then of one beginning, then of one hash.

    Files that vanish or cannot be read meanwhile are no copies; whoever decodes them will name them.
    """
    groups: list[list[str]] = [list(dict.fromkeys(paths))]
    with ThreadPoolExecutor(max_workers=2 * num_cores()) as pool:
        for key in (_num_bytes, _beginning, hash_file):

            def read(path: str, key: object = key) -> object:
                try:
                    return key(root / path)  # type: ignore[operator]
                except OSError:
                    return path

            flat = [(number, path) for number, group in enumerate(groups) for path in group]
            keys = pool.map(read, [path for _, path in flat], chunksize=64)
            found: dict[object, list[str]] = defaultdict(list)
            for (number, path), value in zip(flat, keys, strict=True):
                found[number, value].append(path)
            groups = [group for group in found.values() if len(group) > 1]
    return [tuple(group) for group in groups]


def preflight(index: SampleIndex, copies: Sequence[tuple[str, ...]], *, allow_leaks: bool) -> list[str]:
    """Look for what spoils a run before it starts.

    Args:
        index: readable samples with their splits.
        copies: groups of files with the same bytes; see `exact_copies`.
        allow_leaks: whether files may be in two splits under different names.

    Returns:
        What was found, in at most five lines; the gravest first.

    Raises:
        UserError: when a file of one split is an exact copy of another split's, and this is not allowed.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    labels: dict[str, set[str]] = defaultdict(set)
    for sample in index.samples:
        splits[sample.path].add(sample.split)
        labels[sample.path].add(sample.label)
    # Files that are not trained on after all, such as those that data.splits does not name, play no part.
    kept = [tuple(path for path in group if path in splits) for group in copies]
    groups = [group for group in kept if len(group) > 1]
    leaks = [group for group in groups if len(set().union(*(splits[path] for path in group))) > 1]
    lines = []
    if leaks:
        first = enumerate_words(sorted(leaks[0], key=lambda path: TRAIN in splits[path]), limit=2)
        came = (
            f"{plural(sum(map(len, leaks)), 'file')} in {plural(len(leaks), 'group')} are exact copies across splits, "
            f"so the scores would be too good; the first: {first}"
        )
        if not allow_leaks:
            raise UserError(
                f"{index.root}: {came}",
                "every image in one split only",
                "remove the copies (classifier-training analyze lists them), or train all the same: allow_leaks=true",
            )
        lines.append(came)
    two_labels = [group for group in groups if len({frozenset(labels[path]) for path in group}) > 1]
    if two_labels:
        lines.append(
            f"{plural(len(two_labels), 'group')} of exact copies with different labels; the first: "
            f"{enumerate_words(two_labels[0], limit=2)}"
        )
    rest = len(groups) - len({*leaks, *two_labels})
    if rest:
        lines.append(f"{plural(rest, 'group')} of exact copies within a class and split")
    told = {"class_spelt_twice", "class_singular_and_plural", "groups_across_splits"}
    lines += [finding.title for finding in rank(check_classes(index)) if finding.code in told]
    counts = Counter(sample.label for sample in index.samples if sample.split == TRAIN)
    if tiny := [name for name, number in counts.items() if number < TINY_CLASS]:
        named = enumerate_words(map(repr, sorted(tiny)), limit=3)
        lines.append(f"{plural(len(tiny), 'class', 'classes')} with fewer than {TINY_CLASS} training images: {named}")
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [f"and {len(lines) - MAX_LINES + 1} more; classifier-training analyze shows all"]
    return lines


def _num_bytes(path: Path) -> int:
    return path.stat().st_size


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(BEGINNING), digest_size=16).digest()
