"""Training again: the images of an earlier run keep their splits, and some of them are trained on beside the new ones.

Replay of old images, drawn by class, is the method that forgets least for its price (Rebuffi et al. 2017,
arXiv:1611.07725; Chaudhry et al. 2019, arXiv:1902.10486).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, plural, shown
from classifier_training.core.labels import skeleton
from classifier_training.core.storage.places import path_of
from classifier_training.core.types import TEST, TRAIN, VAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.data.formats.source import DataSource
    from classifier_training.data.index import SampleIndex
    from classifier_training.data.samples import Samples

log = logging.getLogger(__name__)

SAME_DATA = 0.5
"""Share of a run's images in a folder from which on it is the run's data at another place."""

FEW = 20
"""Training images of a class below which replay holds it badly; what is gone then is said by class."""


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """The data of the run that is trained again.

    Args:
        path: of its folder.
        samples: what it was trained, validated and tested on, as its splits.csv says.
        class_names: in the order of its outputs.
        roots: its data folders, as it was configured.
    """

    path: Path
    samples: Samples
    class_names: tuple[str, ...]
    roots: tuple[str, ...]

    def find_base(self, source: DataSource) -> Path:
        """Return the folder that its paths begin from now.

        Args:
            source: the data of the new run: the folders of the run before, or where they are now, and new ones.

        Raises:
            UserError: when its images are not below these folders.
        """
        given = roots_of(source)
        base = None
        if self.has_roots_in(given):
            base = common([resolved(root) for root in self.roots])
        elif given:
            base = find_moved(list(self.samples.paths), given)
        if base is None:
            raise UserError(
                f"replay: the images that {self.path} was trained on are not in {enumerate_words(given) or 'the data'}",
                "its data folders beside the new ones: without old images the network forgets the old classes",
                "data.root=[/old/images,/new/images]",
            )
        return base

    def has_roots_in(self, given: Sequence[str]) -> bool:
        """Whether one of its folders is among these."""
        return not {*map(resolved, self.roots)}.isdisjoint(map(resolved, given))

    def has_new_roots(self, source: DataSource) -> bool:
        """Whether the new images are in folders of their own."""
        given = roots_of(source)
        return len(given) > (len(self.roots) if self.has_roots_in(given) else 1)


def roots_of(source: DataSource) -> list[str]:
    """Return the data folders of a source; none where it has no folders."""
    root = getattr(source, "root", None)
    return [] if root is None else list(root) if isinstance(root, list) else [root]


def resolved(root: str) -> Path:
    """Return a data folder without links and relative parts, whether it is there or not."""
    return path_of(root).resolve()


def common(folders: Sequence[Path]) -> Path:
    """Return the folder that contains all of these."""
    return path_of(os.path.commonpath(folders))


def find_moved(paths: Sequence[str], given: Sequence[str]) -> Path | None:
    """Return the folder among those given, or the one above all of them, that has most of these paths; None if none."""
    places = [resolved(root) for root in given]
    for base in (*places, common([place if place.is_dir() else place.parent for place in places])):
        if sum((base / path).is_file() for path in paths) >= SAME_DATA * len(paths):
            return base
    return None


def keep_splits(index: SampleIndex, earlier: EarlierRun, base: Path, *, takes_others: bool) -> SampleIndex:
    """Give the images of an earlier run the splits that they had in it; the others are new and keep theirs, if any.

    Args:
        index: the images of the earlier run and new ones.
        earlier: the run.
        base: folder that its paths begin from.
        takes_others: whether other images in the folders of the earlier run are new ones; else they are left out, since
            that run did without them.

    Raises:
        UserError: when no image of a class is left to train on.
    """
    found = _rows_of(index, earlier, base)
    is_old = found >= 0
    # Those of the run may lie on both sides of a new one, below one folder.
    folders = [place for place in map(resolved, earlier.roots) if place.is_dir()] or [base]
    inside = tuple(_prefix(index.root, folder) for folder in folders)
    is_kept = is_old | takes_others | np.array([not path.startswith(inside) for path in index.paths], dtype=bool)
    if not is_kept.all():
        log.info("%s in %s that the run did without: left out", plural(int((~is_kept).sum()), "image"), base)
    is_missing = np.ones(len(earlier.samples), dtype=bool)
    is_missing[found[is_old]] = False
    _tell_gone(earlier.samples[is_missing], earlier, base)
    old, given = np.flatnonzero(is_old), earlier.samples[found[is_old]]
    samples = index.samples.with_columns(
        splits=index.splits.replaced(old, given.splits), groups=index.groups.replaced(old, given.groups)
    )
    return replace(index, samples=samples[is_kept])


def replayed_rows(index: SampleIndex, earlier: EarlierRun, base: Path) -> NDArray[np.bool_]:
    """Say which samples the earlier run was trained on with the label that they have now, bool [N].

    The others of the training split are new to the network: new images, and those whose label was corrected since.
    """
    found = _rows_of(index, earlier, base)
    old = np.flatnonzero((found >= 0) & index.splits.where(TRAIN))
    before = earlier.samples[found[old]]
    replayed = np.zeros(len(index), dtype=bool)
    is_same = np.array([one == other for one, other in zip(before.labels, index.labels[old], strict=True)], dtype=bool)
    replayed[old] = before.splits.where(TRAIN) & is_same
    return replayed


def refuse_nothing_new(index: SampleIndex, replayed: NDArray[np.bool_], earlier: EarlierRun) -> None:
    """Raise when there is no training image that the earlier run was not trained on.

    Raises:
        UserError: then.
    """
    if (index.splits.where(TRAIN) & ~replayed).any():
        return
    raise UserError(
        f"replay: {index.root} has no training image that is new to {earlier.path}, and no label was corrected since",
        "new labelled images, in a folder of their own or in that of the run, or new corrections",
        "data.root=/my/new/images, with a folder a class",
    )


def refuse_alike(class_names: Iterable[str], earlier: EarlierRun) -> None:
    """Raise when the name of a new class is that of an old one but for case, spaces, hyphens or accents.

    Raises:
        UserError: then.
    """
    old = {skeleton(name): name for name in earlier.class_names}
    known = set(earlier.class_names)
    pairs = [(name, old[skeleton(name)]) for name in class_names if name not in known and skeleton(name) in old]
    if pairs:
        new, other = pairs[0]
        raise UserError(
            f"the new class {shown(new)} is written almost like {shown(other)}, a class of {earlier.path}"
            + (f" (and {len(pairs) - 1} more pairs)" if len(pairs) > 1 else ""),
            "the same name for the same class: the network could not tell them apart",
            f"rename the folder or label {shown(new)} to {shown(other)}, or to another name if it is another class",
        )


def _rows_of(index: SampleIndex, earlier: EarlierRun, base: Path) -> NDArray[np.int64]:
    """Return the row that each sample has in an earlier run's splits.csv, int64 [N]; -1 for one that it lacks."""
    prefix = _prefix(index.root, base)
    rows = {f"{prefix}{path}": row for row, path in enumerate(earlier.samples.paths)}
    return np.array([rows.get(path, -1) for path in index.paths], dtype=np.int64)


def _prefix(root: Path, base: Path) -> str:
    inner = os.path.relpath(base, root)
    return "" if inner == "." else f"{inner}/"


def _tell_gone(missing: Samples, earlier: EarlierRun, base: Path) -> None:
    """Say which images of an earlier run are gone, and what that risks.

    Raises:
        UserError: when no training image of a class is left.
    """
    if not len(missing):
        return
    before, gone = (rows.labels[rows.splits.where(TRAIN)].counts() for rows in (earlier.samples, missing))
    left = {name: number - gone[name] for name, number in before.items() if name in gone}
    empty = sorted(name for name, number in left.items() if not number)
    if empty:
        raise UserError(
            f"{base}: of {enumerate_words(map(shown, empty))} no training image is left of those that {earlier.path} "
            "was trained on",
            "some old images of each class: without them the network forgets the class",
            "restore them, or name the folder that they are in now: data.root=[/old/images,/new/images]",
        )
    few = [f"{shown(name)} {number}" for name, number in sorted(left.items()) if number < FEW]
    risk = f"; classes with few left are easily forgotten: {enumerate_words(few, limit=6)}" if few else ""
    held_out = int(missing.splits.where(VAL, TEST).sum())
    fewer = f"; {plural(held_out, 'held-out image')} fewer to compare on" if held_out else ""
    log.warning(
        "replay: %d of the %s of %s are gone from %s; the others are replayed%s%s",
        len(missing), plural(len(earlier.samples), "image"), earlier.path, base, risk, fewer,
    )  # fmt: skip
