"""Images that belong on one side of a split because they show the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier_training.core.runtime import num_cores
from classifier_training.data.checking.duplicates import find_copies, join
from classifier_training.data.checking.scan import scan_files

if TYPE_CHECKING:
    from classifier_training.data.index import SampleIndex


def near_twins(index: SampleIndex) -> dict[str, str]:
    """Name the cluster of every file that shows what another does: copied, re-encoded, resized or brightened.

    Every file is decoded.

    Returns:
        Relative path to the path of the cluster's first file, for the files that have a twin.
    """
    paths = list(dict.fromkeys(sample.path for sample in index.samples))
    copies = find_copies(scan_files(index.root, paths, num_workers=num_cores()))
    links = [(group[0], other) for group in (*copies.exact, *copies.near) for other in group[1:]]
    return {paths[place]: paths[group[0]] for group in join(len(paths), links) for place in group}
