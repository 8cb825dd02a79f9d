"""The runs that `benchmark` with wishes chooses from, and the images that their files are scored on."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, first_line
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.run_dir import RunDir
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import TEST, TRAIN, VAL, SplitTable, spread_rows
from classifier_training.evaluation.groups import Groups
from classifier_training.export.bundle import read_info
from classifier_training.export.examples import Examples
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.against import trained_on
from classifier_training.workflows.evaluating.run_model import refuse_twice
from classifier_training.workflows.evaluating.samples import own_samples, tabulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.export.bundle import BundleInfo
    from classifier_training.export.pareto import Option

log = logging.getLogger(__name__)

SEED = 0
BATCH_SIZE = 32

MAX_SIZES = 4
STEP = 32
"""Of the inputs that are tried: networks halve an input five times."""


@dataclass(frozen=True)
class Run:
    """One of the runs to choose from.

    Args:
        run_dir: its folder.
        info: what it says of its model.
        tables: its training and validation splits.
    """

    run_dir: RunDir
    info: BundleInfo
    tables: Mapping[str, SplitTable]

    @property
    def image_size(self) -> int:
        """Side of its input in pixels."""
        return self.info.preprocessing.size[0]

    def at(self, image_size: int) -> BundleInfo:
        """What there is to say of its model at another input."""
        if image_size == self.image_size:
            return self.info
        preprocessing = dataclasses.replace(self.info.preprocessing, size=(image_size, image_size))
        return dataclasses.replace(
            self.info, preprocessing=preprocessing, files={}, withheld={}, quantization="none", calibration=None
        )

    @cached_property
    def network(self) -> nn.Module:
        """Its network, on the CPU, in evaluation mode."""
        from classifier_training.workflows.evaluating.run_model import load_trained

        return load_trained(self.run_dir)[0]

    def num_flops(self, image_size: int) -> int:
        """Operations for one image.

        Raises:
            UserError: when the network does not take images of that size.
        """
        from classifier_training.models.cost import summarize

        try:
            return summarize(self.network, architecture=self.info.architecture, image_size=image_size).num_flops
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            raise UserError(
                f"{self.info.architecture} does not take images of {image_size} px ({first_line(error)})",
                f"a size that it takes; its own is {self.image_size}",
                "leave the size out",
            ) from error

    def kept(self, option: Option) -> Path | None:
        """The run's own file of an option, if it has one."""
        if option.image_size != self.image_size:
            return None
        onnx = self.run_dir.onnx
        path = onnx if option.form == "onnx" else self.run_dir.quantized(onnx, option.form)
        return path if path.is_file() else None

    def place(self, option: Option) -> Path:
        """Where the file of an option is, or would be written."""
        target = RunDir(self.folder(option.image_size))
        return target.onnx if option.form == "onnx" else target.quantized(target.onnx, option.form)

    def folder(self, image_size: int) -> Path:
        """Where the files for an input are: the run folder, or a bundle of its own inside of it."""
        return self.run_dir.path if image_size == self.image_size else self.run_dir.path / f"{image_size}px"


class SplitPixels:
    """The images of a split in a fixed random order, resized when they are first needed and then kept on disk.

    Those that cannot be read are named and left out.

    Args:
        table: the split.
        preprocessing: that all of them are needed for.
        scratch: folder for temporary files.
        prefix: of their names.

    Raises:
        UserError: when none can be read.
    """

    def __init__(self, table: SplitTable, preprocessing: Preprocessing, scratch: Path, prefix: str = "pixels") -> None:
        self.split = table.name
        self._place = scratch / prefix
        self._kept: dict[Preprocessing, tuple[NDArray[np.uint8], int]] = {}
        pixels = self._new(preprocessing, len(table))
        rows: list[int] = []
        paths: list[str] = []
        for row in np.random.default_rng(SEED).permutation(len(table)).tolist():
            try:
                pixels[len(rows)] = preprocessing.pixels(preprocessing.read(table.paths[row]))
            except UnreadableImageError as error:
                log.warning("left out %s: %s", error.path, error.reason)
            else:
                rows.append(row)
                paths.append(table.paths[row])
        if not rows:
            raise UserError(
                f"none of {len(table)} images of the {table.name} split can be read, such as {table.paths[0]}",
                "the images of the run",
                "put them back where they were, or say where they are: images=…",
            )
        self.paths, self.targets = paths, table.targets[rows]
        self.groups = Groups.of([table.groups[row] for row in rows])
        self._kept[preprocessing] = (pixels, len(rows))

    def __len__(self) -> int:
        return len(self.paths)

    def inputs(self, preprocessing: Preprocessing, start: int, stop: int) -> NDArray[np.float32]:
        """Return inputs of some of the images, float32 [stop - start, 3, H, W]."""
        pixels, filled = self._kept.get(preprocessing) or (self._new(preprocessing, len(self)), 0)
        for row in range(filled, stop):
            pixels[row] = preprocessing.pixels(preprocessing.read(self.paths[row]))
        self._kept[preprocessing] = (pixels, max(filled, stop))
        return preprocessing.normalize(pixels[start:stop])

    def examples(self, preprocessing: Preprocessing) -> Iterator[Examples]:
        """Read all images, a batch at a time."""
        for start in range(0, len(self), BATCH_SIZE):
            stop = min(start + BATCH_SIZE, len(self))
            inputs = self.inputs(preprocessing, start, stop)
            yield Examples(tuple(self.paths[start:stop]), self.targets[start:stop], inputs)

    def _new(self, preprocessing: Preprocessing, number: int) -> NDArray[np.uint8]:
        # On disk, because thousands of large images would not fit into memory.
        path = self._place.with_name(f"{self._place.name}_{len(self._kept)}.npy")
        shape = (number, *preprocessing.size, 3)
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def read_runs(references: Sequence[str], images: str | None) -> tuple[list[Run], list[tuple[Any, Path]]]:
    """Open the runs, and read the samples of each with the folder that their paths begin from."""
    runs: list[Run] = []
    samples = []
    run_dirs = [find_run(reference) for reference in references]
    refuse_twice([run_dir.path for run_dir in run_dirs])
    for run_dir in run_dirs:
        info = read_info(run_dir)
        if not run_dir.onnx.is_file():
            raise UserError(
                f"{run_dir.onnx} is missing", "the run's float32 export", f"{command('export')} run={run_dir.path}"
            )
        if runs and info.class_names != runs[0].info.class_names:
            raise UserError(
                f"{run_dir.path}: its classes are {enumerate_words(info.class_names, limit=5)}; those of "
                f"{runs[0].run_dir.path} are {enumerate_words(runs[0].info.class_names, limit=5)}",
                "runs of the same classes",
                "name runs of the same data",
            )
        rows, root = own_samples(run_dir, moved_to=images, setting="images")
        present = {row.split for row in rows}
        if VAL not in present:
            raise UserError(
                f"{run_dir.path}: the run has no validation images",
                "validation images, on which copies in fewer bits are compared with their float32 file",
                "train with some: data.val_fraction=0.15",
            )
        tables = {name: tabulate(rows, root, name, info.class_names) for name in (TRAIN, VAL)}
        runs.append(Run(run_dir, info, tables))
        samples.append((rows, root))
    return runs, samples


def common_table(
    runs: Sequence[Run], samples: Sequence[tuple[Any, Path]], split: str, images: str | None, num_images: int
) -> SplitTable:
    """The images of the first run's split that no other run was trained on, spread evenly if there are too many."""
    rows, root = samples[0]
    if split not in {row.split for row in rows}:
        raise UserError(f"split={split}: the run has no such split", f"split={VAL}", f"split={VAL}")
    table = tabulate(rows, root, split, runs[0].info.class_names)
    fair = np.ones(len(table), dtype=np.bool_)
    for run in runs[1:]:
        seen = trained_on(run.run_dir, table.paths, moved_to=images)
        fair &= np.array([path not in seen for path in table.paths])
    if not fair.any():
        raise UserError(
            f"every one of the {len(table):,} {split} images of {runs[0].run_dir.path} was used to train another run",
            "runs with the same splits",
            f"train them with {setting('data.splits', runs[0].run_dir.splits)}",
        )
    if not fair.all():
        log.warning("%d images are left out: another run was trained on them", int((~fair).sum()))
    kept = np.flatnonzero(fair)
    return table.at(kept[spread_rows(len(kept), num_images)])


def test_table(
    runs: Sequence[Run], samples: Sequence[tuple[Any, Path]], images: str | None, num_images: int
) -> SplitTable | None:
    """The test images that no run was trained on; None where there are none."""
    if TEST not in {row.split for row in samples[0][0]}:
        return None
    try:
        return common_table(runs, samples, TEST, images, num_images)
    except UserError as error:
        log.warning("not checked on test images: %s", error.came)
        return None


def input_sizes(run: Run, wished: Sequence[int] | None) -> tuple[list[int], bool]:
    """The inputs to try, in pixels, the run's own among them; and whether the user named them."""
    own = run.image_size
    if wished is not None:
        return sorted({own, *wished}), True
    smaller = [size for size in range(STEP, own, STEP) if 2 * size >= own]
    return [*(smaller[place] for place in spread_rows(len(smaller), MAX_SIZES)), own], False
