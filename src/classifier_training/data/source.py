"""What every form of data shares: how it is loaded, split and what happens to files that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from classifier_training.core.settings import PathText  # noqa: TC001 - the register reads it at run time

if TYPE_CHECKING:
    from classifier_training.data.index import SampleIndex

Store = Literal["auto", "off", "on", "jpeg"]
Fraction = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set; a form of data derives from this, or from FolderSource, and says how its rows are read.

    Args:
        image_size: side of the network's square input in pixels; the model's own size when left out.
        batch_size: images in a batch.
        num_workers: loader processes; auto takes none beside a busy CPU, up to eight beside a GPU.
        val_fraction: share of unsplit images kept for validation (0.15 when left out).
        test_fraction: share of unsplit images kept for the test (0.15 when left out).
        on_error: what an unreadable image does: raise ends the run and names it, skip goes on without it.
        store: whether decoded pixels are kept on disk: auto writes them while the first epoch runs, as JPEG or not
            at all when the room is short; on writes them before training; jpeg takes little room, at some loss; off
            keeps nothing.
        store_gb: room for the pixels of all data sets, in GB; half of the free disk when left out.
    """

    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 64
    num_workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"
    val_fraction: Fraction | None = None
    test_fraction: Fraction | None = None
    on_error: Literal["raise", "skip"] = "raise"
    store: Store = "auto"
    store_gb: Annotated[float, Field(gt=0)] | None = None

    def read(self) -> SampleIndex:
        """List the samples.

        Raises:
            UserError: when there is nothing to read or a row is wrong, with file and line.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FolderSource(DataSource):
    """A data set in a folder of the user's.

    Args:
        root: the data folder.
    """

    root: PathText | None = None
