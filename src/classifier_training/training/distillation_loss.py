"""The part of a training step that a teacher adds: it blends the loss of the labels with that of its predictions."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier_training.core.runtime import derive_seed
from classifier_training.training.distillation import soft_label_loss, soft_labels
from classifier_training.training.features import shown_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.training.distillation import Distillation
    from classifier_training.training.teachers import Answers

PROJECTION = 0x68696E74
"""Tells the random start of the projection from all else that follows from a run's seed."""


class TeacherSource(Protocol):
    """Where a teacher's outputs come from: networks that are run, or a file that keeps their outputs."""

    def __call__(self, images: Tensor, indices: Tensor) -> Answers:
        """Return the outputs for a batch as it is trained on: pixels in 0..255 [B, 3, H, W], and rows int64 [B]."""


class FeatureHints(nn.Module):
    """Compares the features of a student with its teacher's.

    The projection learns with the student and stays with it in checkpoints, so that a resumed run is exact; no
    export has it.

    Args:
        head: dotted name of the student's last layer, whose input its features are.
        num_own: of the student's features.
        num_taught: of the teacher's.
        seed: the start of the projection follows from it.
    """

    def __init__(self, head: str, num_own: int, num_taught: int, *, seed: int) -> None:
        super().__init__()
        self.head = head
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, PROJECTION))
            self.projection = nn.Linear(num_own, num_taught)

    def forward(self, own: Tensor, taught: Tensor) -> Tensor:
        """Return the mean squared error of the features [B, D] after the projection to the teacher's [B, E]."""
        projected: Tensor = self.projection(own.flatten(1))
        return functional.mse_loss(projected.float(), taught)


class DistillationLoss(nn.Module):
    """What a teacher adds to the loss; see `Distillation`.

    Unbalanced classes are corrected here by the weights of their images, also where the loss of the labels adjusts
    logits: a teacher's outputs for images that it was trained on are near the labels, and a student that learnt them
    with all images alike would learn how frequent the classes are, whichever logits are compared.

    Args:
        settings: temperature and weights.
        teaching: gives the teacher's outputs.
        is_balanced: whether each of the M teachers predicts as for classes that are equally frequent.
        hints: compares features, where hints are wanted.
    """

    def __init__(
        self,
        settings: Distillation,
        teaching: TeacherSource,
        is_balanced: Sequence[bool],
        hints: FeatureHints | None = None,
    ) -> None:
        super().__init__()
        self._is_balanced: Tensor
        self.register_buffer("_is_balanced", torch.tensor(is_balanced, dtype=torch.float32), persistent=False)
        self._settings = settings
        self._teaching = teaching
        self.hints = hints

    def watch(self, student: nn.Module) -> AbstractContextManager[list[Tensor]]:
        """Gather the input of the student's last layer in the forward pass; nothing where no hints are given."""
        return nullcontext([]) if self.hints is None else shown_to(student.get_submodule(self.hints.head))

    def forward(
        self,
        loss: Tensor,
        logits: Tensor,
        images: Tensor,
        indices: Tensor,
        features: list[Tensor],
        *,
        adjustment: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Blend the losses.

        Args:
            loss: of the labels, a scalar.
            logits: of the student, float32 [B, K].
            images: the batch as the student saw it, in 0..255, [B, 3, H, W].
            indices: rows of the training table, int64 [B].
            features: what its last layer was shown, one tensor, where hints are given.
            adjustment: what the loss of the labels adds to the logits, float32 [K], or None.
            weights: of the images, float32 [B], or None.

        Returns:
            A scalar.
        """
        answers = self._teaching(images, indices)
        settings = self._settings
        if settings.alpha:
            theirs = answers.logits
            if adjustment is not None:
                theirs = theirs - (1 - self._is_balanced[:, None]) * adjustment
            taught = soft_labels(theirs, settings.temperature)
            learnt = soft_label_loss(logits, taught, settings.temperature, weights)
            loss = (1 - settings.alpha) * loss + settings.alpha * learnt
        if self.hints is not None:
            assert answers.features is not None
            loss = loss + settings.hint_weight * self.hints(features[-1], answers.features)
        return loss
