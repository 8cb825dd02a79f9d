"""What a finished run leaves for people: its report and its model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier_training.workflows.evaluating.model_card import write_model_card
from classifier_training.workflows.evaluating.run_page import write_run_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.results import Evaluation
    from classifier_training.export.calibration import Calibration
    from classifier_training.workflows.evaluating.scores import Attempt


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
) -> None:
    """Write report.html and MODEL_CARD.md into the run folder, over older ones; the figures must have been painted.

    Args:
        run_dir: the run, with its evaluation.
        result: answers of the scored split, with logits as the network gives them.
        table: the samples of the split.
        class_names: [K].
        evaluation: figures of the answers.
        calibration: what the bundle knows of its own doubts, if it does.
        failures: what could not be done so far, and why.
        attempt: a `with` block around each file, given its name.
    """
    temperature = None if calibration is None else calibration.temperature
    with attempt(run_dir.report.name):
        write_run_page(
            run_dir.report, run_dir, run_dir.evaluation, result, table, class_names, evaluation,
            temperature=temperature, failures=failures,
        )  # fmt: skip
    with attempt(run_dir.model_card.name):
        write_model_card(run_dir, evaluation)
