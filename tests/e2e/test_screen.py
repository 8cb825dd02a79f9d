"""What a person sees of `train`, and what is refused before anything is made."""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SMALL, read_csv
from tests.server import Ended

pytestmark = pytest.mark.usefixtures("quick_runs")

Command = Callable[..., Ended]


def test_the_screen_has_what_a_person_needs_and_the_log_the_rest(
    command: Command, split_folder: Path, tmp_path: Path
) -> None:
    words = [*SMALL, "trainer.max_epochs=2", "monitor=val/acc_class_blue", "transforms=none", "optimizer.lr=1e-6"]
    done = command("train", f"data.root={split_folder}", *words)
    assert done.code == 0, done.err
    (log,) = tmp_path.glob("outputs/*/*/train.log")
    # A fork of a process that has imported Lightning shows its messages, too.
    before = [line.partition(" ")[0] for line in done.err.splitlines() if line in log.read_text()]
    assert before == [
        "data:", "classes:", "data", "model:", "recipe:", "hint:", "imbalance:", "weights:", "training:", "epoch",
        "epoch", "training", "not", "exported:",
    ]  # fmt: skip
    assert "classes: blue 8, green 6, red 4 training images" in done.err
    assert re.search(r"^training: up to 2 epochs of 5 steps, 4 images in a batch; CPU with 1 thread, ", done.err, re.M)
    assert re.search(r"^epoch 1/2 .*\nepoch 2/2 ", done.err, re.M)
    assert re.search(
        r"^exported: model.safetensors, model.onnx, pipeline.onnx, which agree with PyTorch", done.err, re.M
    )
    for detail in ("disk: ", "device: ", "speed: ", "store: ", "model.onnx: agrees with PyTorch", "epoch: 18 images"):
        assert detail in log.read_text()
        assert detail not in done.err

    shown = done.out.splitlines()
    assert re.match(r"test: acc_class_blue \d\.\d{4}, balanced accuracy 0", shown[1]), "the monitored metric"
    assert shown[2].startswith("verdict: ")
    assert shown[3].startswith(
        "for comparison, always predicting the most frequent class (blue): balanced accuracy 0.3"
    )
    table = {line.split()[0]: line.split()[1:] for line in shown[6:10]}
    assert table["class"] == ["precision", "recall", "images"]
    assert {name: values[-1] for name, values in table.items()} == {
        "class": "images", "blue": "3", "green": "3", "red": "3",
    }  # fmt: skip
    errors = read_csv(log.parent / "evaluation/errors.csv")
    assert len(errors) > 3
    assert f"{len(errors)} mistakes of 9, all in outputs/" in done.out
    predicted = command("predict", "run=latest", f"source={errors[0]['path']}", "output=x.json")
    started = f"{log.parents[1].name} {log.parent.name[:5].replace('-', ':')}"
    assert re.search(
        rf"model.onnx on .*; test_resnet, trained {started}; test balanced accuracy 0\.\d{{4}}.* on 9 images$",
        predicted.err.rstrip("\n"),
    ), predicted.err
    listed = [line for line in shown if line.startswith(f"  {split_folder}")]
    assert [line.split()[0] for line in listed] == [row["path"] for row in errors[:3]]
    assert (
        f"is {errors[0]['true']}, predicted {errors[0]['predicted']} ({float(errors[0]['confidence']):.0%})"
        in listed[0]
    )


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "came"),
    [
        (["trainer=mps"], "trainer.accelerator=mps: PyTorch"),
        (["callbacks=[]"], "callbacks.checkpoint is switched off"),
        (["model=svm", "callbacks=[]"], "callbacks.onnx_export is switched off"),
        (["logging=mlflow", "logging.mlflow.tracking_uri=http://127.0.0.1:{port}"], "does not answer"),
        (["logging=wandb", "logging.wandb.mode=online"], "logging.wandb.mode=online: there is no login"),
    ],
)
def test_what_cannot_be_had_is_refused_before_the_data_are_read(
    words: list[str], came: str, command: Command, split_folder: Path, tmp_path: Path, closed_port: int
) -> None:
    words = [word.format(port=closed_port) for word in words]
    if any(word.startswith("logging=") for word in words):
        pytest.importorskip(words[0].partition("=")[2])
    if "model=svm" not in words:
        words = [*SMALL[:-1], *words]
    done = command("train", f"data.root={split_folder}", *words, env={"HOME": str(tmp_path / "home")})
    assert done.code == 2, done.err
    assert came in done.err
    assert "data: " not in done.err
    assert not (tmp_path / "outputs").exists()


def on_a_terminal(words: list[str], *, answer: str, to: str, cwd: Path) -> tuple[int, str]:
    """Run a command line on a terminal and type an answer when a text appears; returns the exit code and all text."""
    ours, theirs = pty.openpty()
    script = Path(sys.executable).with_name("classifier-training")
    process = subprocess.Popen([script, *words], stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, close_fds=True)
    os.close(theirs)
    text, answered, until = "", False, time.monotonic() + 300
    while time.monotonic() < until:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            text += os.read(ours, 65_536).decode(errors="replace")
        except OSError:
            break
        if not answered and to in text:
            answered = True
            os.write(ours, answer.encode())
    os.close(ours)
    return process.wait(timeout=60), text.replace("\r\n", "\n")


@pytest.mark.parametrize("answer", ["y", pytest.param("", marks=pytest.mark.nightly)])
def test_on_a_terminal_an_unfinished_run_is_offered(
    answer: str, command: Command, split_folder: Path, tmp_path: Path
) -> None:
    words = ["train", f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,progress]"]
    done = command(*words)
    assert done.code == 0, done.err
    (result,) = tmp_path.glob("outputs/*/*/result.json")
    result.unlink()
    code, text = on_a_terminal(words, answer=f"{answer}\n", to="Resume it? [y/N]", cwd=tmp_path)
    assert code == 0, text
    run = result.parent.relative_to(tmp_path)
    assert f"an unfinished run has the same settings and data: {run}\n1 epoch done, last written to " in text
    assert result.exists() == (answer == "y")
    assert len(list(tmp_path.glob("outputs/*/*/config.yaml"))) == 1 + (answer != "y")
    if answer == "y":
        assert "resume: training continues after step" in text
    else:
        assert f"to resume it instead: classifier-training train resume={run}" in text
