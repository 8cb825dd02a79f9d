"""`distill` as a user types it, and a student that goes on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import SETTINGS, SMALL, make_class_folders, read_csv
from tests.e2e.test_resume import exact, timeless
from tests.server import Ended

from classifier_training import cli
from classifier_training.core.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_module")

FEW = ["callbacks=[checkpoint]", "transforms=none", "trainer.precision=32"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_class_folders(tmp_path_factory.mktemp("images"), {"blue": 10, "green": 10, "red": 10})


@pytest.fixture(scope="module")
def teacher(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [f"data.root={pictures}", *SMALL, *FEW, f"output={tmp_path_factory.mktemp('runs')}"]
    return Path(cli.perform("train", words).run_dir.path)


@pytest.mark.usefixtures("drawn")
def test_students_are_compared_with_themselves_and_their_teacher(
    teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["temperatures=[2,4]", "hint_weights=0.1", *FEW, "trainer.max_epochs=1", "data.batch_size=8"]
    assert cli.run(["distill", f"teacher={teacher}", *own]) == 0
    said = capsys.readouterr().out
    assert "held-out images" in said
    assert "temperature 2, alpha 0.7, hints 0.1" in said
    (folder,) = (path.parent for path in Path("outputs").rglob("distillation.json"))
    found = json.loads((folder / "distillation.json").read_text())
    assert found["words"] in said
    assert [run["temperature"] for run in read_csv(folder / "distillation.csv")] == ["", "2.0", "4.0"]
    assert found["num_images"] > 0
    assert [item["taught"] and item["taught"]["temperature"] for item in found["students"]] == [None, 2.0, 4.0]
    assert all((folder / name).stat().st_size > 5000 for name in ("distillation.png", "trade_off.png"))
    assert found["teacher"]["latency_ms"] > 0 < found["student"]["size_mb"]
    for run in found["runs"]:
        splits = [(Path(path) / "splits.csv").read_text() for path in (run["run"], teacher)]
        assert splits[0] == splits[1]
        assert 0 <= run["agreement"] <= 1


@pytest.mark.nightly
def test_a_student_with_hints_goes_on_to_the_letter(
    teacher: Path, pictures: Path, train_here: Callable[[list[str]], Path]
) -> None:
    words = [
        f"data.root={pictures}", *SMALL, *FEW, "callbacks=[checkpoint,ema]", "model.dropout=0.3",
        "callbacks.checkpoint.every_seconds=0", f"distillation.teacher={teacher}", "distillation=soft_labels",
        "distillation.hint_weight=0.2",
    ]  # fmt: skip
    whole = train_here([*words, "trainer.max_epochs=3", "scheduler=constant"])
    cut = train_here([*words, "trainer.max_epochs=2", "scheduler=constant"])
    assert train_here([f"resume={cut}", "trainer.max_epochs=3"]) == cut
    first, second = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (whole, cut))
    kept = [state["callbacks"]["EpochRecorder"].pop("rows") for state in (first, second)]
    assert timeless(kept[0]) == timeless(kept[1])
    assert any(name.startswith("distillation.") for name in first["state_dict"])
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert exact(first[part]) == exact(second[part]), part


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["teacher=nowhere"], "teacher=nowhere: there is no such folder"),
        (["alphas=1.5"], "alphas=1.5"),
        (["alphas=[0.5,-1]"], "alphas"),
        (["alphas=0"], "the teacher has no effect"),
        (["seed=3"], "seed= has no place here"),
        (["distillation.alpha=0.5"], "has no place here"),
        (["trainer.max_epoch=3"], "trainer.max_epoch=3: there is no such setting"),
        (["teacher=[]"], "no teacher"),
    ],
)
def test_a_wrong_word_is_told_before_the_first_run(teacher: Path, words: list[str], said: str) -> None:
    named = [] if any(word.startswith("teacher=") for word in words) else [f"teacher={teacher}"]
    with pytest.raises(UserError) as caught:
        cli.run(["distill", *named, *words])
    assert said in str(caught.value)
    assert not list(Path("outputs").glob("distillation"))


def test_a_teacher_with_other_classes_is_refused(teacher: Path, tmp_path: Path) -> None:
    other = make_class_folders(tmp_path / "others", {"blue": 8, "green": 8})
    with pytest.raises(UserError, match=r"other classes than the student: it alone knows 'red'"):
        cli.run(["distill", f"teacher={teacher}", f"data.root={other}", *SMALL, *FEW])


def test_hints_need_a_student_that_shows_features(
    teacher: Path, pictures: Path, train_here: Callable[[list[str]], Path]
) -> None:
    words = [
        f"data.root={pictures}",
        *SETTINGS,
        "model=torchvision",
        "model.pretrained=false",
        "model.name=squeezenet1_1",
        *FEW,
        "data.image_size=64",
    ]
    taught = ["distillation=soft_labels", f"distillation.teacher={teacher}", "distillation.hint_weight=1"]
    with pytest.raises(UserError, match=r"distillation.hint_weight, of the student"):
        train_here([*words, *taught])


def test_many_runs_are_left_to_distill_itself(command: Callable[..., Ended]) -> None:
    done = command("distill", "--multirun", "teacher=x", "model=student,resnet18")
    assert done.code == 2
    assert "which makes a run of each of its settings by itself" in done.err
