from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SMALL

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.core.errors import UserError
from classifier_training.core.images import UnreadableImageError
from classifier_training.core.register import entry

EVALUATE = entry("verb", "evaluate")


def evaluate(*words: str) -> object:
    return EVALUATE.target(**compose(EVALUATE, words))


@pytest.mark.parametrize(
    ("words", "came"),
    [
        (["data.image_size=64"], "data.image_size=64 has no effect"),
        (["data.batch_size=3"], "data.batch_size=3 has no effect"),
        (["data.num_workers=2"], "data.num_workers=2 has no effect"),
        (["data.val_fraction=0.3", "data.root=/x"], "data.val_fraction=0.3 has no effect"),
        (["data=jsonl"], "names no data"),
        (["experiment=local"], "there is no such setting"),
    ],
)
def test_settings_without_effect_are_refused(words: list[str], came: str) -> None:
    with pytest.raises(UserError, match=came):
        evaluate(*words)


def test_an_unreadable_image_ends_an_evaluation_unless_told_otherwise(
    split_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    broken = split_folder / "test/red/00.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    with pytest.raises(UnreadableImageError, match=r"red/00\.png"):
        evaluate(f"run={run}")
    assert "on 8 images" in str(evaluate(f"run={run}", "data.on_error=skip", f"output={tmp_path}/found"))
    assert (tmp_path / "found/classification_report.json").is_file()
    with pytest.raises(UserError, match="results cannot be written there"):
        evaluate(f"run={run}", "output=/proc/x")


def test_a_broken_test_image_does_not_cost_the_export(
    split_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    broken = split_folder / "test/red/00.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-200])
    with pytest.raises(UnreadableImageError):
        train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]", "data.num_workers=1"])
    (run,) = (path.parent for path in tmp_path.glob("outputs/*/*/model_info.json"))
    assert not (run / "result.json").exists()
    broken.write_bytes(whole)
    assert train_here(["resume=latest"]).absolute() == run
    assert (run / "result.json").is_file()
