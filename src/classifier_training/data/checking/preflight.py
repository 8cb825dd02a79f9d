"""The cheap part of an analysis, before every training: nothing is decoded."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.runtime import num_cores
from classifier_training.core.types import TRAIN
from classifier_training.data.checking.classes import TINY_CLASS, check_classes
from classifier_training.data.checking.content import hash_file
from classifier_training.data.checking.findings import plural, rank

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from classifier_training.data.index import SampleIndex

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
