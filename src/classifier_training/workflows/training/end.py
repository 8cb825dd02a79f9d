"""The end of a run: everything between the last epoch and result.json, in this order.

model.onnx, the score, the report; pipeline.onnx and the other files, the report once more; result.json, last of all.
Nothing here costs the run its score: what fails is named, and the rest is done.
"""

from __future__ import annotations

import logging
import signal
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.callbacks.model_files import OnnxExport
from classifier_training.core.errors import InterruptedRunError, UserError, reason_of
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.manifest import remove_checkpoints
from classifier_training.core.run_dir import RunDir, write_json
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import PROBE_EPOCH
from classifier_training.evaluation.learning_curve import write_learning_curve
from classifier_training.evaluation.verdict import TARGET_RECALL, Targets
from classifier_training.workflows.evaluating.corrections_effect import write_effect
from classifier_training.workflows.evaluating.model_card import write_model_card
from classifier_training.workflows.evaluating.run_model import write_test_predictions
from classifier_training.workflows.evaluating.run_page import write_run_page
from classifier_training.workflows.evaluating.samples import train_counts, unknown_labels
from classifier_training.workflows.evaluating.scores import write_scores
from classifier_training.workflows.evaluating.trained_again import compare_again
from classifier_training.workflows.training.screen import file_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytorch_lightning.loggers import Logger

    from classifier_training.callbacks.observer import FitEnd, Observer, RunContext
    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.data.index import SampleIndex
    from classifier_training.data.samples import Sample
    from classifier_training.evaluation.corrections_effect import CorrectionsEffect
    from classifier_training.evaluation.results import Evaluation
    from classifier_training.export.bundle import Calibration
    from classifier_training.export.write import BundleWriter
    from classifier_training.workflows.evaluating.scores import Attempt
    from classifier_training.workflows.evaluating.trained_again import TrainedAgain

log = logging.getLogger(__name__)


LAST_CHECKPOINT = "checkpoints/last.ckpt"
"""Among the failures: the checkpoint of before is kept then."""


@dataclass
class Failures:
    """What went wrong after training, by what it was."""

    found: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def keep(self, what: str) -> Iterator[None]:
        """Name and remember whatever the block raises, and continue; one that succeeds clears the failure before it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the score and the other files come first
            self.note(what, error)
        else:
            self.found.pop(what, None)

    def note(self, what: str, error: Exception) -> None:
        """Name and remember an error; the log file has where it came from, unless it is a message for users."""
        is_told = isinstance(error, UserError)
        log.error("%s: %s", what, error if is_told else reason_of(error), exc_info=None if is_told else error)
        self.found[what] = reason_of(error)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run whose training is over; its network holds the best weights.

    Args:
        run: what is known of it.
        observers: of the run; the exporter among them writes the bundle.
        loggers: where metrics go besides the run folder.
        end: rows of metrics, and where the best weights are from.
        score: predicts the held-out images with the best weights.
        source: name of the file that holds them.
        keeps_last: whether the finished run keeps last.ckpt.
        failures: what has failed since the last epoch.
    """

    run: RunContext
    observers: Sequence[Observer]
    loggers: Sequence[Logger]
    end: FitEnd
    score: Callable[[], SplitResult]
    source: str
    keeps_last: bool = True
    failures: Failures = field(default_factory=Failures)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A finished run.

    Args:
        scored: predictions of the best weights on the held-out images.
        evaluation: their metrics.
        failures: what could not be done after training, and why; withheld files among them, by name.
        effect: the run against the one that it started from; None where they were not scored on the same images.
        again: the same for a run that was trained again.
    """

    scored: SplitResult
    evaluation: Evaluation
    failures: Mapping[str, str]
    effect: CorrectionsEffect | None = None
    again: TrainedAgain | None = None


def finish_run(trained: Trained, index: SampleIndex) -> Ended:
    """Write all that a run leaves, result.json last.

    Args:
        trained: the run.
        index: all of its data, from which images of unknown labels are counted and those without labels predicted.

    Raises:
        UserError: when the held-out images cannot be scored, though the exported files are written all the same; or
            when result.json cannot be written.
        InterruptedRunError: when a signal came.
    """
    from classifier_training.training.loggers import closed_after_errors

    failures, clock = trained.failures, trained.run.clock
    with interrupts_told(trained.run.run_dir, NO_MORE):
        with closed_after_errors(trained.loggers), ExitStack() as stack:
            writer = _open_writer(trained, stack, failures)
            with clock.part("export"):
                _write_model(trained, writer, failures)
            with clock.part("scoring"):
                scored = _score(trained, writer, failures)
            with clock.part("report"):
                evaluation = _write_score(trained, scored, index.samples, writer, failures)
                effect = _write_effect(trained, failures)
                again = _compare_again(trained, scored, failures)
                _write_documents(trained, scored, evaluation, writer, failures)
            with clock.part("export"):
                _write_others(writer, failures)
            if index.unlabelled:
                with clock.part("scoring"), failures.keep(trained.run.run_dir.test_predictions.name):
                    write_test_predictions(trained.run.run_dir, index)
            if writer is not None:
                with clock.part("report"):
                    _write_documents(trained, scored, evaluation, writer, failures)
        _close_loggers(trained, failures)
        _record(trained, scored, evaluation, failures)
        _upload(trained)
    return Ended(scored=scored, evaluation=evaluation, failures=failures.found, effect=effect, again=again)


def _open_writer(trained: Trained, stack: ExitStack, failures: Failures) -> BundleWriter | None:
    """Return what writes the bundle; None where nothing is exported."""
    writer = None
    for exporter in trained.observers:
        if isinstance(exporter, OnnxExport):
            with failures.keep("the export"):
                writer = stack.enter_context(exporter.writer(trained.run, trained.end))
    return writer


def _write_model(trained: Trained, writer: BundleWriter | None, failures: Failures) -> None:
    """Write the weights and model.onnx, and what the other observers leave."""
    if writer is not None:
        with failures.keep("model_info.json"):
            writer.write_model()
        failures.found |= writer.info.withheld
    for observer in trained.observers:
        with failures.keep(type(observer).__name__):
            observer.fit_ended(trained.run, trained.end)


def _score(trained: Trained, writer: BundleWriter | None, failures: Failures) -> SplitResult:
    """Predict the held-out images. One that cannot be read costs the score until it is fixed, and no file."""
    try:
        scored = trained.score()
    except Exception as error:
        _write_others(writer, failures)
        if isinstance(error, UnreadableImageError):
            remedy = f"repair the file, and have the trained run scored: {_resume(trained.run.run_dir)}"
            raise UnreadableImageError(error.path, error.reason, remedy) from error
        raise
    metrics = {f"{scored.split}/{name}": value for name, value in scored.metrics.items()}
    for logger in trained.loggers:
        with failures.keep(f"{scored.split} metrics for {type(logger).__name__}"):
            logger.log_metrics(metrics, step=int(trained.end.rows[-1]["step"]))
            logger.save()
    return scored


def _write_score(
    trained: Trained,
    scored: SplitResult,
    samples: Sequence[Sample],
    writer: BundleWriter | None,
    failures: Failures,
) -> Evaluation:
    """Score the predictions, as users get them, and write evaluation/ with its plots."""
    run = trained.run
    evaluation = write_scores(
        run.run_dir.evaluation,
        scored,
        run.tables[scored.split],
        run.class_names,
        run.drawer,
        calibration=_calibration(writer),
        source=trained.source,
        unknown_labels=unknown_labels(samples, scored.split, run.class_names),
        targets=Targets.of(run.config),
        train_counts=train_counts(run.run_dir),
        attempt=failures.keep,
    )
    with failures.keep("evaluation/learning_curve.json"):
        targets = Targets.of(run.config).by_class("recall", run.class_names)
        write_learning_curve(
            run.run_dir, scored, run.class_names, run.drawer, targets=[target or TARGET_RECALL for target in targets],
            is_probe=trained.end.best_epoch == PROBE_EPOCH, seed=int(run.config["seed"]),
        )  # fmt: skip
    run.drawer.wait()
    failures.found |= {
        path.relative_to(run.run_dir.path).as_posix(): reason for path, reason in run.drawer.failures.items()
    }
    return evaluation


def _write_effect(trained: Trained, failures: Failures) -> CorrectionsEffect | None:
    """Compare the run with the one that it started from, if there is one."""
    origin = trained.run.config.get("init_from")
    if origin is None or trained.run.config.get("replay") is not None:
        return None
    with failures.keep(trained.run.run_dir.corrections_effect.name):
        return write_effect(trained.run.run_dir, RunDir(Path(origin)))
    return None


def _compare_again(trained: Trained, scored: SplitResult, failures: Failures) -> TrainedAgain | None:
    """Compare a run that was trained again with the run before."""
    run, origin = trained.run, trained.run.config.get("init_from")
    if origin is None or run.config.get("replay") is None:
        return None
    with failures.keep(run.run_dir.trained_again.name):
        return compare_again(run.run_dir, RunDir(Path(origin)), scored, run.tables[scored.split], run.class_names)
    return None


def _write_documents(
    trained: Trained,
    scored: SplitResult,
    evaluation: Evaluation,
    writer: BundleWriter | None,
    failures: Failures,
) -> None:
    """Write the report and the model card, with what has failed so far."""
    run = trained.run
    write_documents(
        run.run_dir,
        scored,
        run.tables[scored.split],
        run.class_names,
        evaluation,
        calibration=_calibration(writer),
        failures=dict(failures.found),
        ended=trained.end.ended,
        attempt=failures.keep,
    )


def _write_others(writer: BundleWriter | None, failures: Failures) -> None:
    """Write pipeline.onnx and golden/."""
    if writer is not None:
        with failures.keep("model_info.json"):
            writer.write_others()
        failures.found |= writer.info.withheld
        if writer.files:
            log.info("%s", file_words(writer.files, _calibration(writer)))


def _close_loggers(trained: Trained, failures: Failures) -> None:
    from classifier_training.training.loggers import finish

    for logger in trained.loggers:
        with failures.keep(f"closing {type(logger).__name__}"):
            finish(logger, status="success")


def _upload(trained: Trained) -> None:
    """Send the finished run's model to a registry; the run has come to its end without it."""
    from classifier_training.training.loggers import upload

    for logger in trained.loggers:
        try:
            upload(logger)
        except Exception as error:  # noqa: BLE001 - as above
            log.warning(
                "the model was not uploaded: %s; %s %s uploads it", reason_of(error), command("registry"),
                f"publish {setting('run', trained.run.run_dir.path)}",
            )  # fmt: skip


def _record(trained: Trained, scored: SplitResult, evaluation: Evaluation, failures: Failures) -> None:
    """Leave the checkpoints that a finished run needs, and write result.json, by which it is one."""
    run_dir = trained.run.run_dir
    checkpoints = run_dir.last_checkpoint.parent
    if LAST_CHECKPOINT not in failures.found:
        with failures.keep("removing checkpoints"):
            remove_checkpoints(checkpoints, [run_dir.step_checkpoint.name, run_dir.previous_checkpoint.name])
    try:
        seconds = trained.run.clock.so_far()
        record_result(run_dir, scored, trained.end, evaluation, failures.found, seconds)
    except OSError as error:
        # Nothing else would show the score.
        log.info("%s", evaluation)
        raise UserError(
            f"{run_dir.result} cannot be written ({error.strerror}), so the run is not finished",
            "a run folder that can be written to",
            f"make room, and have the rest done: {_resume(run_dir)}{NO_MORE}",
        ) from error
    run_dir.stop_request.unlink(missing_ok=True)
    if not trained.keeps_last:
        with failures.keep("removing last.ckpt"):
            remove_checkpoints(checkpoints, [run_dir.last_checkpoint.name, run_dir.probe_checkpoint.name])


def _calibration(writer: BundleWriter | None) -> Calibration | None:
    return None if writer is None else writer.info.calibration


def record_result(
    run_dir: RunDir,
    scored: SplitResult,
    end: FitEnd,
    evaluation: Evaluation,
    failures: Mapping[str, str],
    seconds: Mapping[str, float],
) -> None:
    """Write result.json, by which a run is known to have come to its end.

    Its metrics are the network's own, as in metrics.csv; calibrated_loss is that of the probabilities of predict.

    Args:
        run_dir: where to.
        scored: predictions on the held-out images.
        end: which weights were kept, and what ended training.
        evaluation: of the predictions.
        failures: what could not be done after training, and why.
        seconds: that the parts of the command took which finished the run, and in total.
    """
    overall = evaluation.measures.overall
    calibrated = {name: overall[name].value for name in overall if name == "calibrated_loss"}
    write_json(
        run_dir.result,
        {
            "split": scored.split,
            "best_epoch": end.best_epoch,
            "ended": end.ended,
            "verdict": None if evaluation.verdict is None else evaluation.verdict.to_dict(),
            "metrics": {**scored.metrics, **calibrated},
            "failures": dict(failures),
            "seconds": dict(seconds),
        },
    )


@contextmanager
def interrupts_told(run_dir: RunDir, note: str = "") -> Iterator[None]:
    """Say how to resume a run when Ctrl-C or SIGTERM comes in the block.

    Args:
        run_dir: the run, which has a folder.
        note: to stand after the command.

    Raises:
        InterruptedRunError: then.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRunError(signal.SIGINT, _resume(run_dir) + note) from error
    except SystemExit as error:
        # Lightning's answer to Ctrl-C outside fit.
        if error.code == 1 and isinstance(error.__context__, KeyboardInterrupt):
            raise InterruptedRunError(signal.SIGINT, _resume(run_dir) + note) from error
        if error.code != 128 + signal.SIGTERM:
            raise
        raise InterruptedRunError(signal.SIGTERM, _resume(run_dir) + note) from error


def _resume(run_dir: RunDir) -> str:
    return f"{command('train')} {setting('resume', run_dir.path)}"


NO_MORE = "   (it trains no more)"
"""Of a run whose training is over."""


def write_documents(
    run_dir: RunDir,
    result: SplitResult,
    table: SplitTable,
    class_names: Sequence[str],
    evaluation: Evaluation,
    *,
    calibration: Calibration | None,
    failures: Mapping[str, str],
    attempt: Attempt,
    ended: str = "",
) -> None:
    """Write report.html and MODEL_CARD.md into the run folder, over older ones; the plots must be drawn by then.

    Args:
        run_dir: the run, with its evaluation.
        result: predictions on the scored split, with logits as the network gives them.
        table: the samples of the split.
        class_names: [K].
        evaluation: metrics of the predictions.
        calibration: temperature and thresholds of the bundle, if it has them.
        failures: what could not be done so far, and why.
        attempt: a `with` block around each file, given its name.
        ended: what ended training, as far as it is known.
    """
    temperature = None if calibration is None else calibration.temperature
    with attempt(run_dir.report.name):
        write_run_page(
            run_dir.report, run_dir, run_dir.evaluation, result, table, class_names, evaluation,
            temperature=temperature, failures=failures, ended=ended,
        )  # fmt: skip
    with attempt(run_dir.model_card.name):
        write_model_card(run_dir, evaluation)
