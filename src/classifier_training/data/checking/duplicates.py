"""Exact duplicates, and near duplicates: the same image re-encoded, resized or brightened.

A perceptual hash alone confuses smooth images, so it only proposes pairs. The proposal is a unit vector of the image's
low frequencies. Vectors of near duplicates are neighbours when all are sorted by the signs of random projections
(Charikar 2002, "Similarity estimation techniques from rounding algorithms"). Several such orders miss few of them, in a
time that grows with the number of images and not with its square. Thumbnails decide: after the best change of
brightness and contrast, two images must correlate in every part, not only on average.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import plural, shown
from classifier_training.data.checking.findings import MAX_EXAMPLES, SHOWN_OF_GROUP, Finding, ShownImage
from classifier_training.data.checking.scan import THUMBNAIL

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.data.checking.findings import Inspected, Severity
    from classifier_training.data.checking.scan import FileScan

MIN_CONTRAST = 5.0
"""Standard deviation in grey levels, without a slope across the image, below which an image shows too little to be
compared: a black screen, a clear sky. Of those, only images with the same pixels count as duplicates."""

MIN_CORRELATION = 0.955
MAX_LOCAL_ERROR = 0.5
"""Largest error in any sixteenth of the image, as a share of its contrast."""

MAX_COLOUR_ERROR = 14.0
"""Mean colour difference in grey levels, without brightness: a red shirt is no duplicate of a blue one."""

MAX_ASPECT_ERROR = 0.05
FULL_DETAIL_SIDE = 64
"""Pairs whose smaller image has this side are compared at 32 x 32 pixels, others at 16 x 16, because 32 x 32 would show
how they were resized."""

NUM_FREQUENCIES = 7
NUM_NEIGHBOURS = 8
"""Proposals for each image. Chains of duplicates are joined through their members, so a few suffice."""

MAX_DISTANCE = 0.4
"""Between the low frequencies of two near duplicates."""

NUM_ORDERS, WINDOW, NUM_BITS = 24, 32, 32
"""Orders by random projections, images that each is compared with after it, and projections of an order. Of copies of
400 photos 99 % lie within a distance of 0.23; `scripts/bench/duplicates.py` prints the share of pairs that is found."""

CHUNK = 4096
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Copies:
    """Groups of duplicates, as indices into the scan's list; each file is in at most one group of a kind.

    Args:
        exact: the same bytes.
        near: the same image; a group may contain exact duplicates, but not only those.
    """

    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]


def find_copies(scan: FileScan, *, near: bool = True) -> Copies:
    """Find the duplicates among the files of a scan; `near=False` finds exact ones only."""
    readable = [place for place, fact in enumerate(scan.facts) if not fact.error]
    exact = _groups_of((scan.facts[place].file_hash, place) for place in readable)
    by_pixels = _groups_of((scan.facts[place].pixel_hash, place) for place in readable if scan.facts[place].pixel_hash)
    links = [(group[0], other) for group in (*exact, *by_pixels) for other in group[1:]]
    if not near:
        return Copies(exact, ())
    # One of each set of identical images represents it, so that a thousand copies do not make a million pairs.
    followers = {other for _, other in links}
    links += _near_pairs(scan, np.array([place for place in readable if place not in followers], dtype=np.int64))
    joined = join(len(scan.facts), links)
    same = {place: scan.facts[place].file_hash for group in joined for place in group}
    return Copies(exact, tuple(group for group in joined if len({same[place] for place in group}) > 1))


def join(number: int, links: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the connected components of linked indices (union-find); an index without a link is in none."""
    parents = list(range(number))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    touched = set()
    for one, other in links:
        touched |= {one, other}
        first, second = sorted((root(one), root(other)))
        parents[second] = first
    return list(_groups_of((root(place), place) for place in sorted(touched)))


def _groups_of(keyed: Iterable[tuple[Hashable, int]]) -> tuple[tuple[int, ...], ...]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for key, place in keyed:
        groups[key].append(place)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _near_pairs(scan: FileScan, places: NDArray[np.int64]) -> list[tuple[int, int]]:
    points, kept = [], []
    for chunk in _chunks(places):
        shapes = details(scan.thumbnails[chunk])
        visible = shapes.std(axis=1) >= MIN_CONTRAST
        points.append(low_frequencies(shapes[visible]))
        kept.append(chunk[visible])
    if sum(map(len, kept)) < 2:
        return []
    proposed = np.concatenate(kept)[propose(np.concatenate(points))]
    sizes = np.array([(fact.width, fact.height, fact.orientation >= 5) for fact in scan.facts], dtype=np.float64)
    pairs: list[tuple[int, int]] = []
    for chunk in _chunks(proposed):
        pairs += map(tuple, chunk[_are_alike(scan.thumbnails, sizes, chunk)].tolist())
    return pairs


def propose(points: NDArray[np.float32]) -> NDArray[np.int64]:
    """Find pairs of unit vectors at a distance up to `MAX_DISTANCE`, about the nearest ones of each [M, 2].

    Args:
        points: [N, D], N >= 2.
    """
    number, random = len(points), np.random.default_rng(0)
    middle = points.mean(axis=0)
    found = np.zeros(0, dtype=np.int64)
    for _ in range(NUM_ORDERS):
        planes = random.normal(size=(points.shape[1], NUM_BITS)).astype(np.float32)
        bits = np.concatenate([(points[rows] - middle) @ planes > 0 for rows in _chunks(np.arange(number))])
        order = np.argsort(np.packbits(bits, axis=1).view(">u4")[:, 0], kind="stable")
        new = [found]
        for first in range(0, number, CHUNK):
            block = points[order[first : first + CHUNK + WINDOW]]
            rows, following = _nearest_following(block, min(CHUNK, number - first))
            one, other = order[first + rows], order[first + rows + following]
            new.append(np.minimum(one, other) * number + np.maximum(one, other))
        found = np.unique(np.concatenate(new))
    pairs = np.stack(np.divmod(found, number), axis=1)
    return pairs[_is_among_nearest(points, pairs)]


def _nearest_following(block: NDArray[np.float32], number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each of the first rows, which of the `WINDOW` rows after it are the nearest within reach, by their offset."""
    similar = np.full((WINDOW + 1, number), -1, dtype=np.float32)
    for offset in range(1, min(WINDOW, len(block) - 1) + 1):
        some = min(number, len(block) - offset)
        similar[offset, :some] = np.einsum("nd,nd->n", block[:some], block[offset : offset + some])
    close = similar >= 1 - MAX_DISTANCE**2 / 2
    many = np.flatnonzero(close.sum(axis=0) > NUM_NEIGHBOURS // 2)
    least = np.partition(similar[:, many], -(NUM_NEIGHBOURS // 2), axis=0)[-(NUM_NEIGHBOURS // 2)]
    close[:, many] &= similar[:, many] >= least
    offsets, rows = np.nonzero(close)
    return rows, offsets


def _is_among_nearest(points: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether one of a pair is among the `NUM_NEIGHBOURS` nearest of the other [M]."""
    near = [np.einsum("nd,nd->n", *(points[side] for side in chunk.T)) for chunk in _chunks(pairs)]
    owners = pairs.T.reshape(-1)
    order = np.lexsort((np.tile(-np.concatenate([np.zeros(0, np.float32), *near]), 2), owners))
    ends = np.bincount(owners, minlength=len(points)).cumsum()
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.concatenate([[0], ends[:-1]])[owners[order]]
    return np.asarray((ranks < NUM_NEIGHBOURS).reshape(2, -1).any(axis=0))


def _are_alike(
    thumbnails: NDArray[np.uint8], sizes: NDArray[np.float64], pairs: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether each pair shows the same image [M].

    Args:
        thumbnails: of all files.
        sizes: width, height and whether they are exchanged, of all files [N, 3].
        pairs: of files [M, 2].
    """
    width, height, is_turned = sizes[pairs].transpose(2, 0, 1)
    ratios = np.log(width / height) * np.where(is_turned, -1, 1)
    alike: NDArray[np.bool_] = np.abs(ratios[:, 0] - ratios[:, 1]) <= MAX_ASPECT_ERROR
    fine = np.minimum(width, height).min(axis=1) >= FULL_DETAIL_SIDE
    for has_detail in (False, True):
        chosen = np.flatnonzero(alike & (fine == has_detail))
        if not len(chosen):
            continue
        one, other = thumbnails[pairs[chosen, 0]], thumbnails[pairs[chosen, 1]]
        first, second = (side if has_detail else _halved(side) for side in (details(one), details(other)))
        forth = _agree(first, second) & (_colour_error(one, other) <= MAX_COLOUR_ERROR)
        back = _agree(second, first) & (_colour_error(other, one) <= MAX_COLOUR_ERROR)
        alike[chosen] = forth | back
    return alike


def _agree(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether details [N, S * S] agree up to a factor, as a whole and in each of sixteen parts."""
    products, first, second = (one * other).sum(1), (one * one).sum(1) + 1e-6, (other * other).sum(1) + 1e-6
    errors = one - (products / second)[:, None] * other
    side = round(one.shape[1] ** 0.5)
    parts = (errors**2).reshape(-1, 4, side // 4, 4, side // 4).mean(axis=(2, 4)).max(axis=(1, 2))
    contrast = np.maximum(first, second) / one.shape[1]
    correlated = products >= MIN_CORRELATION * np.sqrt(first * second)
    return np.asarray(correlated & (parts <= MAX_LOCAL_ERROR**2 * contrast))


def details(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey thumbnails without mean and slope, float32 [N, 32 * 32]; smooth skies would otherwise all look alike."""
    grey = (thumbnails.astype(np.float32) @ LUMA).reshape(len(thumbnails), -1)
    y, x = np.mgrid[:THUMBNAIL, :THUMBNAIL].reshape(2, -1) - (THUMBNAIL - 1) / 2
    basis = np.linalg.qr(np.stack([np.ones_like(x), x, y], axis=1))[0].astype(np.float32)
    return np.asarray(grey - (grey @ basis) @ basis.T, dtype=np.float32)


def _halved(shapes: NDArray[np.float32]) -> NDArray[np.float32]:
    half = THUMBNAIL // 2
    return np.asarray(shapes.reshape(-1, half, 2, half, 2).mean(axis=(2, 4)).reshape(-1, half * half))


def low_frequencies(shapes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lowest frequencies in both directions, scaled to length one; distances then measure correlation.

    After Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", but not reduced to bits.
    """
    from scipy.fft import dctn

    waves = dctn(shapes.reshape(-1, THUMBNAIL, THUMBNAIL), axes=(1, 2), norm="ortho")
    y, x = np.mgrid[:NUM_FREQUENCIES, :NUM_FREQUENCIES]
    chosen = waves[:, :NUM_FREQUENCIES, :NUM_FREQUENCIES][:, (y + x >= 2) & (y + x < NUM_FREQUENCIES)]
    return np.asarray(chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def _colour_error(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    first, second = one.astype(np.float32).mean(axis=(1, 2)), other.astype(np.float32).mean(axis=(1, 2))
    gains = (first @ LUMA + 1) / (second @ LUMA + 1)
    return np.asarray(np.abs(first - gains[:, None] * second).mean(axis=1))


def _chunks(values: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
    return [values[start : start + CHUNK] for start in range(0, len(values), CHUNK)]


Group = tuple[int, ...]

REMOVE = "keep one file of each group and remove the others, or move them all to one split"


def check_copies(data: Inspected, copies: Copies) -> Iterator[Finding]:
    """Yield the findings about duplicates, the most severe first; a group is in one finding for each problem."""
    labels, splits = data.labels(), data.splits()
    for kind, groups in (("exact", copies.exact), ("near", copies.near)):
        exact = kind == "exact"
        noun = "exact duplicates" if exact else "near duplicates"
        across = [group for group in groups if len(_values(data, splits, group)) > 1]
        if across:
            yield _finding(
                data, across, f"{kind}_copies_across_splits", "error" if exact else "warning",
                f"{plural(_size(across), 'file')} {'are exact duplicates' if exact else 'look the same'} "
                f"across splits, in {plural(len(across), 'group')}",
                "The model is scored on images of its training data, so the scores are too high."
                if exact
                else "The same image, re-encoded, resized or brightened, is used for training and for scoring, so the "
                "scores are too high. Frames of one recording look like this, too.",
                REMOVE if exact else "look at them; then remove them, or keep a recording in one split: data.group=…",
            )  # fmt: skip
        contradicting = [group for group in groups if len(_label_sets(data, labels, group)) > 1]
        if contradicting:
            yield _finding(
                data, contradicting, f"{kind}_copies_with_two_labels", "error" if exact else "warning",
                f"{plural(len(contradicting), 'group')} of {noun} with different labels",
                "The same image has two labels; at least one of them is wrong.",
                "choose one label and remove the other file",
            )  # fmt: skip
        told = {*across, *contradicting}
        rest = [group for group in groups if group not in told]
        if rest:
            yield _finding(
                data, rest, f"{kind}_copies", "warning" if exact else "note",
                f"{plural(_size(rest), 'file')} in {plural(len(rest), 'group')} of {noun}",
                "Duplicates within a class and split count several times in training and in scores."
                if data.index.present_splits()
                else "The data is not split yet: a random split may put duplicates into different splits.",
                REMOVE if exact else "remove them, or keep them in one split: data.group_duplicates=true",
            )  # fmt: skip


def _values(data: Inspected, by_path: Mapping[str, set[str]], group: Group) -> set[str]:
    return {value for place in group for value in by_path[data.scan.facts[place].path] if value}


def _label_sets(data: Inspected, labels: Mapping[str, set[str]], group: Group) -> set[frozenset[str]]:
    # An image may rightly have several labels; its duplicates then have the same ones.
    return {frozenset(labels[data.scan.facts[place].path]) for place in group}


def _size(groups: Sequence[Group]) -> int:
    return sum(map(len, groups))


def _finding(
    data: Inspected, groups: Sequence[Group], code: str, severity: Severity, title: str, words: str, remedy: str
) -> Finding:
    labels, splits = data.labels(), data.splits()

    def image(place: int) -> ShownImage:
        path = data.scan.facts[place].path
        named = [*sorted(filter(None, splits[path])), *map(shown, sorted(labels[path]))]
        return ShownImage(path, ", ".join(named))

    largest = sorted(groups, key=len, reverse=True)
    examples = tuple(tuple(map(image, group[:SHOWN_OF_GROUP])) for group in largest[:MAX_EXAMPLES])
    rows = tuple(
        (str(number), data.scan.facts[place].path) for number, group in enumerate(largest, start=1) for place in group
    )
    return Finding(
        code=code, severity=severity, title=title, words=words, remedy=remedy,
        count=len(groups), examples=examples, rows=rows,
    )  # fmt: skip
