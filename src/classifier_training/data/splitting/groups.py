"""Groups, which stay in one split: a session, a video, a player, or duplicates of an image."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.columns import Categories, different, number_by_first
from classifier_training.core.errors import UserError, enumerate_words, nearest, plural
from classifier_training.core.runtime import num_cores
from classifier_training.data.checking.duplicates import find_copies, join
from classifier_training.data.checking.scan import scan_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from classifier_training.data.index import SampleIndex
    from classifier_training.data.samples import Samples

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
    groups = _find_groups(index, rule)
    missing = index.paths[groups.where("")]
    if len(missing) == len(groups):
        raise UserError(
            f"data.group={rule} finds no group in any path or row, such as {missing[0]!r}",
            "a folder, pattern, column or metadata field that the data has",
            "data.group=parent for the folder that an image is in, or leave it out",
        )
    if len(missing):
        log.warning("data.group=%s finds no group for %s, so each is a group of its own: %s",
                    rule, plural(len(missing), "image"), enumerate_words(missing, limit=3))  # fmt: skip
    return index.with_groups(groups)


def _find_groups(index: SampleIndex, rule: int | str) -> Categories[str]:
    if isinstance(rule, int):
        return Categories.of(_part(path.split("/")[:-1], rule - 1) for path in index.paths)
    parent = PARENT.fullmatch(rule)
    if parent:
        steps = int(parent[1] or 1)
        return Categories.of(_part(path.split("/")[-2::-1], steps - 1) for path in index.paths)
    if rule.startswith(PATTERN):
        return Categories.of(map(_matcher(rule), index.paths))
    return index.groups if rule == "group" else _read_field(index.samples, rule)


def _part(folders: list[str], place: int) -> str:
    return folders[place] if place < len(folders) else ""


def _matcher(rule: str) -> Callable[[str], str]:
    try:
        pattern = re.compile(rule.removeprefix(PATTERN))
    except re.error as error:
        raise UserError(
            f"data.group={rule}: no regular expression ({error})",
            "a pattern that finds the group in a path, such as re:(session\\d+)",
            "correct the pattern; quote it for the shell: 'data.group=\"re:(session\\d+)\"'",
        ) from error

    def find(path: str) -> str:
        found = pattern.search(path)
        if found is None:
            return ""
        return found["group"] or "" if "group" in pattern.groupindex else found[min(pattern.groups, 1)] or ""

    return find


def _read_field(samples: Samples, rule: str) -> Categories[str]:
    """Read a metadata field; a name with dots leads into fields of fields."""
    name = rule.removeprefix(METADATA)
    names, (first, *inner) = sorted(samples.metadata), name.split(".")
    if first not in names and name not in names:
        close = nearest(name, [*names, "parent"])
        raise UserError(
            f"data.group={rule}: the data has no such column or metadata field",
            f"one of {enumerate_words(names)}" if names else "parent, a folder's number or re:PATTERN on the path",
            f"data.group={close[0] if close else 'parent'}",
        )

    def read(node: Any) -> str:
        for part in inner:
            node = node.get(part) if isinstance(node, dict) else None
        return "" if node is None else str(node)

    # A row that has a field of the whole name takes that, any other one what the dots lead to.
    columns = [samples.metadata[first].mapped(read)] if first in names else []
    if name != first and name in names:
        columns.append(samples.metadata[name].mapped(lambda node: "" if node is None else str(node)))
    groups = Categories.same("", len(samples))
    for column in columns:
        rows = column.codes >= 0
        groups = groups.replaced(rows, column[rows])
    return groups


def group_duplicates(index: SampleIndex, clusters: Mapping[str, str]) -> SampleIndex:
    """Put duplicate images into one group, together with the groups that they belong to.

    Args:
        index: the samples.
        clusters: relative path to the name of its cluster of duplicates, for the images that have one.

    Returns:
        The samples; a joined group has the name of its first member's group or path.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    images, first = index.paths.numbers()
    names = Categories.of(clusters.values())
    codes = dict(zip(clusters, names.codes.tolist(), strict=True))
    copied = index.paths.find(clusters)
    grouped = np.flatnonzero(~index.groups.where(""))
    # An image is in a component with its cluster and with each of its groups.
    heads = len(first) + np.array([codes[path] for path in index.paths[copied]], dtype=np.int64)
    groups = len(first) + len(names.values) + index.groups.codes[grouped].astype(np.int64)
    links = np.concatenate([images[copied], images[grouped]]), np.concatenate([heads, groups])
    number = len(first) + len(names.values) + len(index.groups.values)
    graph = coo_array((np.ones(len(links[0]), bool), links), shape=(number, number))
    component = connected_components(graph, directed=False)[1][images]
    rows = np.flatnonzero(np.isin(images, links[0]))
    joined, first_rows = number_by_first(component[rows])
    leads = index.samples[rows[first_rows]]
    titles = Categories.of(group or path for path, group in zip(leads.paths, leads.groups, strict=True))
    log.info("%d images have duplicates, in %s", len(clusters), plural(len(names.values), "group"))
    return index.with_groups(Categories.same("", len(index)).replaced(rows, titles[joined]))


def report_straddling(index: SampleIndex) -> None:
    """Warn when a group is in more than one split, which happens when the data or data.splits defines the splits."""
    stride = len(index.splits.values)
    pairs = different(index.groups.codes.astype(np.int64) * stride + index.splits.codes)
    codes = np.flatnonzero(np.bincount(pairs // max(stride, 1)) > 1).tolist()
    shared = sorted(group for group in (index.groups.values[code] for code in codes) if group)
    if shared:
        log.warning("%d groups are in more than one split, so the scores will be too good: %s",
                    len(shared), enumerate_words(shared, limit=3))  # fmt: skip


def near_duplicates(index: SampleIndex) -> dict[str, str]:
    """Return the cluster of every file that has duplicates: exact, re-encoded, resized or brightened ones.

    Every file is decoded.

    Returns:
        Relative path to the path of the cluster's first file, for the files that have duplicates.
    """
    paths = [*index.paths[index.paths.numbers()[1]]]
    copies = find_copies(scan_files(index.root, paths, num_workers=num_cores()))
    links = [(group[0], other) for group in (*copies.exact, *copies.near) for other in group[1:]]
    return {paths[place]: paths[group[0]] for group in join(len(paths), links) for place in group}
