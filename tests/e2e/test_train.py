"""The real command line, on tiny images: what a user types and what then lies in the run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tests.conftest import NETWORK, SETTINGS, SMALL, draw_picture, read_csv
from tests.server import Ended

pytestmark = pytest.mark.usefixtures("quick_runs")

Command = Callable[..., Ended]


def run_folder(root: Path) -> Path:
    (found,) = root.glob("outputs/*/*/config.yaml")
    return found.parent


@pytest.mark.usefixtures("drawn")
def test_a_folder_of_images_becomes_a_run_folder_that_answers(
    command: Command, split_folder: Path, tmp_path: Path
) -> None:
    done = command("train", f"data.root={split_folder}", "trainer.max_epochs=2", *NETWORK, *SETTINGS[:2])
    assert done.code == 0, done.err
    assert "warning" not in done.err
    assert "Traceback" not in done.err
    run = run_folder(tmp_path)

    # The contract's run folder, for the parts that exist.
    for name in (
        "config.yaml", "versions.json", "splits.csv", "train.log", "metrics.csv", "training_history.json",
        "model.onnx", "pipeline.onnx", "golden/golden.json",
        "model.safetensors", "model_info.json", "labels_mapping.json", "model_summary.txt",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt",
        "epoch_000/confusion_matrix.png", "epoch_001/sample_predictions.png",
        "dataset/statistics.json", "dataset/class_distribution.png", "dataset/image_sizes.png",
        "dataset/sampler_draws.csv", "dataset/sampler_draws.png",
        "training_history/loss.png", "training_history/accuracy.png", "training_history/learning_rate.png",
        "evaluation/classification_report.json", "evaluation/predictions.csv", "evaluation/errors.csv",
        "evaluation/confusion_matrix.png", "evaluation/reliability.png", "evaluation/class_scores.png",
        "report.html", "MODEL_CARD.md", "config.json",
    ):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    assert not list(run.rglob("*.tmp"))

    rows = read_csv(run / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for column in (
        "train/loss", "train/acc_top1", "val/loss", "val/acc_top1", "val/balanced_accuracy", "val/macro_f1",
        "val/acc_class_blue", "epoch_seconds", "images_per_second", "peak_memory_mb", "lr",
    ):  # fmt: skip
        assert float(rows[1][column]) >= 0
    assert "val/acc_top5" not in rows[0]

    manifest = read_csv(run / "splits.csv")
    assert len(manifest) == 36
    assert manifest[0] == {"path": "train/blue/00.png", "label": "blue", "split": "train", "group": ""}

    predictions = read_csv(run / "evaluation/predictions.csv")
    assert list(predictions[0]) == [
        "path", "true", "predicted", "confidence", "loss", "group", "prob_blue", "prob_green", "prob_red",
    ]  # fmt: skip
    assert len(predictions) == 9
    wrong = [row for row in predictions if row["true"] != row["predicted"]]
    assert sorted(row["path"] for row in read_csv(run / "evaluation/errors.csv")) == sorted(
        row["path"] for row in wrong
    )

    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["root"] == str(split_folder)
    assert config["trainer"]["max_epochs"] == 2
    info = json.loads((run / "model_info.json").read_text())
    assert info["training_info"]["config"] == config
    assert info["class_names"] == ["blue", "green", "red"]

    # The last lines say the result and what to type next; it is typed.
    assert "test: balanced accuracy" in done.out
    nexts = [line.split()[1:] for line in done.out.splitlines() if line.startswith("  classifier-training ")]
    assert [words[0] for words in nexts] == ["evaluate", "predict"]
    for words in nexts:
        following = command(*words)
        assert following.code == 0, following.err

    # The exported model scores as the trained one did.
    report = json.loads((run / "evaluation/classification_report.json").read_text())
    assert f"{report['metrics']['acc_top1']['value']:.4f}" in done.out

    # A copy of the folder predicts elsewhere.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run, elsewhere / "copy")
    done = command("predict", "run=copy", f"source={split_folder}/test", "output=found.json", cwd=elsewhere)
    assert done.code == 0, done.err
    found = json.loads((elsewhere / "found.json").read_text())
    assert [row["label"] for row in found] == [row["predicted"] for row in predictions]


def test_jsonl_with_a_sampler_by_name_ema_off_and_an_ordered_folder(
    command: Command, jsonl_folder: Path, tmp_path: Path
) -> None:
    done = command(
        "train", "--", "--data=jsonl", f"data.root={jsonl_folder}", *SMALL, "sampler=manual",
        "sampler.weights={10: 3}", "callbacks.ema=null", "loss=focal", "optimizer=sgd", "scheduler=plateau",
        "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1", "name=jerseys", "category=ocr",
    )  # fmt: skip
    assert done.code == 0, done.err
    (run,) = (path.parent for path in tmp_path.glob("outputs/ocr/jerseys/*/*/config.yaml"))
    labels = json.loads((run / "labels_mapping.json").read_text())
    assert labels["class_to_idx"] == {"": 0, "10": 1, "7": 2}
    done = command("predict", f"source={jsonl_folder}/test/red_0.png")
    assert done.code == 0, done.err


def test_a_run_in_opencv_arithmetic_says_so_everywhere(command: Command, split_folder: Path, tmp_path: Path) -> None:
    done = command("train", f"data.root={split_folder}", *SMALL, "transforms.backend=opencv", "transforms.hue=0.1")
    assert done.code == 0, done.err
    run = run_folder(tmp_path)
    info = json.loads((run / "model_info.json").read_text())
    assert info["preprocessing"]["backend"] == "opencv"
    assert info["preprocessing"]["kernel"] == "area"
    parity = info["files"]["pipeline.onnx"]["parity"]
    assert parity["top1_agreement"] == 1.0
    assert parity["max_pixel_difference"] <= 1
    carried = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["preprocessing"]
    assert carried == info["preprocessing"]


def test_a_folder_without_a_split_is_split_and_evaluated_elsewhere(
    command: Command, unsplit_folder: Path, split_folder: Path, tmp_path: Path
) -> None:
    done = command("train", f"data.root={unsplit_folder}", *SMALL, "data.val_fraction=0.2", "data.test_fraction=0.3")
    assert done.code == 0, done.err
    run = run_folder(tmp_path)
    splits = [row["split"] for row in read_csv(run / "splits.csv")]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (15, 6, 9)
    draw_picture(split_folder / "test/white/0.png", (255, 255, 255), seed=0)
    done = command("evaluate", "run=latest", f"data.root={split_folder}", "split=test")
    assert done.code == 0, done.err
    assert "'white'" in done.err
    assert "on 9 images" in done.out
    assert (run / "evaluation_images_test/predictions.csv").is_file()


def test_many_runs_from_one_command(command: Command, split_folder: Path, tmp_path: Path) -> None:
    done = command(
        "train", "--multirun", f"data.root={split_folder}", *SMALL, "optimizer.lr=0.001,-1,0.01",
        "callbacks=[checkpoint]",
    )  # fmt: skip
    assert done.code == 2
    assert "optimizer.lr=-1" in done.err
    rates = [yaml.safe_load(path.read_text())["optimizer"]["lr"] for path in tmp_path.glob("outputs/2*/*/config.yaml")]
    assert sorted(rates) == [0.001, 0.01]
    assert done.out.count("test: balanced accuracy") == 2


def test_a_class_without_images_is_named(command: Command, split_folder: Path) -> None:
    (split_folder / "train/white").mkdir()
    done = command("train", f"data.root={split_folder}", *SMALL)
    assert done.code == 2
    assert "train/white" in done.err


def test_time_that_is_up_ends_the_run_with_its_results(command: Command, split_folder: Path, tmp_path: Path) -> None:
    # Figures of every epoch would take longer than the epochs, and so would a trial with a compiled network.
    parts = ["callbacks.confusion_matrix=null", "callbacks.sample_grid=null", "trainer.compile=false"]
    length = ["trainer.max_epochs=100000", "trainer.max_time=3"]
    done = command("train", f"data.root={split_folder}", *SMALL, *parts, *length)
    assert done.code == 0, done.err
    run = run_folder(tmp_path)
    assert 0 < len(read_csv(run / "metrics.csv")) < 100000
    assert (run / "model.onnx").is_file()
    assert "test: balanced accuracy" in done.out


def test_a_damaged_file_ends_the_run_by_name_or_is_left_out_when_told(
    command: Command, split_folder: Path, tmp_path: Path
) -> None:
    broken = split_folder / "val/green/02.png"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])  # the header is whole, the pixels are not
    done = command("train", f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint]")
    assert done.code == 2
    assert "02.png" in done.err
    assert "damaged" in done.err
    assert len(done.err.partition("error: ")[2].splitlines()) == 3
    done = command("train", f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint]", "data.on_error=skip")
    assert done.code == 0, done.err
    assert "skipped" in done.err
    assert "02.png" in done.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "data.root=/nowhere/at/all"], "data.root=/nowhere/at/all does not exist"),
        (["train", "data.batchsize=3"], "data.batchsize=3: there is no such setting"),
        (["train", "optimizer.lr=fast"], "optimizer.lr=fast"),
        (["train", "model=resnet19"], "model=resnet19: there is no model of that name"),
        (["trane"], "classifier-training trane: there is no verb of that name"),
        (["predict"], "source is missing"),
        (["predict", "source=x.png"], "run=latest: no finished run"),
        (["evaluate", "run=nowhere"], "run=nowhere: there is no such folder"),
        (["train", "resume=nowhere"], "resume=nowhere"),
    ],
)
def test_a_wrong_word_ends_in_three_lines(command: Command, tmp_path: Path, words: list[str], line: str) -> None:
    (tmp_path / "x.png").write_text("")
    done = command(*words)
    assert done.code == 2
    assert done.out == ""
    first, expected, remedy = done.err.removeprefix("No data.root: training on the built-in sample").splitlines()[-3:]
    assert first.startswith(f"error: {line}")
    assert expected.startswith("  expected: ")
    assert remedy.startswith("  to do:    ")
    assert not (tmp_path / "outputs").exists()


def test_help_version_and_info(command: Command) -> None:
    shown = command("--help")
    assert (shown.code, shown.err) == (0, "")
    assert "classifier-training VERB" in shown.out
    assert command().code == 2
    assert command("train", "--help").out.startswith("usage: classifier-training train")
    assert command("--version").out.strip() == "0.1.0"
    informed = command("info")
    assert informed.code == 0
    assert "training would use" in informed.out
    assert "complete -o nospace" in command("completion", "shell=bash").out
