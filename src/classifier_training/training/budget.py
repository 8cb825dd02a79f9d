"""How long training may take: epochs that fit into a time, planned by measured speed and corrected after each epoch.

The plan is kept in decisions.json, and a resumed run follows it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from classifier_training.training.decisions import Part, write_decisions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from classifier_training.core.types import Batch
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.decisions import Decisions
    from classifier_training.training.settings import TrainerSettings
    from classifier_training.training.trial import Trial

log = logging.getLogger(__name__)

TIMED_STEPS = 2
"""Steps that are timed, after one that warms up."""

TIMED_IMAGES = {"cpu": 16}
"""Images in such a step; beside a GPU a whole batch, which alone fills it."""

LATE, EARLY = 1.05, 0.8
"""What is left to train over the time that is left: beyond these the plan is made anew."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pacing:
    """What an epoch takes.

    Args:
        batch_seconds: of a training batch.
        validation_seconds: of a validation, and of writing what an epoch leaves.
    """

    batch_seconds: float
    validation_seconds: float

    def epoch_seconds(self, num_batches: int) -> float:
        """Seconds of an epoch of so many training batches."""
        return num_batches * self.batch_seconds + self.validation_seconds


def plan_epochs(
    seconds: float,
    pacing: Pacing,
    *,
    num_batches: int,
    per_step: int,
    max_epochs: int,
    from_epoch: int = 0,
    batch_size: int = 0,
) -> Part | None:
    """Plan the epochs that fit into a time.

    Where the time is short of all epochs, as few as possible share it evenly, each over a part of the images, so that
    all of the time is used and the schedule comes to its end. A run has two at the least unless that is less than half
    of the images: after the first the plan can be corrected.

    Args:
        seconds: that training may take from now on.
        pacing: what an epoch takes.
        num_batches: of an epoch over all images.
        per_step: batches of a step.
        max_epochs: epochs of the whole run at the most.
        from_epoch: the first that is planned.
        batch_size: images in a batch, to be written down.

    Returns:
        The plan; None when not even a single step fits.
    """
    left = max_epochs - from_epoch
    fits = seconds / pacing.epoch_seconds(num_batches)
    if fits >= left:
        return Part(from_epoch=from_epoch, max_epochs=max_epochs, num_batches=num_batches, batch_size=batch_size)
    number = min(left, max(math.ceil(fits), 2 if from_epoch == 0 and fits >= 0.5 else 1))
    for count in range(number, 0, -1):
        batches = int((seconds / count - pacing.validation_seconds) / pacing.batch_seconds)
        batches = min(num_batches, batches - batches % per_step)
        if batches >= per_step:
            return Part(
                from_epoch=from_epoch, max_epochs=from_epoch + count, num_batches=batches, batch_size=batch_size
            )
    return None


def with_batch_size(part: Part, batch_size: int, *, per_step: int) -> Part:
    """Return a part of a plan over as many images in batches of another size.

    Args:
        part: of the plan.
        batch_size: images in a batch from now on.
        per_step: batches of a step from now on.
    """
    if part.batch_size in (0, batch_size):
        return part
    number = math.ceil(part.num_batches * part.batch_size / batch_size)
    return dataclasses.replace(part, num_batches=math.ceil(number / per_step) * per_step, batch_size=batch_size)


def part_of(parts: Sequence[Part], epoch: int) -> Part:
    """Return the part of a plan that an epoch belongs to."""
    return next(part for part in reversed(parts) if part.from_epoch <= epoch)


@dataclasses.dataclass(frozen=True)
class Course:
    """Where a step is on a schedule whose length was corrected under way.

    A correction changes how fast the rest of the schedule is gone through: it continues from where it is, to its end.

    Args:
        parts: the plan; it grows when it is corrected.
        per_step: batches of a step.
    """

    parts: list[Part]
    per_step: int

    @property
    def total_steps(self) -> int:
        """Steps of the plan as it was first made."""
        return self.parts[0].max_epochs * self._steps(self.parts[0])

    def __call__(self, step: int) -> float:
        """Place a step, counted from 0, on a schedule of `total_steps`."""
        begun, share = 0, 0.0
        for part, following in zip(self.parts, [*self.parts[1:], None], strict=True):
            steps = self._steps(part)
            whole = (part.max_epochs - part.from_epoch) * steps
            done = whole if following is None else (following.from_epoch - part.from_epoch) * steps
            if following is None or step < begun + done:
                if not begun:
                    return step
                return (share + (1 - share) * (step - begun) / max(whole, 1)) * self.total_steps
            share += (1 - share) * done / max(whole, 1)
            begun += done
        raise AssertionError

    def steps_before(self, epoch: int) -> int:
        """Steps of the epochs before this one."""
        ends = [part.from_epoch for part in self.parts[1:]] + [epoch]
        return sum(
            max(min(end, epoch) - part.from_epoch, 0) * self._steps(part)
            for part, end in zip(self.parts, ends, strict=True)
        )

    def _steps(self, part: Part) -> int:
        return math.ceil(part.num_batches / self.per_step)


def time_images(trial: Trial, batch: Batch, accelerator: str) -> float:
    """Return the seconds of an image in a step of training: the mean of a few steps, after one that warms up.

    Args:
        trial: makes the steps.
        batch: of the data.
        accelerator: cpu, cuda or mps.
    """
    number = min(len(batch.targets), TIMED_IMAGES.get(accelerator, len(batch.targets)))
    part = batch._replace(images=batch.images[:number], targets=batch.targets[:number], indices=batch.indices[:number])
    trial.step([part])
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        trial.step([part])
    return (time.perf_counter() - started) / TIMED_STEPS / number


def part_words(part: Part, *, num_batches: int, pacing: Pacing) -> str:
    """Say what a plan is."""
    number = part.max_epochs - part.from_epoch
    words = f"{number} epoch{'' if number == 1 else 's'}"
    if part.num_batches < num_batches:
        words += f", each over {part.num_batches / num_batches:.0%} of the images"
    return f"{words}, about {number * pacing.epoch_seconds(part.num_batches):,.0f} s"


class Budget(pl.Callback):
    """Compares the time that epochs take with the plan, and corrects the plan for those to come.

    Args:
        path: of decisions.json.
        decisions: of the run; the plan is kept with them.
        datamodule: its epochs are made as long as planned.
        settings: with the most epochs.
        deadline: when training is to be over, by time.monotonic(); None for a resumed run, which follows its plan.

    Attributes:
        course: where its steps are on the schedule.
    """

    def __init__(
        self,
        path: Path,
        decisions: Decisions,
        datamodule: ImageFolderDataModule,
        settings: TrainerSettings,
        deadline: float | None,
    ) -> None:
        most = len(datamodule.train_batch_sizes)
        per_step = settings.accumulate_grad_batches
        parts = [with_batch_size(part, datamodule.batch_size, per_step=per_step) for part in decisions.parts]
        # Rounded up, all images may be a batch more than there are.
        parts = [dataclasses.replace(part, num_batches=min(part.num_batches, most)) for part in parts]
        self.course = Course(parts, per_step)
        self._path = path
        self._decisions = decisions
        self._datamodule = datamodule
        self._settings = settings
        self._deadline = deadline
        self._num_batches = most
        self._started = self._trained = 0.0

    def begin(self, epoch: int) -> TrainerSettings:
        """Make epochs as long as they are planned from this one on; returns the settings with their number.

        At epoch 0 that is the number of the first plan, which the schedule is made from; later it is the newest plan's.
        """
        part = part_of(self.course.parts, epoch)
        self._limit(part)
        last = self.course.parts[0 if epoch == 0 else -1]
        return dataclasses.replace(self._settings, max_epochs=last.max_epochs)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Follow the plan in an epoch that is resumed in its middle."""
        self._plan_epochs(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock; the loader of a corrected plan is made by now."""
        self._plan_epochs(trainer, pl_module)
        trainer.reload_dataloaders_every_n_epochs = 0  # type: ignore[attr-defined] # its constructor sets it elsewhere
        self._started = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take the time that training took."""
        self._trained = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Follow the plan into the next epoch, or correct it."""
        following = trainer.current_epoch + 1
        now = self.course.parts[-1]
        if any(part.from_epoch == following for part in self.course.parts):
            self._follow(trainer, part_of(self.course.parts, following))
        elif self._deadline is not None and trainer.world_size == 1 and following < now.max_epochs:
            self._correct(trainer, following, now)

    def _correct(self, trainer: pl.Trainer, following: int, now: Part) -> None:
        assert self._deadline is not None
        ended = time.monotonic()
        pacing = Pacing(
            batch_seconds=(self._trained - self._started) / now.num_batches,
            validation_seconds=ended - self._trained,
        )
        left = self._deadline - ended
        needed = (now.max_epochs - following) * pacing.epoch_seconds(now.num_batches)
        is_whole = now.num_batches == self._num_batches and now.max_epochs == self._settings.max_epochs
        if needed <= LATE * left and (is_whole or needed >= EARLY * left):
            return
        part = plan_epochs(
            left,
            pacing,
            num_batches=self._num_batches,
            per_step=self.course.per_step,
            max_epochs=self._settings.max_epochs,
            from_epoch=following,
            batch_size=now.batch_size,
        )
        if part is None:
            log.info("plan: the time is over after %d of %d epochs", following, now.max_epochs)
            part = dataclasses.replace(now, from_epoch=following, max_epochs=following)
        elif part == dataclasses.replace(now, from_epoch=following):
            return
        else:
            words = part_words(part, num_batches=self._num_batches, pacing=pacing)
            log.info("plan: corrected by the time that the epoch took: %s to come", words)
        self.course.parts.append(part)
        write_decisions(self._path, dataclasses.replace(self._decisions, parts=tuple(self.course.parts)))
        self._follow(trainer, part)

    def _plan_epochs(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.plan_epochs(part_of(self.course.parts, trainer.current_epoch).max_epochs)

    def _follow(self, trainer: pl.Trainer, part: Part) -> None:
        trainer.fit_loop.max_epochs = part.max_epochs
        before = len(self._datamodule.train_batch_sizes)
        self._limit(part)
        if part.num_batches != before:
            # Lightning asks for the loader again, and counts its batches.
            trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]

    def _limit(self, part: Part) -> None:
        self._datamodule.num_batches = part.num_batches if part.num_batches < self._num_batches else None
