"""The files that `benchmark` chooses from: made, timed and scored when the walk asks for them."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.processes import work_in
from classifier_training.core.run_dir import RunDir, staged
from classifier_training.core.types import TRAIN, VAL
from classifier_training.evaluation.comparison import design_effect, largest_loss
from classifier_training.evaluation.groups import Groups
from classifier_training.export.benchmark import Candidate, time_files
from classifier_training.export.bundle import write_info
from classifier_training.export.examples import NUM_CALIBRATION_IMAGES, Examples, iterate_examples, read_examples
from classifier_training.export.pareto import CannotMakeError, Cost, Drop, Option, Visit
from classifier_training.export.session import BLOCK, onnx_runner
from classifier_training.workflows.evaluating.run_page import renew_exports
from classifier_training.workflows.serving.benchmark_runs import BATCH_SIZE, Run, SplitPixels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.export.gate import Gate
    from classifier_training.export.job import ExportedFile, ExportJob
    from classifier_training.export.session import Runner

log = logging.getLogger(__name__)

NUM_PARITY_IMAGES = 16
NUM_SHIPPED_PARITY_IMAGES = 64

SHARE_OF_BYTES = {"onnx": 0.9, "fp16": 0.45, "int8": 0.225}
"""Of the size of model.onnx that a file has at least. A tenth is left for what else is in it, such as the score for
novel images."""

SHARE_OF_MS = {"onnx": 0.8, "fp16": 0.8, "int8": 0.2}
"""Of the latency that the operations suggest, that a file takes at least: eight bits are at best four times as fast,
and a fifth is left for noise. A small input is slower than its operations say, so the bound holds."""


@dataclass(kw_only=True)
class Shipped:
    """A file as it would be shipped, in a folder of its own with what belongs to it.

    Args:
        path: the file.
        files: what was written; empty where the run has the file already.
        target: the folder.
    """

    path: Path
    files: list[ExportedFile]
    target: RunDir | None = None


@dataclass(kw_only=True)
class FileMeasures:
    """Makes, times and scores files, each at most once.

    Args:
        runs: that the files are made of.
        images: to score them on.
        reference: the file that the others are compared with.
        max_drop: that a copy in fewer bits is made for, in points.
        threads: of each file.
        num_runs: timed repetitions of a file that would be shipped.
        scratch: folder for temporary files.

    Attributes:
        num_made: files that were written.
        num_timed: files that were timed.
        num_predicted: images that were predicted, over all files.
    """

    runs: list[Run]
    images: SplitPixels
    reference: Option
    max_drop: float
    threads: int
    num_runs: int
    scratch: Path
    num_made: int = 0
    num_timed: int = 0
    num_predicted: int = 0
    gates: dict[Option, Gate] = field(default_factory=dict)
    parities: dict[Option, str] = field(default_factory=dict)
    _correct: dict[Option, NDArray[np.bool_]] = field(default_factory=dict)
    _made: dict[Option, Path | CannotMakeError] = field(default_factory=dict)
    _costs: dict[Option, Cost] = field(default_factory=dict)
    _shipped: dict[Option, tuple[Shipped, Cost, Drop]] = field(default_factory=dict)

    def drop(self, option: Option, *, limit: float | None) -> Drop:
        """See `Measures`."""
        if option == self.reference:
            self.correct(option)
            return Drop(num_images=len(self.images), gained=0, lost=0, bound=0.0, low=0.0, is_whole=True)
        return self._drop_of(self.correct(option, limit=limit))

    def correct(self, option: Option, *, limit: float | None = None) -> NDArray[np.bool_]:
        """Predict the images with a file, and return which predictions are correct [N'].

        Args:
            option: the file.
            limit: see `drop`; the result is then shorter.
        """
        found = self._correct.get(option, np.zeros(0, dtype=np.bool_))
        preprocessing = self.runs[option.run].at(option.image_size).preprocessing
        runner: Runner | None = None
        while len(found) < len(self.images):
            if limit is not None and len(found) and self._drop_of(found).bound > limit:
                break
            runner = runner or self._runner(option)
            start, stop = len(found), min(len(found) + BATCH_SIZE, len(self.images))
            logits = runner(self.images.inputs(preprocessing, start, stop))
            self.num_predicted += stop - start
            found = np.concatenate([found, logits.argmax(axis=1) == self.images.targets[start:stop]])
            self._correct[option] = found
        return found

    def _drop_of(self, correct: NDArray[np.bool_]) -> Drop:
        """The loss against the reference, of predictions for the first of the images."""
        reference, number, total = self._correct[self.reference], len(correct), len(self.images)
        was_correct = reference[:number]
        gained, lost = int((correct & ~was_correct).sum()), int((~correct & was_correct).sum())
        if number < total:
            # Were all the others that the reference gets wrong correct, and none lost.
            hoped = gained + int((~reference[number:]).sum())
            bound = largest_loss(hoped, lost, total)
            return Drop(
                num_images=number, gained=gained, lost=lost, bound=100 * bound, low=float("nan"), is_whole=False
            )
        return _whole_drop(correct, reference, self.images.groups)

    def drop_on(self, images: SplitPixels, option: Option, path: Path) -> Drop:
        """The loss of a file against the reference on other images."""
        pairs = [(option, path), (self.reference, self._file(self.reference))]
        correct = []
        for one, file in pairs:
            runner = onnx_runner(file, num_threads=self.threads)
            batches = images.examples(self.runs[one.run].at(one.image_size).preprocessing)
            correct.append(np.concatenate([runner(b.inputs).argmax(axis=1) == b.targets for b in batches]))
        return _whole_drop(correct[0], correct[1], images.groups)

    def _runner(self, option: Option) -> Runner:
        """What predicts as a file does: the file, or PyTorch in place of one in float32 that is not there yet."""
        run = self.runs[option.run]
        if option.form != "onnx" or run.kept(option) is not None or option in self._made:
            return onnx_runner(self._file(option), num_threads=self.threads)
        from classifier_training.export.formats.pytorch import open_network

        return open_network(run.network, threads=self.threads, compiled=False)

    def cost(self, option: Option) -> Cost:
        """See `Measures`."""
        if option not in self._costs:
            (self._costs[option],) = self._time([(option, self._file(option))], num_runs=BLOCK)
        return self._costs[option]

    def _time(self, files: list[tuple[Option, Path]], *, num_runs: int) -> list[Cost]:
        candidates = []
        for option, path in files:
            preprocessing = self.runs[option.run].at(option.image_size).preprocessing
            inputs = self.scratch / f"timed_{option.run}_{option.image_size}.npy"
            np.save(inputs, self.images.inputs(preprocessing, 0, 1))
            candidates.append((Candidate(form=option.form, path=path, file=path, kept=True), inputs))
        self.num_timed += len(files)
        costs = []
        for result in time_files(candidates, batch_size=1, threads=self.threads, num_runs=num_runs):
            if result.problem:
                raise CannotMakeError(result.problem)
            costs.append(Cost(timing=result.timings[0], size_bytes=result.size_bytes))
        return costs

    def complete(self, visit: Visit) -> None:
        """Add what was measured of a file for another reason than the walk's."""
        option = visit.option
        visit.cost = visit.cost or self._costs.get(option)
        if visit.drop is None and option in self._correct:
            visit.drop = self.drop(option, limit=-100.0)

    def _file(self, option: Option) -> Path:
        """The file of an option, made where it is not there.

        Raises:
            CannotMakeError: when it cannot be made, or fails its check.
        """
        kept = self.runs[option.run].kept(option)
        if kept is not None:
            return kept
        if option not in self._made:
            try:
                self._made[option] = self._make(option)
                self.num_made += 1
            except UserError as error:
                self._made[option] = CannotMakeError(error.came)
        found = self._made[option]
        if isinstance(found, CannotMakeError):
            raise found
        return found

    def _make(self, option: Option) -> Path:
        run = self.runs[option.run]
        info = run.at(option.image_size)
        folder = self.scratch / f"run{option.run}_{option.image_size}px"
        folder.mkdir(exist_ok=True)
        target = RunDir(folder)
        title = f"{run.place(option).relative_to(run.run_dir.path)}"
        # onnx takes a while to load.
        from classifier_training.export.novelty import expose_features, write_without_novelty

        if option.form == "onnx":
            import onnx

            log.info("making %s", title)
            job = self._job(run, option, target, number=NUM_PARITY_IMAGES, is_calibrated=False)
            job.write_onnx(target.onnx, opset=None)
            model = onnx.load(target.onnx)
            # A copy in fewer bits is given the score for novel images of them when it is shipped.
            if expose_features(model):
                onnx.save(model, target.onnx)
            parity = job.finish(target.onnx, "onnx", onnx_runner(target.onnx)).parity
            assert parity is not None
            self.parities[option] = f"{parity.max_probability_difference:.0e}"
            return target.onnx
        from classifier_training.export.gate import write_gated

        refuse_eight_bits(run)
        source, path = folder / "source.onnx", target.quantized(target.onnx, option.form)
        write_without_novelty(self._file(option.source), source)
        log.info("making %s", title)

        def calibration() -> Iterator[Examples]:
            return iterate_examples(
                run.tables[TRAIN], info.preprocessing, batch_size=BATCH_SIZE, number=NUM_CALIBRATION_IMAGES
            )

        self.gates[option] = write_gated(
            source,
            path,
            option.form,
            calibration=calibration,
            validation=lambda: self.images.examples(info.preprocessing),
            class_names=info.class_names,
            max_drop=max(0.0, self.max_drop - self.drop(option.source, limit=None).points),
            force=False,
        )
        return path

    def _job(self, run: Run, option: Option, target: RunDir, *, number: int, is_calibrated: bool) -> ExportJob:
        from classifier_training.export.job import ExportJob

        info = run.at(option.image_size)
        return ExportJob(
            target=target,
            network=run.network,
            info=info,
            examples=read_examples(run.tables[VAL], info.preprocessing, number=number),
            scratch=target.path,
            tables=run.tables if is_calibrated else None,
        )

    def confirm(self, option: Option) -> tuple[Cost, Drop]:
        """See `Measures`; the file is timed beside the reference."""
        if option not in self._shipped:
            try:
                shipped = self._ship(option)
            except UserError as error:
                raise CannotMakeError(error.came) from error
            pairs = [(option, shipped.path), (self.reference, self._file(self.reference))]
            # Both at once, so that a noisy minute hits both; a file needs no second process beside itself.
            costs = self._time(pairs[: 1 + (option != self.reference)], num_runs=self.num_runs)
            self._costs[self.reference] = costs[-1]
            if shipped.target is not None:
                if option.form == "onnx":
                    # So far PyTorch has predicted in its place.
                    self._correct.pop(option, None)
                self._made[option] = shipped.path
            self._shipped[option] = (shipped, costs[0], self.drop(option, limit=None))
        _, cost, drop = self._shipped[option]
        return cost, drop

    def _ship(self, option: Option) -> Shipped:
        """Write a file with what belongs to it: calibration, the score for novel images, and its pipeline."""
        run = self.runs[option.run]
        kept = run.kept(option)
        if kept is not None:
            return Shipped(path=kept, files=[])
        import onnx

        from classifier_training.export.calibrate import calibrate
        from classifier_training.export.formats.onnx import write_golden_of, write_pipeline_of
        from classifier_training.export.novelty import remove_novelty
        from classifier_training.export.write import with_files
        from classifier_training.workflows.serving.export import finish_quantized

        info = run.at(option.image_size)
        target = RunDir(self.scratch / f"shipped_{option.run}_{option.image_size}_{option.form}")
        target.path.mkdir()
        job = self._job(run, option, target, number=NUM_SHIPPED_PARITY_IMAGES, is_calibrated=True)
        is_own = option.image_size == run.image_size
        files: list[ExportedFile] = []
        if is_own:
            shutil.copyfile(run.run_dir.onnx, target.onnx)
        else:
            shutil.copyfile(self._file(option.source), target.onnx)
            fitted = calibrate(target.onnx, info.class_names, info.preprocessing, run.tables)
            if fitted is None:
                bare = onnx.load(target.onnx)
                remove_novelty(bare)
                onnx.save(bare, target.onnx)
            model = job.finish(target.onnx, "onnx", onnx_runner(target.onnx))
            files += [dataclasses.replace(model, calibration=fitted), write_pipeline_of(job, fitted)]
            write_golden_of(job, fitted)
        if option.form != "onnx":
            path = target.quantized(target.onnx, option.form)
            shutil.copyfile(self._file(option), path)
            fitted = with_files(info, files).calibration
            files += finish_quantized(job, option.form, self.gates[option], fitted)
        return Shipped(path=files[0].path if option.form == "onnx" else path, files=files, target=target)

    def keep(self, option: Option) -> Path:
        """Put the confirmed file of an option, with what belongs to it, into its run folder; returns its place."""
        run, (shipped, _, _) = self.runs[option.run], self._shipped[option]
        place = run.place(option)
        if shipped.target is None:
            return place
        from classifier_training.export.write import with_files

        names = {file.path.name for file in shipped.files} | {shipped.target.golden.name}
        with work_in(run.run_dir), staged(run.folder(option.image_size)) as staging:
            for path in shipped.target.path.iterdir():
                if path.name in names:
                    shutil.move(path, staging / path.name)
            moved = [dataclasses.replace(file, path=staging / file.path.name) for file in shipped.files]
            write_info(RunDir(staging), with_files(run.at(option.image_size), moved))
        if option.image_size == run.image_size:
            renew_exports(run.run_dir)
        return place


def _whole_drop(correct: NDArray[np.bool_], reference: NDArray[np.bool_], groups: Groups | None) -> Drop:
    """The loss of one file against another, whose predictions for the same images are correct or not, both [N]."""
    gained, lost, total = int((correct & ~reference).sum()), int((~correct & reference).sum()), len(correct)
    factor = 1.0 if groups is None else design_effect(correct.astype(np.int64) - reference, groups)
    counts = gained / factor, lost / factor
    return Drop(
        num_images=total,
        gained=gained,
        lost=lost,
        bound=100 * largest_loss(*counts, total / factor),
        low=-100 * largest_loss(*counts[::-1], total / factor),
        is_whole=True,
    )


def refuse_eight_bits(run: Run) -> None:
    """Refuse a copy in fewer bits of a network that cannot have one; see `export.refuse_rounding`."""
    from classifier_training.workflows.serving.export import refuse_rounding

    refuse_rounding(run.info.architecture, "int8")
