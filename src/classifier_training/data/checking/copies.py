"""Findings about copies: within a class, under two labels, on both sides of a split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier_training.data.checking.findings import MAX_EXAMPLES, SHOWN_OF_GROUP, Finding, Picture, plural, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from classifier_training.data.checking.duplicates import Copies
    from classifier_training.data.checking.findings import Inspected, Severity

Group = tuple[int, ...]

REMOVE = "keep one file of each group and remove the others, or move them all to one split"


def check_copies(data: Inspected, copies: Copies) -> Iterator[Finding]:
    """Yield what there is to say of the copies, the gravest first; a group is told once for each of its faults."""
    labels, splits = data.labels(), data.splits()
    for kind, groups in (("exact", copies.exact), ("near", copies.near)):
        exact = kind == "exact"
        noun = "exact copies" if exact else "near-duplicates"
        across = [group for group in groups if len(_values(data, splits, group)) > 1]
        if across:
            yield _finding(
                data, across, f"{kind}_copies_across_splits", "error" if exact else "warning",
                f"{plural(_size(across), 'file')} {'are exact copies' if exact else 'look the same'} "
                f"across splits, in {plural(len(across), 'group')}",
                "The model is scored on the very pictures that it learnt from, so its scores are too good."
                if exact
                else "The same picture, re-encoded, resized or brightened, is learnt from and scored on: scores are "
                "too good. Frames of one recording look like this too.",
                REMOVE if exact else "look at them; then remove them, or keep a recording on one side: data.group=…",
            )  # fmt: skip
        contradicting = [group for group in groups if len(_label_sets(data, labels, group)) > 1]
        if contradicting:
            yield _finding(
                data, contradicting, f"{kind}_copies_with_two_labels", "error" if exact else "warning",
                f"{plural(len(contradicting), 'group')} of {noun} with different labels",
                "The same picture is given as two classes; at least one label is wrong.",
                "decide for one label and remove the other file",
            )  # fmt: skip
        rest = [group for group in groups if group not in {*across, *contradicting}]
        if rest:
            yield _finding(
                data, rest, f"{kind}_copies", "warning" if exact else "note",
                f"{plural(_size(rest), 'file')} in {plural(len(rest), 'group')} of {noun}",
                "Copies within a class and split count several times in training and in scores."
                if data.index.present_splits()
                else "The data is not split yet: a random split may put copies on both sides.",
                REMOVE if exact else "remove them, or keep them on one side of the split",
            )  # fmt: skip


def _values(data: Inspected, by_path: Mapping[str, set[str]], group: Group) -> set[str]:
    return {value for place in group for value in by_path[data.scan.facts[place].path] if value}


def _label_sets(data: Inspected, labels: Mapping[str, set[str]], group: Group) -> set[frozenset[str]]:
    # A picture may have several labels by right; its copies then have the same.
    return {frozenset(labels[data.scan.facts[place].path]) for place in group}


def _size(groups: Sequence[Group]) -> int:
    return sum(map(len, groups))


def _finding(
    data: Inspected, groups: Sequence[Group], code: str, severity: Severity, title: str, words: str, remedy: str
) -> Finding:
    labels, splits = data.labels(), data.splits()

    def picture(place: int) -> Picture:
        path = data.scan.facts[place].path
        named = [*sorted(filter(None, splits[path])), *map(shown, sorted(labels[path]))]
        return Picture(path, ", ".join(named))

    largest = sorted(groups, key=len, reverse=True)
    examples = tuple(tuple(map(picture, group[:SHOWN_OF_GROUP])) for group in largest[:MAX_EXAMPLES])
    rows = tuple(
        (str(number), data.scan.facts[place].path) for number, group in enumerate(largest, start=1) for place in group
    )
    return Finding(
        code=code, severity=severity, title=title, words=words, remedy=remedy,
        count=len(groups), examples=examples, rows=rows,
    )  # fmt: skip
