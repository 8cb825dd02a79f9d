"""Images that belong on one side of a split because they show the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier_training.core.runtime import num_cores
from classifier_training.data.duplicates import find_copies, join
from classifier_training.data.preflight import exact_copies
from classifier_training.data.scan import scan_files

if TYPE_CHECKING:
    from classifier_training.data.index import SampleIndex


def exact_twins(index: SampleIndex) -> dict[str, str]:
    """Name the cluster of every file whose bytes another has too, by relative path; only files of one size are read."""
    paths = list(dict.fromkeys(sample.path for sample in index.samples))
    return {path: group[0] for group in exact_copies(index.root, paths) for path in group}


def near_twins(index: SampleIndex) -> dict[str, str]:
    """Do the same for images that look alike: copied, re-encoded, resized or brightened; every file is decoded."""
    paths = list(dict.fromkeys(sample.path for sample in index.samples))
    copies = find_copies(scan_files(index.root, paths, num_workers=num_cores()))
    links = [(group[0], other) for group in (*copies.exact, *copies.near) for other in group[1:]]
    return {paths[place]: paths[group[0]] for group in join(len(paths), links) for place in group}
