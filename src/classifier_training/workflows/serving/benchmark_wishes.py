"""`benchmark` with wishes (max_latency_ms, max_size_mb, max_drop): the cheapest file that meets them, if any does."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from classifier_training.core.display import align
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.run_dir import make_folder, write_csv, write_json
from classifier_training.core.runtime import command, num_cores, setting, versions
from classifier_training.core.types import TEST, TRAIN, VAL, SplitTable
from classifier_training.evaluation.comparison import largest_loss
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.figures.leaderboard import WishesFigure
from classifier_training.export.bundle import read_info
from classifier_training.export.pareto import MIB, FileForm, Nearest, Option, Visit, Walk, Wishes, nearest, walk
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.against import trained_on
from classifier_training.workflows.evaluating.samples import own_samples, tabulate
from classifier_training.workflows.serving.benchmark_files import (
    SHARE_OF_BYTES,
    SHARE_OF_MS,
    FileMeasures,
    Run,
    SplitPixels,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

NUM_IMAGES = 2000
"""Images that files are scored on; more would take long, and tell little more of a loss of a point."""

ALL_FORMS: tuple[FileForm, ...] = get_args(FileForm)

MAX_SIZES = 4
STEP = 32
"""Of the inputs that are tried: networks halve an input five times."""

UNITS = {"max_latency_ms": "ms", "max_size_mb": "MiB", "max_drop": "points"}

HEADER = (
    "run", "file", "image_size", "form", "size_bytes", "median_ms", "p10_ms", "p90_ms", "num_runs", "loss_points",
    "loss_low", "loss_bound", "num_images", "parity", "missed", "reason", "chosen",
)  # fmt: skip


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
        lines = [*_table(measures, found), *_counts(measures, options, threads, time.perf_counter() - began), *notes]
        if found.chosen and place:
            lines += _chosen_lines(measures, found.chosen, place, wishes, split)
            test = _test_table(runs, samples, images, num_images) if split == VAL else None
            if test is not None:
                lines.append(_on_test(measures, found.chosen.option, place, test))
            lines += ["", "next:", f"  {command('predict')} {setting('run', place)} source=…"]
            lines += [f"  {command('serve')} {setting('run', place)}"]
        else:
            lines += _unmet_lines(measures, near, split)
        lines += _untried_lines(runs, wishes)
        _write(folder, measures, found, near, wishes, split)
    return WishesResult(folder, place, tuple(lines))


def read_runs(references: Sequence[str], images: str | None) -> tuple[list[Run], list[tuple[Any, Path]]]:
    """Open the runs, and read the samples of each with the folder that their paths begin from."""
    runs: list[Run] = []
    samples = []
    for reference in references:
        run_dir = find_run(reference)
        info = read_info(run_dir)
        if not run_dir.onnx.is_file():
            raise UserError(
                f"{run_dir.onnx} is missing", "the run's float32 export", f"{command('export')} run={run_dir.path}"
            )
        if any(run_dir.path.resolve() == one.run_dir.path.resolve() for one in runs):
            raise UserError(f"run={run_dir.path} is named twice", "each run once", "leave one of them out")
        if runs and info.class_names != runs[0].info.class_names:
            raise UserError(
                f"{run_dir.path}: its classes are {enumerate_words(info.class_names, limit=5)}; those of "
                f"{runs[0].run_dir.path} are {enumerate_words(runs[0].info.class_names, limit=5)}",
                "runs of the same classes",
                "name runs of the same data",
            )
        rows, root = own_samples(run_dir, moved_to=images)
        present = {row.split for row in rows}
        if VAL not in present:
            raise UserError(
                f"{run_dir.path}: the run has no validation images",
                "validation images, on which copies in fewer bits are held against their float32 file",
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
    kept = kept[np.unique(np.linspace(0, len(kept) - 1, min(num_images, len(kept))).round().astype(int))]
    return SplitTable(
        split, [table.paths[row] for row in kept], table.targets[kept], [table.groups[row] for row in kept]
    )


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
        sizes, named = _sizes(run, image_sizes)
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


def _sizes(run: Run, wished: Sequence[int] | None) -> tuple[list[int], bool]:
    """The inputs to try, in pixels, the run's own among them; and whether the user named them."""
    own = run.image_size
    if wished is not None:
        return sorted({own, *wished}), True
    smaller = [size for size in range(STEP, own, STEP) if 2 * size >= own]
    spread = np.unique(np.linspace(0, len(smaller) - 1, min(MAX_SIZES, len(smaller))).round().astype(int))
    return [*(smaller[place] for place in spread), own], False


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


def _name(measures: FileMeasures, option: Option) -> str:
    """Name of a file in the table: below its run, which has a letter if there are several."""
    run = measures.runs[option.run]
    path = run.place(option).relative_to(run.run_dir.path).as_posix()
    return path if len(measures.runs) == 1 else f"{_letter(option.run)} {path}"


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"#{number + 1}"


def parity_words(measures: FileMeasures, option: Option) -> str:
    """How a file was compared: with PyTorch by its probabilities, or with its float32 file by its predictions."""
    gate = measures.gates.get(option)
    if gate is not None:
        return f"{gate.top1_agreement:.1%} same"
    if option in measures.parities:
        return measures.parities[option]
    run = measures.runs[option.run]
    kept = run.kept(option)
    entry = run.info.files.get(kept.name, {}) if kept else {}
    parity, recorded = entry.get("parity") or {}, entry.get("gate") or {}
    if parity.get("passed"):
        return f"{parity['max_probability_difference']:.0e}"
    return f"{recorded['top1_agreement']:.1%} same" if recorded.get("passed") else "unverified" if kept else ""


def _table(measures: FileMeasures, found: Walk) -> list[str]:
    header = ("file", "px", "MiB", "ms", "p10", "p90", "loss", "at most", "parity", "result")
    rows = []
    for visit in found.visits:
        option, cost, drop = visit.option, visit.cost, visit.drop
        is_reference = option == measures.reference
        times = [""] * 4
        if cost is not None:
            timing = cost.timing
            values = (timing.median_ms, timing.p10_ms, timing.p90_ms)
            times = [f"{cost.size_bytes / MIB:.2f}", *(f"{value:.2f}" for value in values)]
        losses = ("", "")
        if drop is not None:
            losses = (f"{drop.points:.2f}", f"{drop.bound:.2f}" if drop.is_whole else f"> {drop.bound:.2f}")
        words = ["reference"] if is_reference else []
        words.append("chosen" if visit is found.chosen else visit.reason)
        rows.append(
            (
                _name(measures, option), str(option.image_size), *times, *losses, parity_words(measures, option),
                "; ".join(words),
            )
        )  # fmt: skip
    lines = align(header, rows, right=frozenset(header[1:8]))
    if len(measures.runs) > 1:
        lines += ["", *(f"{_letter(place)} = {run.run_dir.path}" for place, run in enumerate(measures.runs))]
    return lines


def _counts(measures: FileMeasures, options: Sequence[Option], threads: int, seconds: float) -> list[str]:
    from classifier_training.workflows.serving.benchmark import processor_name

    number = len(measures.images)
    return [
        (
            f"\nms: median for one image without decoding and resizing, {processor_name()}, {threads} of {num_cores()} "
            f"cores; loss: points of accuracy against the reference on {number:,} {measures.images.split} images, at "
            "most with 95 % confidence (Tango's score bound of each file)"
        ),
        (
            f"{measures.num_made} files made, {measures.num_timed} timed and "
            f"{measures.num_predicted / number:.1f} times all images predicted, for {len(options)} files, in "
            f"{seconds:.0f} s"
        ),
    ]


def _value(visit: Visit, wish: str) -> float:
    """What a file has of what a wish limits, in its unit."""
    if visit.cost is None or visit.drop is None:
        return float("nan")
    values = {
        "max_latency_ms": visit.cost.timing.median_ms,
        "max_size_mb": visit.cost.size_bytes / MIB,
        "max_drop": visit.drop.bound,
    }
    return values[wish]


def _chosen_lines(measures: FileMeasures, chosen: Visit, place: Path, wishes: Wishes, split: str) -> list[str]:
    assert chosen.cost is not None
    assert chosen.drop is not None
    timing, drop = chosen.cost.timing, chosen.drop
    lines = [
        "",
        f"chosen: {place}",
        (
            f"  {timing.median_ms:.2f} ms for one image (median of {timing.num_runs}; 10 to 90 %: {timing.p10_ms:.2f} "
            f"to {timing.p90_ms:.2f}), {chosen.cost.size_bytes / MIB:.2f} MiB; {drop.lost:,} images lost and "
            f"{drop.gained:,} gained of {drop.num_images:,} {split} images"
        ),
    ]
    limits = asdict(wishes)
    for wish, unit in UNITS.items():
        if limits[wish] is not None:
            spread = " (90 % of the runs are not)" if wish == "max_latency_ms" and timing.p90_ms > limits[wish] else ""
            lines.append(f"  {wish}={limits[wish]:g}: {_value(chosen, wish):.2f} {unit}, met{spread}")
    if chosen.option == measures.reference:
        lines.append("  it is the reference: no faster file meets the wishes")
    return lines


def _test_table(
    runs: Sequence[Run], samples: Sequence[tuple[Any, Path]], images: str | None, num_images: int
) -> SplitTable | None:
    if TEST not in {row.split for row in samples[0][0]}:
        return None
    try:
        return common_table(runs, samples, TEST, images, num_images)
    except UserError as error:
        log.warning("not checked on test images: %s", error.came)
        return None


def _on_test(measures: FileMeasures, option: Option, place: Path, table: SplitTable) -> str:
    """The loss on test images, which had no part in the choice."""
    if option == measures.reference:
        return f"  on {len(table):,} test images, which had no part in the choice: it is the reference"
    images = SplitPixels(table, measures.runs[option.run].at(option.image_size).preprocessing, measures.scratch, "test")
    drop = measures.drop_on(images, option, place)
    return (
        f"  on {drop.num_images:,} test images, which had no part in the choice: loss {drop.points:.2f} points, "
        f"between {drop.low:.2f} and {drop.bound:.2f} with 90 % confidence"
    )


def _unmet_lines(measures: FileMeasures, near: Sequence[Nearest], split: str) -> list[str]:
    lines = ["", "no file meets all wishes:"]
    for one in near:
        unit = UNITS[one.wish]
        others = "" if len(near) == 1 else " that meets the other wishes"
        if one.visit is None:
            lines.append(f"  {one.wish}={one.limit:g}: without it no file meets the others either")
            continue
        best = {"max_latency_ms": "fastest", "max_size_mb": "smallest", "max_drop": "most accurate"}[one.wish]
        what = {"max_latency_ms": "takes", "max_size_mb": "has", "max_drop": "may lose"}[one.wish]
        lost = (
            f", and lost {one.visit.drop.points:.2f} on {split} images"
            if one.wish == "max_drop" and one.visit.drop
            else ""
        )
        lines.append(
            f"  {one.wish}={one.limit:g}: the {best} file{others}, {_name(measures, one.visit.option)}, {what} "
            f"{one.value:.2f} {unit}, {one.value - one.limit:.2f} too many{lost}"
        )
    tried = [f"{one.wish}={_above(one.value)}" for one in near if one.visit is not None]
    if tried:
        lines += ["to try, each of which alone a file meets: " + ", or ".join(tried)]
    return lines


def _above(value: float) -> str:
    """A number of two digits that is not below a value, with room for the noise of another measurement."""
    value *= 1.05
    step = 10.0 ** (np.floor(np.log10(value)) - 1)
    return f"{np.ceil(value / step) * step:g}"


def _untried_lines(runs: Sequence[Run], wishes: Wishes) -> list[str]:
    """Commands for what would have to be trained first; data, splits and network are those of the first run."""
    sizes, _ = _sizes(runs[0], None)
    lines = ["", "not tried, since it has to be trained first:"]
    path = runs[0].run_dir.path
    if len(sizes) > 1:
        lines.append(f"  {command('train')} {setting('init_from', path)} data.image_size={sizes[-2]}")
    lines.append(f"  {command('distill')} {setting('teacher', path)}")
    limits = [f"{key}={value:g}" for key, value in asdict(wishes).items() if value is not None]
    named = setting("run", f"[{','.join(str(run.run_dir.path) for run in runs)},latest]")
    return [*lines, f"and then: {command('benchmark')} {named} {' '.join(limits)}"]


def _plain(measures: FileMeasures, visit: Visit) -> dict[str, Any]:
    option, drop = visit.option, visit.drop
    losses = None
    if drop is not None:
        losses = {**asdict(drop), "points": drop.points, "low": drop.low if drop.is_whole else None}
    return {
        "run": str(measures.runs[option.run].run_dir.path),
        "file": str(measures.runs[option.run].place(option)),
        "image_size": option.image_size,
        "form": option.form,
        "least_ms": option.least_ms,
        "least_bytes": option.least_bytes,
        "size_bytes": visit.cost.size_bytes if visit.cost else None,
        "timing": asdict(visit.cost.timing) if visit.cost else None,
        "loss": losses,
        "parity": parity_words(measures, option) or None,
        "is_reference": option == measures.reference,
        "missed": visit.missed or None,
        "reason": visit.reason or None,
    }


def _write(
    folder: Path, measures: FileMeasures, found: Walk, near: Sequence[Nearest], wishes: Wishes, split: str
) -> None:
    """Write pareto.json, pareto.csv and pareto.png."""
    files = [_plain(measures, visit) for visit in found.visits]
    write_json(
        folder / "pareto.json",
        {
            "schema": 1,
            "wishes": asdict(wishes),
            "split": split,
            "num_images": len(measures.images),
            "threads": measures.threads,
            "bound": "one-sided 95 %, Tango's score interval for paired shares",
            "chosen": None if found.chosen is None else _plain(measures, found.chosen)["file"],
            "files": files,
            "nearest": [
                {"wish": one.wish, "limit": one.limit, "value": one.value, "file": _plain(measures, one.visit)["file"]}
                if one.visit
                else {"wish": one.wish, "limit": one.limit, "value": None, "file": None}
                for one in near
            ],
            "measured": {
                "made": measures.num_made,
                "timed": measures.num_timed,
                "predicted_images": measures.num_predicted,
            },
            "versions": versions(),
        },
    )
    rows = []
    for plain in files:
        timing, loss = plain["timing"] or {}, plain["loss"] or {}
        rows.append(
            (
                *(plain[name] for name in ("run", "file", "image_size", "form", "size_bytes")),
                *(timing.get(name) for name in ("median_ms", "p10_ms", "p90_ms", "num_runs")),
                *(loss.get(name) for name in ("points", "low", "bound", "num_images")),
                plain["parity"], plain["missed"], plain["reason"], plain["reason"] is None,
            )
        )  # fmt: skip
    write_csv(folder / "pareto.csv", HEADER, rows)
    measured = [visit for visit in found.visits if visit.cost and visit.drop and visit.drop.is_whole]
    with Drawer() as drawer:
        figure = WishesFigure(
            names=tuple(_name(measures, visit.option) for visit in measured),
            latencies=tuple(
                (v.cost.timing.p10_ms, v.cost.timing.median_ms, v.cost.timing.p90_ms) for v in measured if v.cost
            ),
            losses=tuple((v.drop.low, v.drop.points, v.drop.bound) for v in measured if v.drop),
            sizes=tuple(v.cost.size_bytes / MIB for v in measured if v.cost),
            chosen=tuple(visit is found.chosen for visit in measured),
            max_latency=wishes.max_latency_ms,
            max_loss=wishes.max_drop,
            title=f"{len(measured)} of {len(found.visits)} files measured",
        )
        drawer.submit(figure, folder / "pareto.png")
