"""`train NEW init_from=production replay=0.2 promote=true`: new images beside old ones, classes added, the gate."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import pytorch_lightning as pl
import yaml
from tests.conftest import COLOURS, SMALL, draw_picture, read_csv
from tests.server import Ended

from classifier_training import cli
from classifier_training.conf.command_line import read_words
from classifier_training.core.errors import InterruptedRunError, UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.data.corrections import LabelCorrection, append_corrections
from classifier_training.training.checkpoints import RunCheckpoints

pytestmark = pytest.mark.usefixtures("quick_runs")

Command = Callable[..., Ended]
Train = Callable[[Sequence[str]], Path]

ROOT = Path(__file__).parents[2]

CPU = ("trainer.accelerator=cpu", "callbacks=[checkpoint,onnx_export]")
AGAIN = ("init_from=production", "replay=0.5", "transfer=linear_probe", *CPU)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Images of three classes, without splits."""
    return make_images(tmp_path / "old", {"red": 12, "green": 12, "blue": 12}, seed=0)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """New images: a class that is new, and more of one that is old."""
    return make_images(tmp_path / "new", {"apricot": 12, "red": 6}, seed=1)


def make_images(folder: Path, counts: dict[str, int], *, seed: int) -> Path:
    colours = {**COLOURS, "apricot": (240, 180, 90)}
    for place, (name, count) in enumerate(counts.items()):
        for number in range(count):
            draw_picture(folder / name / f"{number:02d}.png", colours[name], seed=10_000 * seed + 1000 * place + number)
    return folder


@pytest.fixture
def production(old: Path, train_here: Train, command: Command) -> RunDir:
    run = train_here([f"data.root={old}", *SMALL, *CPU, "trainer.max_epochs=8"])
    done = command("registry", "promote", str(run), "alias=production")
    assert done.code == 0, done.err
    return RunDir(run.absolute())


def rows(run: RunDir) -> dict[str, dict[str, str]]:
    return {row["path"]: row for row in read_csv(run.splits)}


def newest(tmp_path: Path) -> RunDir:
    return RunDir(max((path.parent for path in (tmp_path / "outputs").glob("*/*/result.json")), key=str))


def test_classes_are_added_and_the_run_takes_the_place_of_production(
    command: Command, production: RunDir, new: Path, tmp_path: Path
) -> None:
    done = command("train", str(new), *AGAIN, "promote=true")
    run = newest(tmp_path)
    assert run.path != production.path
    # The old classes keep their places, though apricot is first by name.
    names = json.loads(run.model_info.read_text())["class_names"]
    assert names == ["blue", "green", "red", "apricot"]
    before, after = rows(production), rows(run)
    for path, row in before.items():
        found = after[f"old/{path}"]
        assert (found["split"], found["label"]) == (row["split"], row["label"])
        assert found["replayed"] == ("1" if row["split"] == "train" else "")
    added = [row for path, row in after.items() if path.startswith("new/")]
    assert len(added) == 18
    assert {row["split"] for row in added} == {"train", "val", "test"}
    assert not any(row["replayed"] for row in added)
    found = json.loads(run.trained_again.read_text())
    held_out = [row for row in after.values() if row["split"] == "test"]
    assert found["comparison"]["num_images"] == sum(row["label"] != "apricot" for row in held_out)
    assert found["new_classes"]["apricot"]["support"] == sum(row["label"] == "apricot" for row in held_out)
    # Both runs' scores follow from predictions of each.
    assert set(found["comparison"]["classes"]) == {"blue", "green", "red"}
    assert "class" in done.out
    assert "before" in done.out
    page = run.report.read_text()
    assert page.count("<h2>Trained again</h2>") == 1
    passed = all(check["passed"] for check in found["checks"].values())
    assert done.code == (0 if passed else 1), done.err
    listed = command("registry", "show", "production")
    assert (str(run.path.name) in listed.out) == passed
    # The next round: what was new is old now.
    more = make_images(tmp_path / "more", {"apricot": 3, "green": 6}, seed=2)
    again = command("train", str(more), *AGAIN, f"init_from={run.path}", "seed=1")
    assert again.code == 0, again.err
    last = rows(newest(tmp_path))
    assert {path: row["split"] for path, row in after.items()} == {
        path: row["split"] for path, row in last.items() if not path.startswith("more/")
    }


def test_a_run_that_is_worse_is_not_promoted_and_the_log_says_why(
    command: Command, production: RunDir, old: Path, tmp_path: Path
) -> None:
    # Every new image has a wrong label, so that red is forgotten.
    wrong = tmp_path / "wrong"
    for number in range(60):
        draw_picture(wrong / "train" / "blue" / f"{number:02d}.png", COLOURS["red"], seed=500 + number)
        draw_picture(wrong / "train" / "green" / f"{number:02d}.png", COLOURS["red"], seed=900 + number)
    shutil.rmtree(old / "red")
    for number in range(12):
        draw_picture(old / "red" / f"{number:02d}.png", COLOURS["red"], seed=number)
    done = command("train", str(wrong), *AGAIN[:1], "replay=0.01", "trainer.max_epochs=6", "optimizer.lr=0.01", *CPU,
                   "transfer=full", "promote=true", "imbalance=none")  # fmt: skip
    assert done.code == 1, done.out
    assert "NOT PROMOTED" in done.out
    assert "held-out images" in done.err
    assert "force=true" in done.out
    assert command("registry", "show", "production").out.count(production.path.name) >= 1
    assert newest(tmp_path).path != production.path


def test_new_images_in_the_old_folder_and_corrections_are_enough(
    production: RunDir, old: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="no training image that is new") as caught:
        train_here(AGAIN)
    assert "data.root=/my/new/images" in caught.value.remedy
    with pytest.raises(UserError, match="no training image that is new"):
        train_here([*AGAIN, f"data.root={old}"])
    path, row = next((path, row) for path, row in rows(production).items() if row["split"] == "train")
    other = "red" if row["label"] != "red" else "blue"
    append_corrections(
        old / "corrections.csv", [LabelCorrection(path=path, old=row["label"], action="relabel", new=other)]
    )
    run = RunDir(train_here(AGAIN))
    found = rows(run)
    assert (found[path]["label"], found[path]["replayed"]) == (other, "")
    assert len(found) == 36
    make_images(old, {"red": 16}, seed=3)
    run = RunDir(train_here(AGAIN))
    assert sum(not row["replayed"] for row in rows(run).values() if row["split"] == "train") > 1


def test_what_cannot_be_trained_again_is_answered(
    production: RunDir, old: Path, new: Path, train_here: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*words: str) -> UserError:
        with pytest.raises(UserError) as caught:
            train_here([f"data.root={new}", *words, *CPU])
        return caught.value

    assert "init_from=production" in refused("replay=0.2", *SMALL).remedy
    assert "there is no such folder, and no run" in refused("replay=0.2", "init_from=nowhere").came
    assert "and this one trains" in refused("replay=0.2", "init_from=production", "model=cnn_v1").came
    assert (
        "leave out data.splits"
        in refused("replay=0.2", "init_from=production", f"data.splits={production.splits}").remedy
    )
    assert "leave out data.num_folds" in refused("promote=true", "data.num_folds=2", *SMALL).remedy
    inside = shutil.copytree(new, old / "more")
    assert "leave out data.root" in refused(f"data.root={inside}", "replay=0.2", "init_from=production").remedy
    shutil.rmtree(inside)
    (new / "apricot").rename(new / "Blue")
    alike = refused("replay=0.2", "init_from=production")
    assert "Blue is written almost like blue" in alike.came
    (new / "Blue").rename(new / "apricot")
    # Some old images are gone: said, and trained on with the rest.
    gone = [path for path, row in rows(production).items() if row["split"] == "train" and row["label"] == "red"]
    for path in gone[1:]:
        (old / path).unlink()
    run = RunDir(train_here([f"data.root={new}", *AGAIN]))
    assert f"{len(gone) - 1} of the 36 images" in caplog.text
    assert "easily forgotten: red 1" in caplog.text
    assert sum(row["label"] == "red" and row["replayed"] == "1" for row in rows(run).values()) == 1
    (old / gone[0]).unlink()
    assert "of red no training image is left" in refused("replay=0.2", "init_from=production").came
    # The folder is somewhere else: named beside the new one.
    there = old.rename(tmp_path / "there")
    assert "data.root=[/old/images,/new/images]" in refused("replay=0.2", "init_from=production").remedy
    for path in gone:
        draw_picture(there / path, COLOURS["red"], seed=77 + len(path))
    again = RunDir(train_here([f"data.root=[{there},{new}]", *AGAIN]))
    assert {row["split"] for path, row in rows(again).items() if path.startswith("there/")} == {"train", "val", "test"}


def test_a_model_without_weights_is_refused_with_what_to_do(old: Path, new: Path, train_here: Train) -> None:
    run = train_here([f"data.root={old}", "model=random_forest", "data.image_size=16"])
    with pytest.raises(UserError, match="fitted at once") as caught:
        train_here([f"data.root={new}", f"init_from={run}", "replay=0.2"])
    assert "model=random_forest" in caught.value.remedy


def test_a_run_that_is_resumed_is_the_same_also_without_the_run_before(
    production: RunDir, new: Path, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"data.root={new}", f"init_from={production.path}", "replay=0.5", *CPU, "trainer.max_epochs=3"]
    whole = RunDir(train_here([*words, "name=whole"]))
    with monkeypatch.context() as patch:
        ended = RunCheckpoints.on_train_epoch_end

        def end(self: RunCheckpoints, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            ended(self, trainer, module)
            if trainer.current_epoch == 1:
                signal.raise_signal(signal.SIGINT)

        patch.setattr(RunCheckpoints, "on_train_epoch_end", end)
        with pytest.raises(InterruptedRunError):
            train_here([*words, "name=parts"])
    shutil.rmtree(production.path)
    (cut,) = Path("outputs/parts").glob("*/*")
    parts = RunDir(train_here([f"resume={cut}"]))
    assert parts.weights.read_bytes() == whole.weights.read_bytes()
    assert parts.splits.read_text() == whole.splits.read_text()
    assert json.loads(parts.model_info.read_text())["class_names"] == ["blue", "green", "red", "apricot"]
    # What cannot be compared any more is no reason to lose the run, and is said.
    assert list(json.loads(parts.result.read_text())["failures"]) == ["trained_again.json"]


@pytest.mark.parametrize(("images", "wanted"), [("", []), ("/new images", ['data.root="/new images"'])])
def test_the_workflow_file_gives_a_command_that_is_understood(images: str, wanted: list[str], tmp_path: Path) -> None:
    workflow = yaml.safe_load((ROOT / "examples/train_again.yml").read_text())
    (step,) = workflow["jobs"]["train"]["steps"]
    # Instead of the program: its words, a line each.
    script = 'uv() { shift 2; printf "%s\\n" "$@"; }\n' + step["run"]
    summary = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "IMAGES": images}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        env={**os.environ, **summary},
        capture_output=True,
        text=True,
        check=True,
    )
    verb, words = cli.find_verb(done.stdout.splitlines())
    read = read_words(verb, words)
    assert read == [*wanted, "init_from=production", "replay=0.2", "promote=true", "time=2h"]
