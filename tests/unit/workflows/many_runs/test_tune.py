from __future__ import annotations

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.workflows.many_runs.tune import _typed_components


def test_the_components_that_were_typed_belong_to_what_was_found() -> None:
    words = ["data.root=/images", "model=cnn_v1", "optimizer=sgd", "loss=focal", "optimizer.lr=0.1", "logging=wandb"]
    assert _typed_components(words) == {"optimizer": "sgd", "loss": "focal"}
