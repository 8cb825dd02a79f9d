"""`train`: from data to a run folder.

Each stage takes what the ones before it have made, and returns one object: `begin`, `read_inputs`, `prepare`,
`open_job`, `fit_network` or `fit_shallow`, `finish_run`. Modules that import torch or Lightning are imported when they
are needed, so that help and configuration errors come at once.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.files import size_bytes
from classifier_training.core.register import register
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import TEST, epoch_name
from classifier_training.models.shallow import ShallowModel
from classifier_training.workflows.training.end import finish_run
from classifier_training.workflows.training.fit_network import fit_network
from classifier_training.workflows.training.fit_shallow import fit_shallow
from classifier_training.workflows.training.inputs import read_inputs
from classifier_training.workflows.training.job import open_job
from classifier_training.workflows.training.network import prepare
from classifier_training.workflows.training.settings import TrainSettings
from classifier_training.workflows.training.start import begin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.callbacks.observer import Observer
    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.results import Evaluation
    from classifier_training.workflows.training.end import Ended


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
def train(settings: TrainSettings, observers: Sequence[Observer] = ()) -> TrainResult:
    """Train a classifier on a folder of images; without data.root, on a built-in sample.

    Args:
        settings: what the command line or `compose` gives.
        observers: that see the run besides the callbacks of its settings.

    Raises:
        UserError: when the settings, the data or the machine do not allow it.
        InterruptedRunError: when a signal came; the run can be resumed.
    """
    with ExitStack() as stack:
        begun = begin(settings, observers, stack)
        inputs = read_inputs(begun)
        prepared = prepare(begun, inputs)
        job = open_job(begun, inputs, prepared)
        trained = fit_shallow(job) if isinstance(settings.model, ShallowModel) else fit_network(job)
        ended = finish_run(trained, inputs.loaded.index.samples)
    table = job.run.tables[ended.scored.split]
    return TrainResult(job.run.run_dir, ended, trained.end.best_epoch, trained.end.share, table)


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Args:
        run_dir: where everything is.
        ended: predictions of the best weights on the test split, or on validation where there is no test, with their
            metrics, and what could not be done.
        best_epoch: where the weights are from.
        share: of that epoch's weights in a mean with those before the first one.
        table: the samples of the scored split.
    """

    run_dir: RunDir
    ended: Ended
    best_epoch: int
    share: float
    table: SplitTable

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
        """0, or 1 where something failed after training; the run is finished all the same."""
        return int(bool(self.ended.failures))

    def __str__(self) -> str:
        caution = "" if self.scored.split == TEST else " (there is no test split; these images chose the weights)"
        lines = [
            "",
            str(self.ended.evaluation),
            f"with the weights of {epoch_name(self.best_epoch, self.share)}{caution}",
            *(f"FAILED: {name}: {reason}" for name, reason in self.ended.failures.items()),
            *folder_words(self.run_dir),
        ]
        return "\n".join(lines) + self._next()

    def _next(self) -> str:
        if not self.run_dir.model_info.exists():
            return "\n(its model was not exported: callbacks.onnx_export is switched off)"
        run = setting("run", self.run_dir.path)
        source = setting("source", self.table.paths[0])
        return f"\n\nnext:\n  {command('evaluate')} {run}\n  {command('predict')} {run} {source}"


def folder_words(run_dir: RunDir) -> list[str]:
    """Say where a finished run is, how large it is, and which of its files predict needs."""
    needed = (run_dir.onnx, run_dir.model_info, run_dir.labels_mapping)
    kept = [path for path in (run_dir.last_checkpoint, run_dir.probe_checkpoint) if path.exists()]
    names = " and ".join(path.name for path in kept)
    longer = (
        f"; {sum(map(size_bytes, kept)) / 1e6:,.1f} MB of it are {names}, needed only to train longer" if kept else ""
    )
    lines = [
        f"run folder: {run_dir.path}   ({size_bytes(run_dir.path) / 1e6:,.1f} MB{longer})",
        f"report: {run_dir.report}",
    ]
    if all(path.exists() for path in needed):
        names = ", ".join(path.name for path in needed)
        lines.append(f"to share: {names} ({sum(map(size_bytes, needed)) / 1e6:,.1f} MB) are all that predict needs")
    return lines
