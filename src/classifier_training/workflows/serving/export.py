"""`export`: a finished run's network in the formats that ship, each compared with PyTorch on real images."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
from pydantic import Field

from classifier_training.conf.unused_settings import is_fitted_at_once
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.processes import work_in
from classifier_training.core.register import Choice, Word, register
from classifier_training.core.run_dir import RunDir, staged
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.core.types import TRAIN, VAL, softmax
from classifier_training.export.bundle import read_info, write_info
from classifier_training.export.examples import NUM_CALIBRATION_IMAGES, Examples, iterate_examples, read_examples
from classifier_training.export.job import ExportFormat, Quantization
from classifier_training.export.opset import EIGHT_BIT_OPSET
from classifier_training.export.sharing import check_repository, find_ort, write_demo
from classifier_training.export.sharing import push_to_hub as upload
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.run_model import load_trained, refuse_twice
from classifier_training.workflows.evaluating.run_page import renew_exports
from classifier_training.workflows.evaluating.samples import own_samples, tabulate
from classifier_training.workflows.serving.ensembles import open_ensemble, refuse_formats

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from classifier_training.core.types import SplitTable
    from classifier_training.export.bundle import BundleInfo, Calibration
    from classifier_training.export.gate import Gate
    from classifier_training.export.job import ExportedFile, ExportJob

log = logging.getLogger(__name__)

NUM_PARITY_IMAGES = 64
BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """Result of `export`.

    Args:
        folder: of the files.
        lines: one line for each file.
        demo: whether demo.html was written.
        is_on_page: whether the files are in the table of the run's page now.
    """

    folder: Path
    lines: tuple[str, ...]
    demo: bool
    is_on_page: bool = False

    def __str__(self) -> str:
        server = f"python -m http.server --bind 127.0.0.1 --directory {shlex.quote(str(self.folder))}"
        page = [f"demo: {server}   and open http://127.0.0.1:8000/demo.html"] if self.demo else []
        told = [f"listed in {RunDir(self.folder).report}"] if self.is_on_page else []
        return "\n".join([*self.lines, f"written to {self.folder}", *told, *page])


@register(
    group="verb",
    name="export",
    examples=(
        "export latest quantization=int8",
        "export latest 'format=[onnx,torchscript]' output=bundle",
    ),
)
def export(
    *,
    run: Annotated[RunText | list[RunText], Word()] = "latest",
    format: Annotated[Mapping[str, ExportFormat], Choice("onnx", many=True)],  # noqa: A002 - the user's word
    quantization: Quantization = "none",
    max_drop: Annotated[float, Field(ge=0, le=100)] = 1.0,
    force: bool = False,
    verify: bool = True,
    bake_temperature: bool = True,
    demo: bool = False,
    ort: TypedPath | None = None,
    images: TypedPath | None = None,
    output: TypedPath | None = None,
    push_to_hub: str | None = None,
) -> ExportResult:
    """Export a finished run's network: ONNX with or without quantization, TorchScript, and other formats.

    Args:
        run: run folder, latest, best, NAME, NAME:v2 or an alias such as production; a cross-validation, or several runs
            in a list, are written as one ONNX file that averages their probabilities.
        quantization: also write model_int8.onnx, model_uint8.onnx or model_fp16.onnx, with its pipeline.
        max_drop: largest drop of top-1 accuracy on validation, in points, that quantization may cause.
        force: write the quantized file even if the drop is larger.
        verify: compare each file with PyTorch on validation images.
        bake_temperature: let pipeline.onnx return calibrated probabilities, as predict does; false leaves the
            temperature to whoever runs the file, in its metadata, which the clients read.
        demo: also write demo.html, a page that classifies images in the browser with pipeline.onnx.
        ort: folder with the files of onnxruntime-web for the demo; fetched by npm when left out.
        images: folder of the run's images, if they have moved since.
        output: folder for the files; the run's own when left out.
        push_to_hub: also upload the model to this repository (user/name) of the Hugging Face Hub, as a private one
            unless it is there, with the token of `hf auth login` or HF_TOKEN.
    """
    if push_to_hub is not None:
        check_repository(push_to_hub)
    refuse_idle(
        quantization, format, max_drop=max_drop, force=force, demo=demo, ort=ort, bake_temperature=bake_temperature
    )
    web_runtime = find_ort(Path(ort).expanduser() if ort else None) if demo else None
    run_dirs = [find_run(name) for name in ([run] if isinstance(run, str) else run)]
    if not run_dirs:
        raise UserError("run=[]: no run", "one run or more", "run=latest")
    run_dir = run_dirs[0]
    is_ensemble = len(run_dirs) > 1 or run_dir.is_cross_validation
    if len(run_dirs) > 1 and output is None:
        raise UserError(
            f"run=[…] of {len(run_dirs)} runs without output",
            "a folder for the files of all of them",
            "output=ensemble",
        )
    target = RunDir(Path(output).expanduser()) if output else run_dir
    if target.path.resolve() == run_dir.path.resolve():
        target = run_dir
    opened = _open_several(run_dirs, format, quantization) if is_ensemble else _open_one(run_dir, quantization)
    samples, root = own_samples(opened.images, moved_to=images, setting="images")
    info = opened.info
    tables = {split: tabulate(samples, root, split, info.class_names) for split in (TRAIN, VAL)}
    from classifier_training.export.write import with_files

    kept = _kept(target, run_dir, info)
    # The files of a run stay: only those of a folder of exports are removed.
    before = read_info(target).files if target.model_info.is_file() and not target.config.exists() else {}
    with (
        work_in(run_dir) if target == run_dir else nullcontext(),
        tempfile.TemporaryDirectory() as scratch,
        staged(target.path) as staging,
    ):
        job = opened.job(RunDir(staging), tables, Path(scratch), verify=verify, bake_temperature=bake_temperature)
        files = [file for chosen in format.values() for file in chosen.export(job)]
        if quantization != "none":
            fitted = with_files(info, files).calibration
            files += quantize(job, quantization, tables, fitted, max_drop=max_drop, force=force)
        if web_runtime is not None:
            write_demo(job.target, ort=web_runtime)
        told = with_files(kept, files)
        write_info(job.target, told)
    _remove_of_others(target, [name for name in before if name not in told.files])
    lines = [str(file) for file in files]
    is_on_page = target == run_dir and renew_exports(run_dir)
    if push_to_hub is not None:
        if target != run_dir:
            # An ensemble has no card: that of a member has the scores of that one.
            target.model_card.unlink(missing_ok=True)
            if not is_ensemble and run_dir.model_card.exists():
                shutil.copyfile(run_dir.model_card, target.model_card)
        lines.append(f"pushed: {upload(target, push_to_hub)}")
    return ExportResult(target.path, tuple(lines), demo=demo, is_on_page=is_on_page)


class Opened(Protocol):
    """What is to be exported: one network, or an ensemble."""

    @property
    def info(self) -> BundleInfo:
        """What is said about it."""
        ...

    @property
    def images(self) -> RunDir:
        """The run whose training and validation images the files are compared on."""
        ...

    def job(
        self, target: RunDir, tables: Mapping[str, SplitTable], scratch: Path, *, verify: bool, bake_temperature: bool
    ) -> ExportJob:
        """Return the job that writes it into a folder."""
        ...


@dataclasses.dataclass(frozen=True)
class _Network:
    """One run's network."""

    network: nn.Module
    info: BundleInfo
    images: RunDir

    def job(
        self, target: RunDir, tables: Mapping[str, SplitTable], scratch: Path, *, verify: bool, bake_temperature: bool
    ) -> ExportJob:
        from classifier_training.export.job import ExportJob

        return ExportJob(
            target=target,
            network=self.network,
            info=self.info,
            examples=read_examples(tables[VAL], self.info.preprocessing, number=NUM_PARITY_IMAGES),
            scratch=scratch,
            verify=verify,
            tables=tables,
            bake_temperature=bake_temperature,
        )


def _open_one(run_dir: RunDir, quantization: Quantization) -> Opened:
    network, info = load_trained(run_dir)
    refuse_rounding(info.architecture, quantization)
    return _Network(network, info, run_dir)


def _open_several(
    run_dirs: Sequence[RunDir], formats: Mapping[str, ExportFormat], quantization: Quantization
) -> Opened:
    refuse_formats(formats)
    refuse_twice([run_dir.path for run_dir in run_dirs])
    opened = open_ensemble(run_dirs)
    for architecture in opened.info.architecture.split(" + "):
        refuse_rounding(architecture, quantization)
    return opened


def _remove_of_others(target: RunDir, names: Sequence[str]) -> None:
    """Remove exports of another run: nothing says whose they are any more, and they predict as that run does."""
    for name in names:
        path = target.path / Path(name).name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if names:
        log.info("removed from %s, exports of another run: %s", target.path, enumerate_words(names))


def _kept(target: RunDir, run_dir: RunDir, info: BundleInfo) -> BundleInfo:
    """Return what a folder says of a run's files that it has already, which an export adds to."""
    if target == run_dir:
        return info
    nothing = dataclasses.replace(info, files={}, quantization="none")
    if not target.model_info.is_file():
        return nothing
    found = read_info(target)
    # Files of another run are none of this one's.
    return found if found.training_info == info.training_info else nothing


def refuse_idle(
    quantization: Quantization,
    formats: Mapping[str, Any],
    *,
    max_drop: float,
    force: bool,
    demo: bool,
    ort: str | None,
    bake_temperature: bool,
) -> None:
    """Refuse settings that have no effect.

    Raises:
        UserError: for the first of them.
    """
    for is_asked, typed, why in (
        (quantization != "none", f"quantization={quantization}", "only ONNX files are quantized"),
        (not bake_temperature, "bake_temperature=false", "it concerns pipeline.onnx only"),
        (demo, "demo=true", "the page runs pipeline.onnx"),
    ):
        if is_asked and "onnx" not in formats:
            listed = ",".join(formats)
            raise UserError(
                f"{typed} with format={listed}", f"onnx among the formats: {why}", f"format=[onnx,{listed}]"
            )
    opset = getattr(formats.get("onnx"), "opset", None)
    if quantization in ("int8", "uint8") and isinstance(opset, int) and opset < EIGHT_BIT_OPSET:
        raise UserError(
            f"quantization={quantization} with format.onnx.opset={opset}: it has one scale for all channels",
            f"opset {EIGHT_BIT_OPSET} or later",
            f"format.onnx.opset={EIGHT_BIT_OPSET}, or quantization=fp16",
        )
    if ort is not None and not demo:
        raise UserError(f"ort={ort} without demo=true", "a demo page that uses it", "demo=true, or leave ort out")
    if quantization == "none" and (force or max_drop != 1.0):
        raise UserError(
            "max_drop or force without quantization",
            "a quantization to which they apply",
            "quantization=int8, or leave them out",
        )


def refuse_rounding(architecture: str, quantization: Quantization) -> None:
    """Refuse to quantize a model that counts grey levels, which fewer bits than float32 has cannot hold.

    Raises:
        UserError: then.
    """
    if quantization != "none" and is_fitted_at_once(architecture):
        raise UserError(
            f"quantization={quantization}: the features of this model count whole grey levels, exactly, in float32",
            "a convolutional network or a transformer",
            "leave quantization out; a smaller file comes from fewer support vectors or trees (model.num_trees)",
        )


def quantize(
    job: ExportJob,
    scheme: Quantization,
    tables: Mapping[str, SplitTable],
    fitted: Calibration | None,
    *,
    max_drop: float,
    force: bool,
) -> list[ExportedFile]:
    """Write the quantized copy of model.onnx, gated on the whole validation split, and its pipeline.

    The copy keeps the temperature and the thresholds of the file that it is made of.
    """
    from classifier_training.export.gate import write_gated
    from classifier_training.export.novelty import write_without_novelty

    assert scheme != "none"
    preprocessing = job.info.preprocessing

    def calibration() -> Iterator[Examples]:
        return iterate_examples(tables[TRAIN], preprocessing, batch_size=BATCH_SIZE, number=NUM_CALIBRATION_IMAGES)

    def validation() -> Iterator[Examples]:
        return iterate_examples(tables[VAL], preprocessing, batch_size=BATCH_SIZE)

    source = job.scratch / "model.onnx"
    write_without_novelty(job.target.onnx, source)
    gate = write_gated(
        source,
        job.target.quantized(job.target.onnx, scheme),
        scheme,
        calibration=calibration,
        validation=validation,
        class_names=job.info.class_names,
        max_drop=max_drop,
        force=force,
    )
    return finish_quantized(job, scheme, gate, fitted)


def finish_quantized(
    job: ExportJob, scheme: Quantization, gate: Gate, fitted: Calibration | None
) -> list[ExportedFile]:
    """Give the quantized copy of model.onnx that lies beside it the score for novel images, and write its pipeline."""
    from classifier_training.export.job import ExportedFile
    from classifier_training.export.novelty import copy_novelty
    from classifier_training.export.pipeline import write_pipeline
    from classifier_training.export.session import onnx_runner
    from classifier_training.export.verify import verify_pipeline

    preprocessing = job.info.preprocessing
    path = job.target.quantized(job.target.onnx, scheme)
    copy_novelty(job.target.onnx, path)
    pipeline = job.target.quantized(job.target.pipeline, scheme)
    baked = fitted.temperature if job.bake_temperature and fitted is not None else None
    write_pipeline(path, preprocessing, pipeline, temperature=baked)
    parity = None
    if job.verify:
        network = onnx_runner(path)

        def predict(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            return softmax(network(inputs) / np.float32(baked or 1.0))

        parity = verify_pipeline(pipeline, preprocessing, predict, job.examples, reference=path.name)
    return [
        ExportedFile(path=path, format_name="onnx", quantization=scheme, gate=gate),
        ExportedFile(
            path=pipeline,
            format_name="onnx",
            quantization=scheme,
            parity=parity,
            note="" if job.verify else "verify=false",
        ),
    ]
