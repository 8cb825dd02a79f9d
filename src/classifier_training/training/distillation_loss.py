"""The part of the loss that teachers add, and the teachers: networks that are run, or a file of their outputs."""

from __future__ import annotations

import functools
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.runtime import derive_seed
from classifier_training.models.stages import head_names
from classifier_training.training.linear_head import shown_to
from classifier_training.training.losses import soft_label_loss, soft_labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.core.types import Batch
    from classifier_training.training.losses import Distillation

log = logging.getLogger(__name__)

MAX_DEVICE_BYTES = 2**29
"""Kept outputs up to this size are held in a GPU's memory: reading them from the file would make it wait."""

MAX_FILES = 8
"""Files of outputs that are left in the cache, the newest."""


class TeacherOutputs(NamedTuple):
    """What M teachers say to a batch.

    Args:
        logits: float32 [B, M, K].
        features: what their last layers were shown, side by side, float32 [B, E]; None where nobody wants them.
    """

    logits: Tensor
    features: Tensor | None


class Teacher:
    """A trained network, never changed: copies of a student share it, and no checkpoint has it.

    Args:
        network: normalized float32 [B, 3, H, W] -> logits [B, K], in evaluation mode.
        preprocessing: its size, mean, std and channel order.
        class_order: places of the student's classes among the teacher's, int64 [K].
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, class_order: Sequence[int]) -> None:
        self._network = network.requires_grad_(requires_grad=False)
        self._preprocessing = preprocessing
        self._class_order = list(class_order)
        self._device = torch.device("cpu")

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, *, gives_features: bool) -> TeacherOutputs:
        """Predict a batch of pixels in 0..255, [B, 3, H, W], brought to the size that the teacher knows."""
        if images.device != self._device:
            self._network.to(images.device)
            self._device = images.device
        known = self._preprocessing
        pixels = images.float()
        if pixels.shape[-2:] != known.size:
            pixels = functional.interpolate(pixels, known.size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (known.mean, known.std))
        pixels = (pixels / 255 - mean) / std
        if known.channel_order == "bgr":
            pixels = pixels.flip(1)
        if not gives_features:
            return TeacherOutputs(self._ordered(self._network(pixels)), None)
        with shown_to(self._head) as shown:
            logits = self._network(pixels)
        return TeacherOutputs(self._ordered(logits), shown[-1].flatten(1).float())

    @functools.cached_property
    def _head(self) -> nn.Module:
        return self._network.get_submodule(head_names(self._network)[0])

    def _ordered(self, logits: Tensor) -> Tensor:
        return logits[:, self._class_order].float()[:, None]


class Teachers:
    """Several teachers, asked at every step.

    Args:
        teachers: one or more.
        gives_features: whether hints are wanted.
    """

    def __init__(self, teachers: Sequence[Teacher], *, gives_features: bool) -> None:
        self._teachers = tuple(teachers)
        self._gives_features = gives_features

    def __call__(self, images: Tensor, indices: Tensor) -> TeacherOutputs:  # noqa: ARG002 - kept outputs are found by them
        """Predict a batch; see `TeacherSource`."""
        found = [teacher(images, gives_features=self._gives_features) for teacher in self._teachers]
        features = [outputs.features for outputs in found if outputs.features is not None]
        return TeacherOutputs(
            torch.cat([outputs.logits for outputs in found], dim=1), torch.cat(features, dim=1) if features else None
        )


class StoredOutputs:
    """What teachers said to each training image once, in a file that is mapped into memory.

    Args:
        values: float32 [N, M * K + E]: logits, then features.
        num_teachers: M.
        num_classes: K.
    """

    def __init__(self, values: NDArray[np.float32], *, num_teachers: int, num_classes: int) -> None:
        self._values = values
        self._num_teachers = num_teachers
        self._num_classes = num_classes
        self._held: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredOutputs:
        return self

    def __call__(self, images: Tensor, indices: Tensor) -> TeacherOutputs:  # noqa: ARG002 - networks go by them
        """Look a batch up; see `TeacherSource`."""
        # A trial's batch of noise may be larger than the data; its rows are no images', and any will do.
        rows = self._look_up(indices.remainder(len(self._values)))
        width = self._num_teachers * self._num_classes
        features = rows[:, width:] if rows.shape[1] > width else None
        return TeacherOutputs(rows[:, :width].reshape(-1, self._num_teachers, self._num_classes), features)

    def _look_up(self, rows: Tensor) -> Tensor:
        if rows.device.type == "cpu" or self._values.nbytes > MAX_DEVICE_BYTES:
            return torch.from_numpy(self._values[rows.cpu().numpy()]).to(rows.device)
        if self._held is None or self._held.device != rows.device:
            self._held = torch.from_numpy(np.array(self._values)).to(rows.device)
        return self._held[rows]


def store_outputs(
    path: Path,
    teachers: Teachers,
    batches: Iterable[Batch],
    *,
    num_images: int,
    num_teachers: int,
    num_classes: int,
    device: str,
) -> StoredOutputs:
    """Run the teachers on all training images, unless a file has their outputs, and map these into memory.

    Args:
        path: of the file, which tells these teachers and images from all others.
        teachers: whom to ask.
        batches: the training images without augmentation.
        num_images: rows of the training table.
        num_teachers: M.
        num_classes: K.
        device: where to compute.

    Raises:
        UserError: when no image can be read.
    """
    started = time.perf_counter()
    is_new = not path.exists()
    if is_new:
        values: NDArray[np.float32] | None = None
        for batch in batches:
            if not len(batch.targets):
                continue
            outputs = teachers(batch.images.to(device), batch.indices)
            parts = [outputs.logits.flatten(1), *([] if outputs.features is None else [outputs.features])]
            rows = torch.cat(parts, dim=1).cpu().numpy()
            if values is None:
                # Images that cannot be read are skipped in training too.
                values = np.zeros((num_images, rows.shape[1]), dtype=np.float32)
            values[batch.indices.numpy()] = rows
        if values is None:
            raise UserError("none of the images can be read", "readable images", "look at the files named above")
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, values, allow_pickle=False)
        except OSError as error:
            log.warning("%s: the teacher's outputs stay in memory alone (%s)", path, error.strerror)
            return StoredOutputs(values, num_teachers=num_teachers, num_classes=num_classes)
        _leave_newest(path)
    else:
        path.touch()
    kept = np.load(path, mmap_mode="r", allow_pickle=False)
    log.info(
        "teacher: %s outputs %s in %.1f s",
        f"{num_images:,}", "asked for once" if is_new else f"taken from {path}", time.perf_counter() - started,
    )  # fmt: skip
    return StoredOutputs(kept, num_teachers=num_teachers, num_classes=num_classes)


def _leave_newest(path: Path) -> None:
    """Delete the outputs that were not used for longest; a process that reads them now can read on."""
    files = sorted(path.parent.glob(f"*{path.suffix}"), key=lambda file: file.stat().st_mtime)
    for file in files[:-MAX_FILES]:
        file.unlink(missing_ok=True)


PROJECTION = 0x68696E74
"""Tells the random start of the projection from all else that follows from a run's seed."""


class TeacherSource(Protocol):
    """Where a teacher's outputs come from: networks that are run, or a file that keeps their outputs."""

    def __call__(self, images: Tensor, indices: Tensor) -> TeacherOutputs:
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
        outputs = self._teaching(images, indices)
        settings = self._settings
        if settings.alpha:
            theirs = outputs.logits
            if adjustment is not None:
                theirs = theirs - (1 - self._is_balanced[:, None]) * adjustment
            taught = soft_labels(theirs, settings.temperature)
            learnt = soft_label_loss(logits, taught, settings.temperature, weights)
            loss = (1 - settings.alpha) * loss + settings.alpha * learnt
        if self.hints is not None:
            assert outputs.features is not None
            loss = loss + settings.hint_weight * self.hints(features[-1], outputs.features)
        return loss
