"""The Lightning shell around a network: what a step does, and what an epoch adds up to."""

from __future__ import annotations

import dataclasses
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier_training.core.errors import CheckFailedError, UserError, enumerate_words
from classifier_training.core.runtime import derive_seed
from classifier_training.core.types import TEST, TRAIN, VAL, Batch, SplitResult, StepOutput, epoch_name
from classifier_training.evaluation.metrics import classification_metrics
from classifier_training.training.data_parallel import (
    StopWishes,
    are_several,
    from_first,
    gathered,
    norm_layers,
    own_rank,
    whole_step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.optim import Optimizer

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.training.batch_transforms import TrainingView
    from classifier_training.training.distillation_loss import DistillationLoss
    from classifier_training.training.optim import SchedulePlan


class ClassifierModule(pl.LightningModule):
    """A classifier in training.

    Args:
        network: float32 [B, 3, H, W] normalized -> logits [B, K].
        loss: (logits [B, K], targets [B] or [B, K], class weights [K] or None, prior [K] or None) -> scalar; the prior
            is the share of each class that the logits are adjusted to.
        optimizer: (network, fused) -> optimizer.
        fused: whether one kernel steps all weights; not with both loss scaling and clipping.
        scheduler: (optimizer, plan) -> Lightning's scheduler configuration.
        plan: length of the run and its monitored metric.
        class_names: [K].
        class_weights: of the loss, float32 [K], or None.
        logit_adjustment: added to the logits in the loss of training, float32 [K], or None.
        preprocessing: its mean, std and channel order are applied here, on the device.
        channels_last: whether to hold images and weights with the channels innermost.
        seed: dropout and its like follow from (seed, epoch, step).
        min_batch_size: fewest images that the network can be trained on at once.
        view: what a step sees of its batch, mixed and resized; the batch itself when left out.
        distillation: blends a teacher's outputs into the loss; the labels alone when left out.

    Attributes:
        results: predictions on each split, by its name, once all of it was predicted.
        input_size: height and width of the images.
        scored_split: what the loader given to Lightning's test holds; not test where there is no such split.
        wishes: what this process wants all of them to end training for; see `StopWishes`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor],
        optimizer: Callable[[nn.Module, bool], Optimizer],
        fused: bool,
        scheduler: Callable[[Optimizer, SchedulePlan], dict[str, Any]],
        plan: SchedulePlan,
        class_names: Sequence[str],
        class_weights: Tensor | None,
        logit_adjustment: Tensor | None = None,
        preprocessing: Preprocessing,
        channels_last: bool,
        seed: int,
        min_batch_size: int = 1,
        view: TrainingView | None = None,
        distillation: DistillationLoss | None = None,
    ) -> None:
        super().__init__()
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self._memory_format)
        self.class_names = tuple(class_names)
        self.input_size = preprocessing.size
        self.results: dict[str, SplitResult] = {}
        self.scored_split = TEST
        self.wishes = StopWishes()
        self._norm_layers = norm_layers(network)
        self._loss = loss
        self._build_optimizer = optimizer
        self._fused = fused
        self._build_scheduler = scheduler
        self._plan = plan
        self._seed = seed
        self._class_weights: Tensor | None
        self._logit_adjustment: Tensor | None
        self._prior: Tensor | None
        self._scale: Tensor
        self._shift: Tensor
        self.register_buffer("_class_weights", class_weights, persistent=False)
        self.register_buffer("_logit_adjustment", logit_adjustment, persistent=False)
        prior = None if logit_adjustment is None else logit_adjustment.softmax(dim=0)
        self.register_buffer("_prior", prior, persistent=False)
        self._reverses_channels = preprocessing.channel_order == "bgr"
        std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
        self.register_buffer("_scale", 1 / (255 * std), persistent=False)
        self.register_buffer("_shift", -torch.tensor(preprocessing.mean).view(1, 3, 1, 1) / std, persistent=False)
        self._totals = torch.zeros(3)
        self._first_bad_step = torch.tensor(-1)
        self._num_images = 0
        self._min_batch_size = min_batch_size
        self._view = view
        self.distillation = distillation
        self._outputs: list[StepOutput] = []

    def plan_epochs(self, number: int) -> None:
        """Follow a plan of so many epochs, from which the size of growing images follows."""
        if self._view is not None:
            self._view = dataclasses.replace(self._view, max_epochs=number)

    def forward(self, images: Tensor) -> Tensor:
        """Predict logits, [B, K], of a batch of pixels in 0..255, [B, 3, H, W]."""
        pixels = torch.addcmul(self._shift, images.float(), self._scale)
        if self._reverses_channels:
            pixels = pixels.flip(1)
        logits: Tensor = self.network(pixels.contiguous(memory_format=self._memory_format))
        return logits

    def on_fit_start(self) -> None:
        """Keep Lightning from asking whether a batch was passed over on purpose."""
        warnings.filterwarnings("ignore", message="`training_step` returned `None`")
        # All processes log the same values: those that rank 0 has computed from the predictions of all.
        warnings.filterwarnings("ignore", message="It is recommended to use `self.log")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the epoch's totals, for a run that is resumed in its middle."""
        checkpoint["epoch_totals"] = {
            "totals": self._totals.clone(),
            "first_bad_step": self._first_bad_step.clone(),
            "num_images": self._num_images,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the epoch's totals.

        Raises:
            UserError: when the checkpoint is of another network.
        """
        own, given = self.state_dict(), checkpoint["state_dict"]
        strange = sorted(own.keys() ^ given.keys()) or [name for name in own if own[name].shape != given[name].shape]
        if strange:
            raise UserError(
                f"the checkpoint to resume from is of another network ({enumerate_words(strange, limit=3)})",
                "the checkpoint that the run wrote",
                "restore it from a copy of the run folder, or train again",
            )
        if "epoch_totals" in checkpoint:
            found = checkpoint["epoch_totals"]
            self._totals, self._first_bad_step = found["totals"].clone(), found["first_bad_step"].clone()
            self._num_images = found["num_images"]

    def on_train_start(self) -> None:
        """Bring the totals to the device."""
        self._totals, self._first_bad_step = self._totals.to(self.device), self._first_bad_step.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's totals: loss sum, correct predictions, images."""
        self._totals = torch.zeros(3, device=self.device)
        self._first_bad_step = torch.tensor(-1, device=self.device)
        self._num_images = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the loss of a batch; its randomness depends on seed, epoch and step alone.

        A batch of which unreadable images left too little is passed over.

        Raises:
            UserError: when they left too little to one of several processes, for which the others would wait.
        """
        number = len(batch.targets)
        if number < self._min_batch_size:
            if are_several():
                raise _too_few(number, self._min_batch_size)
            return None
        self._num_images += number
        torch.manual_seed(
            derive_seed(self._seed, self.current_epoch, batch_idx, *([rank] if (rank := own_rank()) else []))
        )
        images, targets = batch.images, batch.targets
        if self._view is not None:
            images, targets = self._view(images, targets, epoch=self.current_epoch, step=batch_idx)
        watched: AbstractContextManager[list[Tensor]] = (
            nullcontext([]) if self.distillation is None else self.distillation.watch(self.network)
        )
        with watched as features:
            logits = self(images).float()
        adjusted = logits if self._logit_adjustment is None else logits + self._logit_adjustment
        loss = self._loss(adjusted, targets, self._class_weights, self._prior)
        if self.distillation is not None:
            loss = self.distillation(
                loss,
                logits,
                images,
                batch.indices,
                features,
                adjustment=self._logit_adjustment,
                weights=_weights_of(targets, self._class_weights, self._logit_adjustment),
            )
        with torch.no_grad():
            # All on the device: reading a value here would make a GPU wait at every step.
            seen = torch.full_like(loss, number)
            weights = _weights_of(targets, self._class_weights, None) if are_several() else None
            correct = _share_correct(logits, targets).sum().to(loss)
        weight = seen if weights is None else weights.sum()
        step = whole_step(loss, weight, correct, seen, wishes=self.wishes, layers=self._norm_layers)
        self._totals += torch.stack([step.mean_loss * step.seen, step.correct, step.seen])
        bad = (self._first_bad_step < 0) & ~torch.isfinite(step.mean_loss)
        self._first_bad_step = torch.where(bad, batch_idx, self._first_bad_step)
        return step.loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training figures."""
        self.log_dict(self.training_metrics())

    def on_validation_start(self) -> None:
        """Stop a run whose loss is no longer a number, before its weights are scored or kept.

        Raises:
            CheckFailedError: then, naming the step.
            UserError: when there was nothing to train on.
        """
        if self._num_images == 0:
            raise _unreadable(TRAIN)
        self.check_loss()

    def check_loss(self) -> None:
        """Stop a run whose loss is no longer a number; on a GPU this waits for all queued work.

        Raises:
            CheckFailedError: then, naming the step.
        """
        step = int(self._first_bad_step)
        if step >= 0:
            raise _not_finite("the loss", f"{epoch_name(self.current_epoch)}, step {step}")

    def training_metrics(self) -> dict[str, float]:
        """Loss and accuracy over the epoch's training batches, as they were seen: augmented, with changing weights."""
        loss_sum, correct, number = self._totals.tolist()
        return {"train/loss": loss_sum / max(number, 1), "train/acc_top1": correct / max(number, 1)}

    def validation_step(self, batch: Batch, batch_idx: int) -> StepOutput | None:  # type: ignore[override]
        """Predict a validation batch."""
        return self._predict(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> StepOutput | None:  # type: ignore[override]
        """Predict a test batch in full precision, as the exported file will."""
        with torch.autocast(self.device.type, enabled=False):
            return self._predict(batch)

    def on_validation_epoch_end(self) -> None:
        """Score and log the validation split."""
        self._finish_split(VAL)

    def on_test_epoch_end(self) -> None:
        """Score and log the held-out split."""
        self._finish_split(self.scored_split)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule."""
        optimizer = self._build_optimizer(self.network, self._fused)
        projection = [] if self.distillation is None else list(self.distillation.parameters())
        if projection:
            optimizer.add_param_group({"params": projection})
        return {"optimizer": optimizer, "lr_scheduler": self._build_scheduler(optimizer, self._plan)}

    def configure_gradient_clipping(
        self,
        optimizer: object,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients. Lightning's own refuses fused optimizers, even where no loss is scaled."""
        if gradient_clip_val is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    def _predict(self, batch: Batch) -> StepOutput | None:
        if not len(batch.targets):
            return None
        logits = self(batch.images).float()
        losses = functional.cross_entropy(logits, batch.targets, reduction="none")
        output = StepOutput(logits.cpu(), batch.targets.cpu(), batch.indices.cpu(), losses.cpu())
        self._outputs.append(output)
        return output

    def _watched(self) -> list[str]:
        """Metrics that choose weights, stop the run or lower the learning rate, without the split's name."""
        monitors = {getattr(callback, "monitor", None) for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        return sorted({name.partition("/")[2] for name in (*monitors, self._plan.monitor) if name})

    def _finish_split(self, split: str) -> None:
        outputs = gathered(self._outputs)
        self._outputs.clear()
        metrics = from_first(self._score(split, outputs) if own_rank() == 0 else {})
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()})

    def _score(self, split: str, outputs: list[StepOutput]) -> dict[str, float]:
        if not outputs:
            raise _unreadable(split)
        logits, targets, indices, losses = (torch.cat(parts).numpy() for parts in zip(*outputs, strict=True))
        if are_several():
            order = indices.argsort(kind="stable")
            logits, targets, indices, losses = (values[order] for values in (logits, targets, indices, losses))
        if not np.isfinite(losses).all():
            raise _not_finite(f"the {split} loss", epoch_name(self.current_epoch))
        metrics = classification_metrics(logits, targets, losses, self.class_names, also=self._watched())
        self.results[split] = SplitResult(split, logits, targets, indices, losses, metrics)
        return metrics


def _share_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """The part of each image [B] that shows the predicted class: 0 or 1, or a share where images were mixed."""
    predicted = logits.argmax(dim=1)
    return (predicted == targets) if targets.ndim == 1 else targets.gather(1, predicted[:, None]).squeeze(1)


def _weights_of(targets: Tensor, class_weights: Tensor | None, logit_adjustment: Tensor | None) -> Tensor | None:
    """The weight of each image [B] that corrects unbalanced classes alike, where anything does."""
    if logit_adjustment is not None:
        class_weights = torch.exp(-logit_adjustment)
    if class_weights is None:
        return None
    return class_weights[targets] if targets.ndim == 1 else targets @ class_weights


def _not_finite(what: str, where: str) -> CheckFailedError:
    return CheckFailedError(
        f"{what} is not a finite number at {where}",
        "a finite loss",
        "lower optimizer.lr, set trainer.gradient_clip_val=1, or train with trainer.precision=32",
    )


def _too_few(number: int, least: int) -> UserError:
    return UserError(
        f"of the images of a batch, process {own_rank()} could read {number}",
        f"at least {least} for each process",
        "fix the files that its log names, or raise data.batch_size",
    )


def _unreadable(split: str) -> UserError:
    return UserError(
        f"{split}: none of its images can be read",
        "readable images",
        "look at the files named above",
    )
