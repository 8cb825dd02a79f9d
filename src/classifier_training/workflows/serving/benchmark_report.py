"""What `benchmark` with wishes prints and writes: a table of the files, the chosen one or the nearest, and a plot."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.conf.unused_settings import is_fitted_at_once
from classifier_training.core.display import align
from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.core.runtime import command, num_cores, setting, versions
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.figures.leaderboard import WishesFigure
from classifier_training.export.pareto import MIB, Wishes, walk
from classifier_training.workflows.serving.benchmark_runs import Run, SplitPixels, input_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from classifier_training.core.types import SplitTable
    from classifier_training.export.pareto import Nearest, Option, Visit, Walk
    from classifier_training.workflows.serving.benchmark_files import FileMeasures

UNITS = {"max_latency_ms": "ms", "max_size_mb": "MiB", "max_drop": "points"}

HEADER = (
    "run", "file", "image_size", "form", "size_bytes", "median_ms", "p10_ms", "p90_ms", "num_runs", "loss_points",
    "loss_low", "loss_bound", "num_images", "parity", "missed", "reason", "chosen",
)  # fmt: skip


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


def table(measures: FileMeasures, found: Walk) -> list[str]:
    """The files in a table: what they cost and lose, and why each but the chosen one is not that."""
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


def counts(measures: FileMeasures, options: Sequence[Option], threads: int, seconds: float) -> list[str]:
    """What the columns mean, on what it was measured, and how little of it."""
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


def chosen_lines(measures: FileMeasures, chosen: Visit, place: Path, wishes: Wishes, split: str) -> list[str]:
    """The chosen file, and how it meets each wish."""
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


def on_test(measures: FileMeasures, option: Option, place: Path, table: SplitTable) -> str:
    """The loss on test images, which had no part in the choice."""
    if option == measures.reference:
        return f"  on {len(table):,} test images, which had no part in the choice: it is the reference"
    images = SplitPixels(table, measures.runs[option.run].at(option.image_size).preprocessing, measures.scratch, "test")
    drop = measures.drop_on(images, option, place)
    return (
        f"  on {drop.num_images:,} test images, which had no part in the choice: loss {drop.points:.2f} points, "
        f"between {drop.low:.2f} and {drop.bound:.2f} with 90 % confidence"
    )


def unmet_lines(measures: FileMeasures, near: Sequence[Nearest], split: str) -> list[str]:
    """Each wish that cannot be met, with the file that comes nearest to it, and what to try."""
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


def alone(measures: FileMeasures, options: Sequence[Option], wishes: Wishes) -> str:
    """What is the fastest where several wishes stand in the way: held to accuracy alone, which the reference meets."""
    best = walk(options, Wishes(max_drop=wishes.max_drop), measures, is_shipped=False).chosen
    assert best is not None
    return (
        f"with max_drop={wishes.max_drop:g} alone the fastest is {_name(measures, best.option)}: "
        f"{_value(best, 'max_latency_ms'):.2f} ms, {_value(best, 'max_size_mb'):.2f} MiB"
    )


def _above(value: float) -> str:
    """A number of two digits that is not below a value, with room for the noise of another measurement."""
    value *= 1.05
    step = 10.0 ** (np.floor(np.log10(value)) - 1)
    return f"{np.ceil(value / step) * step:g}"


def untried_lines(runs: Sequence[Run], wishes: Wishes) -> list[str]:
    """Commands for what would have to be trained first; data, splits and network are those of the first run."""
    sizes, _ = input_sizes(runs[0], None)
    lines = ["", "not tried, since it has to be trained first:"]
    path = runs[0].run_dir.path
    goes_on = not is_fitted_at_once(runs[0].info.architecture)
    if len(sizes) > 1 and goes_on:
        lines.append(f"  {command('train')} {setting('init_from', path)} data.image_size={sizes[-2]}")
    if goes_on:
        lines.append(f"  {command('train')} {setting('init_from', path)} pruning=channels   (not with attention)")
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


def write(
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
