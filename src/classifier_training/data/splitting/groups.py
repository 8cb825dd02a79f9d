"""Groups, which stay in one split: a session, a video, a player, or duplicates of an image."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError, enumerate_words, nearest, plural
from classifier_training.core.runtime import num_cores
from classifier_training.data.checking.duplicates import find_copies, join
from classifier_training.data.checking.scan import scan_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from classifier_training.data.index import SampleIndex
    from classifier_training.data.samples import Sample

log = logging.getLogger(__name__)

PARENT = re.compile(r"parent([1-9]\d?)?")
PATTERN = "re:"
METADATA = "metadata."


def assign_groups(index: SampleIndex, rule: int | str | None) -> SampleIndex:
    """Give each sample the group that a rule finds for it.

    Args:
        index: the samples; without a rule they keep the groups that the data itself gives.
        rule: `parent` for the name of the folder an image is in and `parent2` for the one above; a number for a
            folder counted from the root; `re:PATTERN` for what the group called `group`, the first group, or the whole
            pattern finds in the path; `group` or any other name for a column or a metadata field.

    Raises:
        UserError: when the rule is invalid, or finds no group at all.
    """
    if rule is None:
        return index
    find = _finder(index, rule)
    groups = [find(sample) for sample in index.samples]
    missing = [sample.path for sample, group in zip(index.samples, groups, strict=True) if not group]
    if len(missing) == len(groups):
        raise UserError(
            f"data.group={rule} finds no group in any path or row, such as {missing[0]!r}",
            "a folder, pattern, column or metadata field that the data has",
            "data.group=parent for the folder that an image is in, or leave it out",
        )
    if missing:
        log.warning("data.group=%s finds no group for %s, so each is a group of its own: %s",
                    rule, plural(len(missing), "image"), enumerate_words(missing, limit=3))  # fmt: skip
    return index.with_groups(groups)


def _finder(index: SampleIndex, rule: int | str) -> Callable[[Sample], str]:
    if isinstance(rule, int):
        return lambda sample: _part([*sample.path.split("/")[:-1]], rule - 1)
    parent = PARENT.fullmatch(rule)
    if parent:
        steps = int(parent[1] or 1)
        return lambda sample: _part(sample.path.split("/")[-2::-1], steps - 1)
    if rule.startswith(PATTERN):
        return _matcher(rule)
    if rule == "group":
        return lambda sample: sample.group
    return _field_reader(index, rule)


def _part(folders: list[str], place: int) -> str:
    return folders[place] if place < len(folders) else ""


def _matcher(rule: str) -> Callable[[Sample], str]:
    try:
        pattern = re.compile(rule.removeprefix(PATTERN))
    except re.error as error:
        raise UserError(
            f"data.group={rule}: no regular expression ({error})",
            "a pattern that finds the group in a path, such as re:(session\\d+)",
            "correct the pattern; quote it for the shell: 'data.group=\"re:(session\\d+)\"'",
        ) from error

    def find(sample: Sample) -> str:
        found = pattern.search(sample.path)
        if found is None:
            return ""
        return found["group"] or "" if "group" in pattern.groupindex else found[min(pattern.groups, 1)] or ""

    return find


def _field_reader(index: SampleIndex, rule: str) -> Callable[[Sample], str]:
    """Read a metadata field; a name with dots leads into fields of fields."""
    name = rule.removeprefix(METADATA)
    names = sorted({field for sample in index.samples for field in sample.metadata or ()})
    if name.partition(".")[0] not in names and name not in names:
        close = nearest(name, [*names, "parent"])
        raise UserError(
            f"data.group={rule}: the data has no such column or metadata field",
            f"one of {enumerate_words(names)}" if names else "parent, a folder's number or re:PATTERN on the path",
            f"data.group={close[0] if close else 'parent'}",
        )

    def find(sample: Sample) -> str:
        node: Any = sample.metadata or {}
        if name in node:
            node = node[name]
        else:
            for part in name.split("."):
                node = node.get(part) if isinstance(node, dict) else None
        return "" if node is None else str(node)

    return find


def group_duplicates(index: SampleIndex, clusters: Mapping[str, str]) -> SampleIndex:
    """Put duplicate images into one group, together with the groups that they belong to.

    Args:
        index: the samples.
        clusters: relative path to the name of its cluster of duplicates, for the images that have one.

    Returns:
        The samples; a joined group has the name of its first member's group or path.
    """
    keys: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for sample in index.samples:
        if sample.path in clusters:
            keys[sample.path].add(("duplicates", clusters[sample.path]))
        if sample.group:
            keys[sample.path].add(("group", sample.group))
    heads: dict[tuple[str, str], tuple[str, str]] = {}

    def head(key: tuple[str, str]) -> tuple[str, str]:
        while heads.setdefault(key, key) != key:
            heads[key] = heads[heads[key]]
            key = heads[key]
        return key

    for found in keys.values():
        first, *others = sorted(found)
        for other in others:
            heads[head(other)] = head(first)
    names: dict[tuple[str, str], str] = {}
    groups = []
    for sample in index.samples:
        found = keys.get(sample.path, set())
        groups.append(names.setdefault(head(min(found)), sample.group or sample.path) if found else "")
    log.info("%d images have duplicates; they form %d groups", len(clusters), len(set(clusters.values())))
    return index.with_groups(groups)


def report_straddling(index: SampleIndex) -> None:
    """Warn when a group is in more than one split, which happens when the data or data.splits defines the splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for sample in index.samples:
        if sample.group:
            splits[sample.group].add(sample.split)
    shared = sorted(group for group, found in splits.items() if len(found) > 1)
    if shared:
        log.warning("%d groups are in more than one split, so the scores will be too good: %s",
                    len(shared), enumerate_words(shared, limit=3))  # fmt: skip


def near_duplicates(index: SampleIndex) -> dict[str, str]:
    """Return the cluster of every file that has duplicates: exact, re-encoded, resized or brightened ones.

    Every file is decoded.

    Returns:
        Relative path to the path of the cluster's first file, for the files that have duplicates.
    """
    paths = list(dict.fromkeys(sample.path for sample in index.samples))
    copies = find_copies(scan_files(index.root, paths, num_workers=num_cores()))
    links = [(group[0], other) for group in (*copies.exact, *copies.near) for other in group[1:]]
    return {paths[place]: paths[group[0]] for group in join(len(paths), links) for place in group}
