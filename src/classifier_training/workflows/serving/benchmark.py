"""`benchmark`: speed, memory and accuracy of the exported forms of a run's network."""

from __future__ import annotations

import logging
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from classifier_training.core.display import align
from classifier_training.core.errors import UserError
from classifier_training.core.register import Word, register
from classifier_training.core.run_dir import RunDir, make_folder, write_csv, write_json, write_text
from classifier_training.core.runtime import num_cores, versions
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.figures.leaderboard import TradeOffFigure
from classifier_training.export.benchmark import (
    FORMS,
    TITLES,
    Candidate,
    CandidateResult,
    Form,
    compare_predictions,
    has_compiler,
    measure_candidates,
)
from classifier_training.export.bundle import BundleInfo, read_info
from classifier_training.export.examples import NUM_CALIBRATION_IMAGES, Examples, iterate_examples, read_examples
from classifier_training.export.formats.pytorch import TorchScript
from classifier_training.export.recommend import Setting, write_recommendations
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.samples import own_samples, tabulate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.core.types import SplitTable
    from classifier_training.export.pareto import FileForm
    from classifier_training.workflows.serving.benchmark_wishes import WishesResult

log = logging.getLogger(__name__)

BATCH_SIZE = 32
NUM_PARITY_IMAGES = 16
NUM_IMAGES = 500
MAX_DROP = 1.0
BATCH_SIZES = (1, 8)

HEADER = (
    "form", "batch_size", "median_ms", "p10_ms", "p90_ms", "num_runs", "images_per_second", "start_seconds",
    "peak_memory_mb", "size_bytes", "accuracy", "change_points", "agreement", "max_probability_difference",
    "num_images", "problem",
)  # fmt: skip


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of `benchmark`.

    Args:
        folder: of the result files.
        results: measurements of each form.
        lines: the table, and the machine.
    """

    folder: Path
    results: tuple[CandidateResult, ...]
    lines: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 3 when a form could not be measured."""
        return 3 if any(result.problem for result in self.results) else 0

    def __str__(self) -> str:
        return "\n".join([*self.lines, f"written to {self.folder}"])


@register(
    group="verb",
    name="benchmark",
    examples=(
        "benchmark latest",
        "benchmark latest 'formats=[onnx,int8]' 'batch_sizes=[1,8]'",
        "benchmark latest max_latency_ms=20 max_size_mb=5 max_drop=2",
    ),
)
def benchmark(
    *,
    run: Annotated[RunText | list[RunText], Word()] = "latest",
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None,
    max_size_mb: Annotated[float, Field(gt=0)] | None = None,
    max_drop: Annotated[float, Field(ge=0, lt=100)] | None = None,
    image_sizes: tuple[Annotated[int, Field(ge=8)], ...] | None = None,
    formats: tuple[Form, ...] = FORMS,
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = BATCH_SIZES,
    threads: Annotated[int, Field(ge=1)] | None = None,
    num_runs: Annotated[int, Field(ge=10)] = 50,
    split: Literal["val", "test"] | None = None,
    num_images: Annotated[int, Field(ge=1)] | None = None,
    images: TypedPath | None = None,
    output: TypedPath | None = None,
) -> BenchmarkResult | WishesResult:
    """Time a run's network in PyTorch, TorchScript and ONNX, and compare their predictions, on this CPU.

    Each form runs in its own process, and the processes take turns. A form without a file in the run is exported for
    the benchmark and deleted afterwards.

    With a wish (max_latency_ms, max_size_mb, max_drop) the fastest verified ONNX file that meets all of them is looked
    for among runs, smaller inputs and int8, and written into its run folder; or it is said which wish cannot be met. No
    network is trained.

    Args:
        run: run folder, latest, best, NAME, NAME:v2 or an alias such as production; with a wish also several in a list.
        max_latency_ms: wish: largest median time for one image, in ms.
        max_size_mb: wish: largest file, in MiB.
        max_drop: wish: largest loss of accuracy against the most accurate float32 file of the runs, in points; it is
            held by the upper 95 % bound. 1 if there is another wish.
        image_sizes: with a wish, inputs to try beside the run's own, in pixels; [] for none. When left out, multiples
            of 32 from half of its own.
        formats: forms to measure; compiled is left out without a C++ compiler. With a wish onnx and int8, and fp16
            where float32 is too large.
        batch_sizes: images in a batch; with a wish it is 1.
        threads: of each form; all cores when left out.
        num_runs: timed batches of each form and batch size.
        split: of the images to predict; test when left out, or val if there is no test, or if there is a wish.
        num_images: number of images, spread evenly over the split; 500 when left out, 2,000 with a wish.
        images: folder of the run's images, if they have moved since.
        output: folder for the result files; benchmark/ inside the run when left out.
    """
    sizes = sorted(set(batch_sizes))
    if not sizes:
        raise UserError("batch_sizes=[]: nothing to time", "one size or more", "batch_sizes=[1,8]")
    threads = threads or num_cores()
    if threads > num_cores():
        raise UserError(
            f"threads={threads}: this process has {num_cores()} cores",
            "at most one thread per core: more would wait for each other and distort the timings",
            f"threads={num_cores()}",
        )
    if not run:
        raise UserError("run=[]: no run", "one run or more", "run=latest")
    if (max_latency_ms, max_size_mb, max_drop) != (None, None, None):
        from classifier_training.export.pareto import Wishes
        from classifier_training.workflows.serving.benchmark_wishes import NUM_IMAGES as NUM_WISH_IMAGES
        from classifier_training.workflows.serving.benchmark_wishes import choose_file

        wished = Wishes(
            max_latency_ms=max_latency_ms, max_size_mb=max_size_mb, max_drop=MAX_DROP if max_drop is None else max_drop
        )
        return choose_file(
            [run] if isinstance(run, str) else run,
            wished,
            forms=_wish_forms(formats, batch_sizes),
            image_sizes=image_sizes,
            threads=threads,
            num_runs=num_runs,
            split=split or "val",
            num_images=num_images or NUM_WISH_IMAGES,
            images=images,
            output=output,
        )
    forms = _choose_forms(formats)
    if not isinstance(run, str):
        raise UserError(
            f"run=[…] of {len(run)} runs without a wish", "one run, or a wish that files are chosen by", "max_drop=1"
        )
    if image_sizes is not None:
        raise UserError("image_sizes without a wish", "a wish that files are chosen by", "max_drop=1")
    num_images = num_images or NUM_IMAGES
    run_dir = find_run(run)
    info = read_info(run_dir)
    samples, root = own_samples(run_dir, moved_to=images, setting="images")
    present = {sample.split for sample in samples}
    chosen = split or (TEST if TEST in present else VAL)
    if chosen not in present:
        raise UserError(f"split={chosen}: the run has no such split", f"split={VAL}", f"split={VAL}")
    tables = {name: tabulate(samples, root, name, info.class_names) for name in {TRAIN, VAL, chosen}}
    folder = Path(output).expanduser() if output else run_dir.benchmark
    make_folder(folder)
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        candidates, missing = _gather(run_dir, info, tables, forms, scratch, num_images)
        inputs, targets, preprocessing_ms = _prepare_inputs(tables[chosen], info, scratch, num_images)
        log.info("%d forms, %d images of the %s split, %d threads", len(candidates), len(targets), chosen, threads)
        results = measure_candidates(
            candidates, inputs, batch_sizes=sizes, threads=threads, num_runs=num_runs, scratch=scratch
        )
    results = sorted([*results, *missing], key=lambda result: FORMS.index(result.form))
    setting = Setting(
        run=str(run_dir.path),
        processor=processor_name(),
        num_cores=num_cores(),
        threads=threads,
        split=chosen,
        num_images=len(targets),
        reference=compare_predictions(results, targets),
        preprocessing_ms=preprocessing_ms,
        pipeline_bytes=run_dir.pipeline.stat().st_size if run_dir.pipeline.is_file() else None,
    )
    _write(folder, setting, results, sizes)
    return BenchmarkResult(folder, tuple(results), tuple(_table(setting, results)))


def _wish_forms(formats: tuple[Form, ...], batch_sizes: tuple[int, ...]) -> list[FileForm]:
    """Return the forms that the user chose for files with wishes; none where there was no choice."""
    if batch_sizes != BATCH_SIZES:
        raise UserError(
            "batch_sizes with a wish: a file is timed for one image", "no batch_sizes", "leave batch_sizes out"
        )
    if formats == FORMS:
        return []
    known: list[FileForm] = [form for form in ("onnx", "fp16", "int8") if form in formats]
    if len(known) < len(set(formats)) or not known:
        raise UserError(f"formats=[{','.join(formats)}] with a wish", "some of onnx, fp16, int8", "formats=[onnx,int8]")
    return known


def _choose_forms(formats: tuple[Form, ...]) -> list[Form]:
    """Return the forms in order, without compiled if there is no compiler; naming it alone is then an error."""
    if not formats:
        raise UserError("formats=[]: nothing to measure", f"some of {', '.join(FORMS)}", "formats=[eager,onnx]")
    forms = [form for form in FORMS if form in formats]
    if "compiled" in forms and not has_compiler():
        if set(formats) != set(FORMS):
            raise UserError(
                "formats=compiled: there is no C++ compiler here",
                "c++, g++ or clang++, which torch.compile calls",
                "install one, or leave compiled out",
            )
        log.info("compiled: left out, there is no C++ compiler here")
        forms.remove("compiled")
    return forms


def _gather(
    run_dir: RunDir,
    info: BundleInfo,
    tables: dict[str, SplitTable],
    forms: list[Form],
    scratch: Path,
    num_images: int,
) -> tuple[list[Candidate], list[CandidateResult]]:
    """Find or export the file of each form; forms that cannot be exported are returned with the problem."""
    candidates, missing = [], []
    for form in forms:
        if form in ("eager", "compiled"):
            from classifier_training.workflows.evaluating.run_model import describe_trained

            _, weights = describe_trained(run_dir)
            candidates.append(Candidate(form=form, path=run_dir.path, file=weights, kept=True))
            continue
        kept, made = _file_of(run_dir, form), _file_of(RunDir(scratch), form)
        if not kept.is_file():
            log.info("%s: not in the run; exporting it for the benchmark", TITLES[form])
            try:
                _make(form, run_dir, info, tables, scratch, num_images)
            except UserError as error:
                missing.append(CandidateResult(form=form, kept=False, problem=error.came))
                continue
        path = kept if kept.is_file() else made
        candidates.append(Candidate(form=form, path=path, file=path, kept=path == kept))
    return candidates, missing


def _file_of(run_dir: RunDir, form: Form) -> Path:
    if form == "torchscript":
        return run_dir.path / TorchScript.file
    return run_dir.onnx if form == "onnx" else run_dir.quantized(run_dir.onnx, form)


def _make(
    form: Form, run_dir: RunDir, info: BundleInfo, tables: dict[str, SplitTable], scratch: Path, num_images: int
) -> None:
    """Write the file of a form into the scratch folder."""
    from classifier_training.export.gate import write_gated

    if form in ("fp16", "int8") and run_dir.onnx.is_file():
        from classifier_training.workflows.serving.export import refuse_rounding

        refuse_rounding(info.architecture, "fp16" if form == "fp16" else "int8")

        # As `export quantization=` does, but with no more images than the benchmark uses.
        def calibration() -> Iterator[Examples]:
            return iterate_examples(tables[TRAIN], info.preprocessing, batch_size=16, number=NUM_CALIBRATION_IMAGES)

        def validation() -> Iterator[Examples]:
            return iterate_examples(tables[VAL], info.preprocessing, batch_size=16, number=num_images)

        write_gated(
            run_dir.onnx,
            _file_of(RunDir(scratch), form),
            "fp16" if form == "fp16" else "int8",
            calibration=calibration,
            validation=validation,
            class_names=info.class_names,
            max_drop=MAX_DROP,
            force=True,
        )
        return
    if form != "torchscript":
        raise UserError(f"{run_dir.onnx} is missing", "the run's float32 export", f"export run={run_dir.path}")
    from classifier_training.export.job import ExportJob
    from classifier_training.workflows.evaluating.run_model import load_trained

    network, _ = load_trained(run_dir)
    examples = read_examples(tables[VAL], info.preprocessing, number=NUM_PARITY_IMAGES)
    TorchScript().export(
        ExportJob(target=RunDir(scratch), network=network, info=info, examples=examples, scratch=scratch)
    )


def _prepare_inputs(
    table: SplitTable, info: BundleInfo, scratch: Path, num_images: int
) -> tuple[Path, NDArray[np.int64], float]:
    """Write the network's inputs, float32 [N, 3, H, W], into a file.

    Returns:
        The file; the true classes, int64 [N]; and the mean time to decode and resize an image, in ms.
    """
    path = scratch / "inputs.npy"
    height, width = info.preprocessing.size
    shape = (min(num_images, len(table)), 3, height, width)
    # On disk, because thousands of large images would not fit into memory beside the candidates.
    inputs = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    targets: list[int] = []
    seconds, began = 0.0, time.perf_counter()
    for batch in iterate_examples(table, info.preprocessing, batch_size=BATCH_SIZE, number=num_images):
        seconds += time.perf_counter() - began
        inputs[len(targets) : len(targets) + len(batch)] = batch.inputs
        targets += batch.targets.tolist()
        began = time.perf_counter()
    inputs.flush()
    if len(targets) < len(inputs):
        readable = scratch / "readable.npy"
        np.save(readable, inputs[: len(targets)])
        path = readable
    return path, np.array(targets, dtype=np.int64), seconds / len(targets) * 1e3


def processor_name() -> str:
    """Name of the processor, as the system calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _table(setting: Setting, results: list[CandidateResult]) -> list[str]:
    header = (
        "form", "batch", "median ms", "p10", "p90", "images/s", "start s", "peak MiB", "file MiB", "accuracy", "change",
        "agreement",
    )  # fmt: skip
    rows = []
    for one in results:
        for timing in one.timings if one.quality is not None else ():
            assert one.quality is not None
            rows.append(
                (
                    TITLES[one.form] + ("" if one.kept else " *"),
                    str(timing.batch_size),
                    f"{timing.median_ms:.2f}",
                    f"{timing.p10_ms:.2f}",
                    f"{timing.p90_ms:.2f}",
                    f"{timing.images_per_second:,.0f}",
                    f"{one.start_seconds or 0:.1f}",
                    f"{one.peak_memory_mb or 0:,.0f}",
                    f"{one.size_bytes / 2**20:.1f}",
                    f"{one.quality.accuracy:.4f}",
                    f"{one.quality.change_points:+.2f}",
                    f"{one.quality.agreement:.2%}",
                )
            )
    lines = align(header, rows, right=frozenset(header[1:]))
    runs = next(timing.num_runs for one in results for timing in one.timings)
    lines.append(
        f"\n{setting.processor}, {setting.threads} of {setting.num_cores} cores, {runs} runs each; accuracy on "
        f"{setting.num_images} {setting.split} images, changes in points against {TITLES[setting.reference]}"
    )
    if not all(one.kept for one in results if not one.problem):
        lines.append(
            "* exported for the benchmark and deleted: export quantization=int8 or format=torchscript keeps it"
        )
    return [*lines, *(f"not measured: {TITLES[one.form]}: {one.problem}" for one in results if one.problem)]


def _write(folder: Path, setting: Setting, results: list[CandidateResult], sizes: list[int]) -> None:
    """Write benchmark.json, benchmark.csv, deployment_recommendations.md and the plots."""
    forms = [_plain(result) for result in results]
    write_json(folder / "benchmark.json", {"setting": asdict(setting), "versions": versions(), "forms": forms})
    write_csv(folder / "benchmark.csv", HEADER, _rows(results))
    write_text(folder / "deployment_recommendations.md", write_recommendations(setting, results, sizes))
    measured = [one for one in results if one.quality is not None and one.timings]
    names = tuple(TITLES[one.form] for one in measured)
    accuracies = tuple(one.quality.accuracy for one in measured if one.quality is not None)
    with Drawer() as drawer:
        for size in sizes:
            timings = [timing for one in measured if (timing := one.at(size)) is not None]
            if len(timings) == len(measured):
                latency = TradeOffFigure(
                    names=names,
                    x=tuple(timing.median_ms for timing in timings),
                    y=accuracies,
                    x_spans=tuple((timing.p10_ms, timing.p90_ms) for timing in timings),
                    title=f"Batch size {size}, {setting.threads} threads",
                    log_x=True,
                    x_label="ms per batch: median, 10 to 90 %",
                    y_label=f"top-1 accuracy on {setting.num_images} {setting.split} images",
                )
                drawer.submit(latency, folder / f"latency_batch_{size}.png")
        by_size = TradeOffFigure(
            names=names,
            x=tuple(one.size_bytes / 2**20 for one in measured),
            y=accuracies,
            title="Size of the file",
            x_label="MiB",
            y_label=f"top-1 accuracy on {setting.num_images} {setting.split} images",
        )
        drawer.submit(by_size, folder / "size.png")


def _plain(result: CandidateResult) -> dict[str, Any]:
    return {
        "form": result.form,
        "title": TITLES[result.form],
        "size_bytes": result.size_bytes,
        "kept": result.kept,
        "start_seconds": result.start_seconds,
        "peak_memory_mb": result.peak_memory_mb,
        "timings": [asdict(timing) for timing in result.timings],
        "quality": None if result.quality is None else asdict(result.quality),
        "problem": result.problem,
    }


def _rows(results: list[CandidateResult]) -> Iterator[tuple[object, ...]]:
    for one in results:
        quality = one.quality
        predictions = (
            (quality.accuracy, quality.change_points, quality.agreement, quality.max_probability_difference,
             quality.num_images) if quality else ("",) * 5
        )  # fmt: skip
        costs = (one.start_seconds, one.peak_memory_mb, one.size_bytes)
        for timing in one.timings or (None,):
            times = (
                (timing.batch_size, timing.median_ms, timing.p10_ms, timing.p90_ms, timing.num_runs,
                 timing.images_per_second) if timing else ("",) * 6
            )  # fmt: skip
            yield (one.form, *times, *costs, *predictions, one.problem)
