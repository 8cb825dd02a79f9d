"""What a run says about its training, and whether fine-tuning was worth it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.metrics import goal_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TRAIN_LOSS = "train/loss"


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run says about its training; by default nothing is known.

    Args:
        epochs: rows of metrics.csv.
        monitor: metric that selects the weights.
        is_cut: whether trainer.max_time ended it before the end of its schedule.
        ended: what ended it, in words.
        input_side: of the network's images, in pixels; 0 where it is not known.
        image_side: median of the shorter sides of the images, in pixels; 0 where it is not known.
        probe_score: the monitored metric of the linear probe, where the run kept its weights; else None.
        learning_rate: of the optimizer; None where it is not known.
    """

    epochs: Sequence[Mapping[str, str | float]] = ()
    monitor: str = ""
    is_cut: bool = False
    ended: str = ""
    input_side: int = 0
    image_side: int = 0
    probe_score: float | None = None
    learning_rate: float | None = None

    def worsened(self, num_classes: int) -> tuple[str, str]:
        """Say that every epoch of fine-tuning scored worse than the linear probe, whose weights were kept.

        Args:
            num_classes: K; a training loss above log(K), that of a uniform guess, is a sign of too high a learning
                rate, as is one that rose.

        Returns:
            What is the case, and what may help. Either is empty where there is nothing to say.
        """
        scores = [float(row[self.monitor]) for row in self.epochs if row.get(TRAIN_LOSS) and row.get(self.monitor)]
        if self.probe_score is None or not scores:
            return "", ""
        less = goal_of(self.monitor) == "min"
        best = min(scores) if less else max(scores)
        if best <= self.probe_score if less else best >= self.probe_score:
            return "", ""
        words = (
            f"fine-tuning made it worse (best epoch {self.monitor} {best:.4f}, the linear probe {self.probe_score:.4f}"
            "); its weights are not used"
        )
        losses = [float(row[TRAIN_LOSS]) for row in self.epochs if row.get(TRAIN_LOSS)]
        is_high = not losses[-1] <= min(losses[0], math.log(num_classes))
        if not is_high:
            return words, ""
        rate = "…" if self.learning_rate is None else f"{self.learning_rate / 10:g}"
        return words, f"a lower learning rate may help: optimizer.lr={rate}"
