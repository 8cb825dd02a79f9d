"""The `registry` verb on the real command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SMALL
from tests.runs import make_run
from tests.server import Ended

Command = Callable[..., Ended]


def test_runs_are_listed_promoted_reported_and_cleaned_up(command: Command, tmp_path: Path) -> None:
    for hour, score in ((10, 0.9), (11, 0.8), (12, 0.7)):
        make_run(tmp_path / "outputs", f"2026-01-02/{hour}-00-00", score=score)
    listed = command("registry", "list", "sort=best")
    assert listed.code == 0, listed.err
    assert listed.out.splitlines()[1].startswith("resnet18:v1")
    assert command("registry", "promote", "best", "alias=production").code == 0
    refused = command("registry", "promote", "resnet18:v2", "alias=production")
    assert refused.code == 1
    assert "0.8000 against 0.9000" in refused.err
    assert command("registry", "report").code == 0
    dry = command("registry", "cleanup", "keep=1")
    assert "nothing was removed" in dry.out
    done = command("registry", "cleanup", "keep=1", "apply=true")
    assert "freed" in done.out
    assert sorted(path.name for path in (tmp_path / "outputs/2026-01-02").iterdir()) == ["10-00-00", "12-00-00"]
    wrong = command("registry", "list", "output=nowhere")
    assert wrong.code == 2
    assert "Traceback" not in wrong.err


@pytest.mark.nightly
def test_a_run_is_exported_in_all_formats_that_can_be_written(
    command: Command, split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    done = command("registry", "export", str(run), "max_drop=100")
    for name in ("model.onnx", "model.torchscript", "model.ort", "model_int8.onnx", "model_fp16.onnx"):
        assert (run / name).exists(), done.err
    # No machine of this kind has an NVIDIA GPU's and an Apple's tools at once.
    assert done.code == 3
    assert "not written: " in done.out
