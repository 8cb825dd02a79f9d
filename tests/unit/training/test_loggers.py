from __future__ import annotations

from pathlib import Path

from classifier_training.core.run_dir import RunDir
from classifier_training.training.loggers import wandb_id


def test_a_run_that_is_resumed_has_the_id_of_its_last_run_at_wandb(tmp_path: Path) -> None:
    assert wandb_id(RunDir(tmp_path)) is None
    for name in ("run-20260101_000000-aaaa1111", "run-20260102_000000-bbbb2222", "offline-run-20260103_000000-cccc"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert wandb_id(RunDir(tmp_path)) == "bbbb2222"
