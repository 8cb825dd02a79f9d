"""Advice for deployment, written from a benchmark's figures: nothing in it that was not measured. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.display import markdown
from classifier_training.evaluation.comparison import SIGNIFICANCE, mcnemar
from classifier_training.export.benchmark import TITLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.export.benchmark import CandidateResult, Form, Timing

MAX_LOST_POINTS = 1.0
"""Points of accuracy that a form may lose and still be recommended."""

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and on what it was measured.

    Args:
        run: what was measured.
        processor: its name.
        num_cores: of this process.
        threads: of each form.
        split: that accuracy was measured on.
        num_images: of it.
        reference: form that the others are compared with.
        preprocessing_ms: mean time to decode and resize an image on one thread.
        pipeline_bytes: size of pipeline.onnx, which a browser loads; None where there is none.
    """

    run: str
    processor: str
    num_cores: int
    threads: int
    split: str
    num_images: int
    reference: Form
    preprocessing_ms: float
    pipeline_bytes: int | None


def write_recommendations(setting: Setting, results: Sequence[CandidateResult], batch_sizes: Sequence[int]) -> str:
    """Return the page, in Markdown."""
    measured = [result for result in results if result.quality is not None]
    good = [result for result in measured if _lost(result) <= MAX_LOST_POINTS]
    smallest, largest = min(batch_sizes), max(batch_sizes)
    lines = [
        "# Deployment recommendations",
        "",
        (
            f"For `{setting.run}`, measured on {setting.processor} ({setting.num_cores} cores) with {setting.threads} "
            f"threads for each form. Accuracy is of {setting.num_images} images of the {setting.split} split; one "
            f"image is {100 / setting.num_images:.2f} points. Times are of the network alone: decoding and resizing "
            f"took {setting.preprocessing_ms:.2f} ms an image more, on one thread."
        ),
        "",
        *_server(good, largest),
        *_edge(good, smallest),
        *_browser(setting, measured),
        "## GPU",
        "",
        "No GPU was measured here, so there is no figure for one.",
        "",
        *_impact(measured, batch_sizes),
    ]
    lost = [result for result in measured if result not in good]
    if lost:
        lines += ["## Not recommended", ""]
        lines += [
            f"- {TITLES[one.form]} loses {_lost(one):.2f} points of accuracy against {TITLES[setting.reference]}, more "
            f"than {MAX_LOST_POINTS:g}{_tested(one)}."
            for one in lost
        ]
        lines.append("")
    failed = [result for result in results if result.problem]
    if failed:
        lines += ["## Not measured", "", *(f"- {TITLES[one.form]}: {one.problem}" for one in failed), ""]
    return "\n".join(lines)


def _server(good: Sequence[CandidateResult], batch_size: int) -> list[str]:
    ranked = _ranked(good, batch_size)
    if not ranked:
        return []
    (best, timing), *others = ranked
    return [
        "## Server CPU",
        "",
        (
            f"Use {TITLES[best.form]}: the highest throughput of what was measured, {timing.images_per_second:,.1f} "
            f"images a second at batch size {batch_size} ({_spread(timing)}), with accuracy {_accuracy(best)}."
        ),
        *_second(timing, others),
        *_memory(best),
        "",
    ]


def _edge(good: Sequence[CandidateResult], batch_size: int) -> list[str]:
    ranked = _ranked(good, batch_size)
    if not ranked:
        return []
    (best, timing), *others = ranked
    light = min((one for one, _ in ranked if one.peak_memory_mb is not None), key=lambda one: one.peak_memory_mb or 0)
    small = min((one for one, _ in ranked), key=lambda one: one.size_bytes)
    return [
        "## Edge CPU",
        "",
        (
            f"No edge device was measured; on this machine {TITLES[best.form]} is the fastest at batch size "
            f"{batch_size}: {_spread(timing)}, with accuracy {_accuracy(best)}."
        ),
        *_second(timing, others),
        (
            f"{TITLES[light.form]} took the least memory, {light.peak_memory_mb:,.0f} MiB for the whole process, and "
            f"{TITLES[small.form]} is the smallest file, {small.size_bytes / MIB:.1f} MiB."
        ),
        "",
    ]


def _browser(setting: Setting, measured: Sequence[CandidateResult]) -> list[str]:
    sizes = [
        f"{TITLES[one.form]} {one.size_bytes / MIB:.1f} MiB" for one in measured if one.form in ("onnx", "fp16", "int8")
    ]
    lines = ["## Browser", "", "No browser was measured here, so there is no time for one."]
    if sizes:
        lines[-1] += f" What a visitor downloads, besides the runtime: {', '.join(sizes)}."
    if setting.pipeline_bytes is not None:
        lines[-1] += (
            f" pipeline.onnx, which does the resizing too, is {setting.pipeline_bytes / MIB:.1f} MiB; "
            "`export demo=true` writes a page that shows its time in the browser."
        )
    return [*lines, ""]


def _impact(measured: Sequence[CandidateResult], batch_sizes: Sequence[int]) -> list[str]:
    base = next((one for one in measured if one.form == "onnx"), None)
    quantized = [one for one in measured if one.form in ("fp16", "int8")]
    if base is None or base.quality is None or not quantized:
        return []
    rows = []
    for one in quantized:
        assert one.quality is not None
        speeds = []
        for batch_size in batch_sizes:
            mine, other = one.at(batch_size), base.at(batch_size)
            speeds.append("-" if mine is None or other is None else f"{other.median_ms / mine.median_ms:.2f}x")
        points = 100 * (one.quality.accuracy - base.quality.accuracy)
        rows.append((TITLES[one.form], f"{one.size_bytes / base.size_bytes:.2f}x", *speeds, f"{points:+.2f}"))
    speeds_header = tuple(f"speed at batch {batch_size}" for batch_size in batch_sizes)
    header = ("against ONNX float32", "size", *speeds_header, "accuracy, points")
    return ["## What quantization changes", "", *markdown(header, rows), ""]


def _ranked(good: Sequence[CandidateResult], batch_size: int) -> list[tuple[CandidateResult, Timing]]:
    timed = [(one, timing) for one in good if (timing := one.at(batch_size)) is not None]
    return sorted(timed, key=lambda pair: pair[1].median_ms)


def _second(timing: Timing, others: Sequence[tuple[CandidateResult, Timing]]) -> list[str]:
    if not others:
        return []
    second, behind = others[0]
    words = f"{TITLES[second.form]} is {behind.median_ms / timing.median_ms:.2f} times as slow ({_spread(behind)})"
    if behind.p10_ms <= timing.p90_ms:
        words += ": their spreads overlap, so the two can hardly be told apart here"
    return [f"{words}."]


def _memory(best: CandidateResult) -> list[str]:
    if best.peak_memory_mb is None or best.start_seconds is None:
        return []
    return [
        (
            f"Its process took {best.peak_memory_mb:,.0f} MiB at most, and {best.start_seconds:.1f} s from its start "
            "to the first prediction."
        )
    ]


def _lost(result: CandidateResult) -> float:
    return 0.0 if result.quality is None else -result.quality.change_points


def _tested(result: CandidateResult) -> str:
    """Say where so few images cannot tell a loss from none."""
    quality = result.quality
    if quality is None or (p_value := mcnemar(quality.num_won, quality.num_lost)) < SIGNIFICANCE:
        return ""
    return f", which {quality.num_images} images do not tell from none (McNemar p = {p_value:.2g})"


def _accuracy(result: CandidateResult) -> str:
    quality = result.quality
    assert quality is not None
    return (
        f"{quality.accuracy:.4f} ({quality.change_points:+.2f} points; {quality.num_won} predictions won and "
        f"{quality.num_lost} lost of {quality.num_images})"
    )


def _spread(timing: Timing) -> str:
    return (
        f"median {timing.median_ms:.2f} ms a batch, 10 to 90 % of {timing.num_runs} runs {timing.p10_ms:.2f} to "
        f"{timing.p90_ms:.2f} ms"
    )
