"""`train`: from data to a run folder.

Each stage takes what the ones before it have made, and returns one object: `begin`, `read_inputs`, `prepare`,
`open_job`, `fit_network` or `fit_shallow`, `finish_run`. Modules that import torch or Lightning are imported when they
are needed, so that help and configuration errors come at once.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.processes import process_rank
from classifier_training.core.register import register
from classifier_training.core.types import PROBE_EPOCH, TEST, TRAIN, epoch_name
from classifier_training.evaluation.results import class_table
from classifier_training.evaluation.training_facts import Training
from classifier_training.models.shallow import ShallowModel
from classifier_training.workflows.many_runs.launch.base import refuse_elsewhere
from classifier_training.workflows.training.end import finish_run, interrupts_told
from classifier_training.workflows.training.fit_network import fit_network
from classifier_training.workflows.training.fit_shallow import fit_shallow
from classifier_training.workflows.training.inputs import read_inputs
from classifier_training.workflows.training.job import open_job
from classifier_training.workflows.training.network import prepare
from classifier_training.workflows.training.promote import promote_finished
from classifier_training.workflows.training.screen import (
    effect_words,
    folder_words,
    majority_words,
    mistake_words,
    next_words,
)
from classifier_training.workflows.training.settings import TrainSettings
from classifier_training.workflows.training.start import begin
from classifier_training.workflows.training.torchrun import Launched, launch, num_to_launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.callbacks.observer import FitEnd, Observer, RunContext
    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.results import Evaluation
    from classifier_training.workflows.many_runs.fold_scores import CrossValidation
    from classifier_training.workflows.training.end import Ended
    from classifier_training.workflows.training.promote import Promoted


@register(
    group="verb",
    name="train",
    settings=TrainSettings,
    examples=(
        "train /my/images",
        "train /my/images --epochs 10 model=resnet50 --batch 64",
        "train /my/images time=30m",
        "train resume=latest",
    ),
)
def train(settings: TrainSettings) -> TrainResult | CrossValidation | Launched:
    """Train a classifier on a folder of images; without data.root, on a built-in sample.

    With data.num_folds and no data.fold, all folds are trained. Several devices of this machine are given a process
    each, by torchrun.

    Args:
        settings: what the command line or `compose` gives.

    Raises:
        UserError: when the settings, the data or the machine do not allow it.
        InterruptedRunError: when a signal came; the run can be resumed.
    """
    if settings.data.trains_all_folds:
        if not process_rank().is_alone:
            raise UserError(
                f"data.num_folds={settings.data.num_folds}: torchrun started {process_rank().num_ranks} processes",
                "one fold, which several processes can share",
                "data.fold=0, or leave out torchrun: trainer=ddp starts it for each fold",
            )
        if settings.promote or settings.replay is not None:
            raise UserError(
                f"data.num_folds={settings.data.num_folds} with promote or replay: each fold would be a run of its own",
                "one run that is trained again and promoted",
                "leave out data.num_folds, or promote=true and replay",
            )
        from classifier_training.workflows.many_runs.cross_validate import cross_validate

        return cross_validate(settings)
    number = num_to_launch(settings)
    return launch(settings, number) if number else train_here(settings)


def train_here(settings: TrainSettings, observers: Sequence[Observer] = ()) -> TrainResult:
    """Train one run in this process: the whole of it, or the part that torchrun has given to this process.

    Args:
        settings: what the command line or `compose` gives.
        observers: that see the run besides the callbacks of its settings.

    Raises:
        UserError: when the settings, the data or the machine do not allow it.
        InterruptedRunError: when a signal came; the run can be resumed.
    """
    if settings.data.trains_all_folds:
        raise UserError(
            f"data.num_folds={settings.data.num_folds} without data.fold: one run is to be trained here",
            "one fold, or train alone, which trains all of them",
            "data.fold=0",
        )
    refuse_elsewhere(settings.launcher)
    with ExitStack() as stack:
        begun = begin(settings, observers, stack)
        inputs = read_inputs(begun)
        prepared = prepare(begun, inputs)
        job = open_job(begun, inputs, prepared)
        with interrupts_told(job.run.run_dir):
            trained = fit_shallow(job) if isinstance(settings.model, ShallowModel) else fit_network(job)
            ended = finish_run(trained, inputs.loaded.index)
        worsened, promoted = _worsened(trained.run, trained.end), None
        if settings.promote:
            # A run that is resumed may have been begun elsewhere, or moved.
            output = str(job.run.run_dir.root(job.run.config)) if settings.resume else settings.output
            promoted = promote_finished(job.run.run_dir, ended.again, output=output)
    return TrainResult(job.run, ended, trained.end.best_epoch, trained.end.share, worsened, promoted)


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Args:
        run: what is known of it.
        ended: predictions of the best weights on the test split, or on validation where there is no test, with their
            metrics, and what could not be done.
        best_epoch: where the weights are from.
        share: of that epoch's weights in a mean with those before the first one.
        worsened: that fine-tuning made the network worse, and what may help; empty where it did not.
        promoted: what came of promote=true.
    """

    run: RunContext
    ended: Ended
    best_epoch: int
    share: float
    worsened: str = ""
    promoted: Promoted | None = None

    @property
    def run_dir(self) -> RunDir:
        """Where everything is."""
        return self.run.run_dir

    @property
    def table(self) -> SplitTable:
        """The samples of the scored split."""
        return self.run.tables[self.ended.scored.split]

    @property
    def scored(self) -> SplitResult:
        """Predictions on the scored split."""
        return self.ended.scored

    @property
    def evaluation(self) -> Evaluation:
        """Metrics of these predictions."""
        return self.ended.evaluation

    @property
    def exit_code(self) -> int:
        """0, or 1 where something failed after training or it was not promoted; the run is finished all the same."""
        return int(bool(self.ended.failures) or (self.promoted is not None and self.promoted.refused))

    def __str__(self) -> str:
        caution = "" if self.scored.split == TEST else " (there is no test split; these images chose the weights)"
        names, measures = self.run.class_names, self.evaluation.measures
        train_counts = self.run.tables[TRAIN].class_counts(len(names))
        lines = [
            "",
            self.evaluation.words(self.run.monitor.partition("/")[2], self.scored.metrics),
            majority_words(names, train_counts, measures),
            f"with the weights of {epoch_name(self.best_epoch, self.share)}{caution}",
            *([self.worsened] if self.worsened else []),
            *effect_words(self.ended.effect, self.run.config.get("init_from")),
            *(self.ended.again.words if self.ended.again else []),
            "",
            *class_table(measures, names),
            "",
            *mistake_words(self.run_dir, self.scored),
            "",
            *(f"FAILED: {name}: {reason}" for name, reason in self.ended.failures.items()),
            *(self.promoted.words if self.promoted else []),
            *folder_words(self.run_dir),
            *next_words(self.run_dir, self.table.paths[0]),
        ]
        return "\n".join(lines)


def _worsened(run: RunContext, end: FitEnd) -> str:
    rate = (run.config.get("optimizer") or {}).get("lr")
    facts = Training(
        epochs=end.rows,
        monitor=run.monitor,
        probe_score=end.best_score if end.best_epoch == PROBE_EPOCH else None,
        learning_rate=rate if isinstance(rate, float) else None,
    )
    return "; ".join(filter(None, facts.worsened(len(run.class_names))))
