"""Several data folders put together into one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.data.index import SampleIndex

if TYPE_CHECKING:
    from collections.abc import Sequence


def merge_roots(indexes: Sequence[SampleIndex]) -> SampleIndex:
    """Put the samples of several roots together; their paths then begin from the folder that holds all of them.

    Classes of the same name are one class.

    Raises:
        UserError: when there is no root, or one of them lies in another.
    """
    if len(indexes) == 1:
        return indexes[0]
    if not indexes:
        raise UserError("data.root=[] names no folder", "one folder or more", "data.root=[/my/images,/more/images]")
    _refuse_nested([index.root for index in indexes])
    common = Path(os.path.commonpath([index.root for index in indexes]))
    samples = [
        replace(sample, path=f"{index.root.relative_to(common).as_posix()}/{sample.path}")
        for index in indexes
        for sample in index.samples
    ]
    empty = [f"{index.root.relative_to(common).as_posix()}/{name}" for index in indexes for name in index.empty_classes]
    return SampleIndex(common, tuple(samples), tuple(empty))


def _refuse_nested(roots: Sequence[Path]) -> None:
    for place, root in enumerate(roots):
        for other in roots[place + 1 :]:
            if root.is_relative_to(other) or other.is_relative_to(root):
                raise UserError(
                    f"data.root names {root} and {other}, so the same images twice",
                    "folders of which none lies in another",
                    f"data.root={min(root, other, key=lambda path: len(path.parts))}",
                )
