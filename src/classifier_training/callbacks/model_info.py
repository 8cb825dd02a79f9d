"""How large the network is and where its arithmetic goes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.callbacks.observer import Observer
from classifier_training.core.register import register
from classifier_training.core.run_dir import write_text
from classifier_training.models.summary import summarize

if TYPE_CHECKING:
    from classifier_training.callbacks.observer import RunContext

log = logging.getLogger(__name__)


@register(group="callbacks", name="model_info", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class ModelInfo(Observer):
    """Writes model_summary.txt: parameters, FLOPs and output shape of every layer."""

    def fit_started(self, run: RunContext) -> None:
        """Count on shapes alone; the network itself is not run."""
        summary = summarize(
            run.model.network,
            architecture=run.model.architecture,
            image_size=run.preprocessing.size[0],
            num_trainable=run.num_trainable,
        )
        write_text(run.run_dir.model_summary, summary.to_text())
        log.info(summary.to_text().partition("\n")[0])
