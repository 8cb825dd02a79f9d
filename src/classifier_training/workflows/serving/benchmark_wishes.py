"""`benchmark` with wishes (max_latency_ms, max_size_mb, max_drop): the cheapest file that meets them, if any does."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import make_folder
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import VAL
from classifier_training.evaluation.comparison import largest_loss
from classifier_training.export.pareto import FileForm, Option, Wishes, nearest, walk
from classifier_training.workflows.serving import benchmark_report as report
from classifier_training.workflows.serving.benchmark_files import (
    SHARE_OF_BYTES,
    SHARE_OF_MS,
    FileMeasures,
)
from classifier_training.workflows.serving.benchmark_runs import (
    SplitPixels,
    common_table,
    input_sizes,
    read_runs,
    test_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

NUM_IMAGES = 2000
"""Images that files are scored on; more would take long, and tell little more of a loss of a point."""

ALL_FORMS: tuple[FileForm, ...] = get_args(FileForm)


@dataclass(frozen=True)
class WishesResult:
    """Result of `benchmark` with wishes.

    Args:
        folder: of the result files.
        chosen: the file; None where no file meets the wishes.
        lines: the table, and what follows from it.
    """

    folder: Path
    chosen: Path | None
    lines: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 when a wish cannot be met."""
        return 0 if self.chosen is not None else 1

    def __str__(self) -> str:
        return "\n".join([*self.lines, f"written to {self.folder}"])


def choose_file(
    references: Sequence[str],
    wishes: Wishes,
    *,
    forms: Sequence[FileForm],
    image_sizes: Sequence[int] | None,
    threads: int,
    num_runs: int,
    split: Literal["val", "test"],
    num_images: int,
    images: str | None,
    output: str | None,
) -> WishesResult:
    """Find the fastest file of some runs that meets the wishes, and put it into its run folder.

    Args:
        references: the runs.
        wishes: to meet.
        forms: of the files; without a choice of the user, fp16 is among them where float32 is too large.
        image_sizes: sides of inputs in pixels, beside each run's own; multiples of 32 from half of it when None.
        threads: of each file.
        num_runs: timed repetitions of the file that is chosen.
        split: that accuracy is measured on.
        num_images: of it, at most.
        images: folder that the images are in, where they have moved.
        output: folder for the results; benchmark/ of the first run when None.
    """
    began = time.perf_counter()
    runs, samples = read_runs(references, images)
    table = common_table(runs, samples, split, images, num_images)
    folder = Path(output).expanduser() if output else runs[0].run_dir.benchmark
    make_folder(folder)
    with tempfile.TemporaryDirectory() as scratch:
        measures = FileMeasures(
            runs=runs,
            images=SplitPixels(table, runs[0].info.preprocessing, Path(scratch)),
            reference=Option(run=0, image_size=runs[0].image_size, form="onnx"),
            max_drop=wishes.max_drop,
            threads=threads,
            num_runs=num_runs,
            scratch=Path(scratch),
        )
        options, notes = prepare(measures, wishes, forms, image_sizes)
        log.info(
            "%d files of %d runs to choose from; %d images of the %s split, %d threads",
            len(options), len(runs), len(measures.images), split, threads,
        )  # fmt: skip
        notes += _too_few_images(measures, wishes, split)
        found = walk(options, wishes, measures)
        for visit in found.visits:
            measures.complete(visit)
        near = [] if found.chosen else nearest(options, wishes, measures)
        place = measures.keep(found.chosen.option) if found.chosen else None
        lines = [
            *report.table(measures, found),
            *report.counts(measures, options, threads, time.perf_counter() - began),
            *notes,
        ]
        if found.chosen and place:
            lines += report.chosen_lines(measures, found.chosen, place, wishes, split)
            test = test_table(runs, samples, images, num_images) if split == VAL else None
            if test is not None:
                lines.append(report.on_test(measures, found.chosen.option, place, test))
            lines += ["", "next:", f"  {command('predict')} {setting('run', place)} source=…"]
            lines += [f"  {command('serve')} {setting('run', place)}"]
        else:
            lines += report.unmet_lines(measures, near, split)
            if all(one.visit is None for one in near):
                lines.append(report.alone(measures, options, wishes))
        lines += report.untried_lines(runs, wishes)
        report.write(folder, measures, found, near, wishes, split)
    return WishesResult(folder, place, tuple(lines))


def prepare(
    measures: FileMeasures, wishes: Wishes, forms: Sequence[FileForm], image_sizes: Sequence[int] | None
) -> tuple[list[Option], list[str]]:
    """Score and time the runs' own float32 files, of which the most accurate becomes the reference; list all files.

    Args:
        measures: of the runs; the reference is set.
        wishes: to meet.
        forms: of the files; empty for those that make sense.
        image_sizes: see `choose_file`.

    Returns:
        The files with their lower bounds, and lines on inputs that a network does not take.
    """
    owns = [Option(run=place, image_size=run.image_size, form="onnx") for place, run in enumerate(measures.runs)]
    measures.reference = max(owns, key=lambda own: measures.correct(own).mean())
    wrong = int((~measures.correct(measures.reference)).sum())
    # Were all that the reference gets wrong correct, and none lost.
    least_loss = 100 * largest_loss(wrong, 0, len(measures.images))
    options: list[Option] = []
    notes: list[str] = []
    for own, run in zip(owns, measures.runs, strict=True):
        cost = measures.cost(own)
        sizes, named = input_sizes(run, image_sizes)
        chosen: Sequence[FileForm] = forms or ("onnx", "int8")
        if not forms and cost.size_bytes > wishes.max_bytes:
            chosen = ALL_FORMS
        own_flops = run.num_flops(run.image_size) if len(sizes) > 1 else 1
        for size in sizes:
            try:
                share = run.num_flops(size) / own_flops if size != run.image_size else 1.0
            except UserError as error:
                (notes if named else []).append(error.came)
                log.info("%s", error.came)
                continue
            for form in chosen:
                option = Option(run=own.run, image_size=size, form=form)
                kept = run.kept(option)
                options.append(
                    Option(
                        run=own.run,
                        image_size=size,
                        form=form,
                        least_ms=share * cost.timing.median_ms * (1 if option == own else SHARE_OF_MS[form]),
                        least_loss=0.0 if option == measures.reference else least_loss,
                        least_bytes=kept.stat().st_size if kept else SHARE_OF_BYTES[form] * cost.size_bytes,
                    )
                )
    return options, notes


def _too_few_images(measures: FileMeasures, wishes: Wishes, split: str) -> list[str]:
    """Say where so few images cannot show that a file other than the reference loses no more than is wished."""
    number = len(measures.images)
    least = 100 * largest_loss(0, 0, number)
    if least <= wishes.max_drop:
        return []
    remedy = f"max_drop={np.ceil(10 * least) / 10:g}"
    if wishes.max_drop > 0:
        # The bound for none lost of n is z^2 / (n + z^2).
        needed = int(np.ceil(number * least / (100 - least) * (100 - wishes.max_drop) / wishes.max_drop))
        remedy = f"{needed:,} images, or {remedy}"
    line = (
        f"max_drop={wishes.max_drop:g}: {number:,} {split} images cannot show so small a loss of a file other than the "
        f"reference; where not one of them is lost, the bound is {least:.2f} points: {remedy}"
    )
    log.warning("%s", line)
    return [line]
