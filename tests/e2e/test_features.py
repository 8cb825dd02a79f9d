"""The stored features of a run: computed once, renewed when they must be, and what is read from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.conftest import draw_picture, make_class_folders, read_csv

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.workflows.evaluating import features as module
from classifier_training.workflows.evaluating.explain import explain_error
from classifier_training.workflows.evaluating.features import FeatureExtractor, ImageFeatures, RunFeatures, run_features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tests.server import Ended

    from classifier_training.inference.sources import Item

    Command = Callable[..., Ended]
    Train = Callable[[Sequence[str]], Path]

SMALL = ["model=timm", "model.name=test_resnet", "model.pretrained=false", "data.image_size=32", "trainer.max_epochs=1"]


def computed(run: RunDir, monkeypatch: pytest.MonkeyPatch, moved_to: str | None = None) -> tuple[RunFeatures, int]:
    """The features of a run, and of how many images they were computed now."""
    seen: list[str] = []

    class Counting(FeatureExtractor):
        def __call__(self, items: Iterable[Item]) -> Iterator[ImageFeatures]:
            for one in super().__call__(items):
                seen.append(one.item.path)
                yield one

    with monkeypatch.context() as patch:
        patch.setattr(module, "FeatureExtractor", Counting)
        found = run_features(run, moved_to=moved_to)
    return found, len(seen)


@pytest.fixture
def run(split_folder: Path, train_here: Train, quick_runs: None) -> RunDir:
    return RunDir(train_here([f"data.root={split_folder}", *SMALL]))


def test_features_are_computed_once_and_again_only_where_something_changed(
    run: RunDir, split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, number = computed(run, monkeypatch)
    assert number == len(first.paths) == len(first.values) == 36
    assert first.values.dtype == np.float16
    assert set(first.splits) == {"train", "val", "test"}
    assert first.files[0] == str(split_folder / first.paths[0])
    again, number = computed(run, monkeypatch)
    assert number == 0
    assert (again.values == first.values).all()
    assert (again.logits == first.logits).all()
    # A label of splits.csv counts at once; a new image is computed alone.
    extra = split_folder / "train/red/extra.png"
    shutil.copy(split_folder / "train/blue/00.png", extra)
    table = run.splits.read_text()
    run.splits.write_text(
        table.replace("train/blue/01.png,blue", "train/blue/01.png,red") + "train/red/extra.png,red,train,\n"
    )
    changed, number = computed(run, monkeypatch)
    assert number == 1
    assert changed.labels[changed.row_of("train/blue/01.png")] == "red"
    assert (
        changed.values[changed.row_of("train/red/extra.png")] == first.values[first.row_of("train/blue/00.png")]
    ).all()
    # A file that is another one now, and cannot be read.
    extra.write_bytes(b"no image")
    caplog.clear()
    broken, number = computed(run, monkeypatch)
    assert number == 1
    assert list(broken.unreadable) == ["train/red/extra.png"]
    assert "1 image without features" in caplog.text
    assert "train/red/extra.png" in caplog.text
    # Moved images are found where they are said to be; nothing is computed for that.
    split_folder.rename(tmp_path / "elsewhere")
    moved, number = computed(run, monkeypatch, str(tmp_path / "elsewhere"))
    assert number == 0
    assert Path(moved.files[0]).is_file()
    assert (moved.values == broken.values).all()


def test_another_model_a_damaged_file_or_no_exported_model_make_them_anew(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = computed(run, monkeypatch)
    run.features.write_bytes(run.features.read_bytes()[:1000])
    again, number = computed(run, monkeypatch)
    assert number == 36
    assert "damaged" in caplog.text
    assert (again.values == first.values).all()
    with np.load(run.features) as file:
        content = {**file, "model_sha256": "another"}
    np.savez(run.features, **content)
    assert computed(run, monkeypatch)[1] == 36
    # PyTorch computes the same.
    run.onnx.unlink()
    run.model_info.unlink()
    other, number = computed(run, monkeypatch)
    assert number == 36
    assert np.allclose(other.values, first.values, atol=1e-3)
    assert np.allclose(other.logits, first.logits, atol=1e-4)
    # Where they cannot be kept they are given all the same.
    run.features.unlink()
    run.features.mkdir()
    assert (computed(run, monkeypatch)[0].values == other.values).all()
    assert "computed again next time" in caplog.text


def test_the_features_of_shallow_models_are_the_handcrafted_ones(
    split_folder: Path, train_here: Train, quick_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(train_here([f"data.root={split_folder}", "model=random_forest", "data.image_size=32"]))
    found, number = computed(run, monkeypatch)
    assert number == 36
    # As many as the settings say: HOG of 4 x 4 cells, patterns of 4 x 4 regions, colours of 2 x 2.
    assert found.values.shape[1] > 500
    assert (found.logits.argmax(axis=1) == found.targets).mean() > 0.8


def test_a_cross_validated_run_names_its_folds(tmp_path: Path) -> None:
    (tmp_path / "folds/0").mkdir(parents=True)
    with pytest.raises(UserError, match="folds/0"):
        run_features(RunDir(tmp_path))


FOREST = ["model=random_forest", "model.num_trees=20", "data.image_size=32"]


@pytest.mark.usefixtures("quick_runs")
def test_an_error_is_explained_by_the_training_images(split_folder: Path, train_here: Train, command: Command) -> None:
    (split_folder / "test/blue/00.png").rename(split_folder / "test/red/odd.png")
    run = RunDir(train_here([f"data.root={split_folder}", *FOREST]))
    done = command("analyze", f"run={run.path}", "why=test/red/odd.png")
    assert done.code == 0, done.err
    assert "label red, predicted blue" in done.out
    page = next(run.explanations.rglob("report.html"))
    assert f"page: {page}" in done.out
    (found,) = json.loads(page.with_name("why.json").read_text())
    assert found["path"] == str(split_folder / "test/red/odd.png")
    assert [image["label"] for image in found["neighbours"][:5]] == ["blue"] * 5
    # The nearest of the others, by the features themselves.
    assert found["neighbours"] == sorted(found["neighbours"], key=lambda image: -image["similarity"])
    for change in ("remove", "relabel"):
        assert found[change]["found"] == bool(found[change]["images"])
        assert all(image["label"] != "red" for image in found[change]["images"])
    # The same for the review page, and for a right prediction.
    explained = explain_error(run, "odd.png")
    assert [image.path for image in explained.neighbours] == [image["path"] for image in found["neighbours"]]
    assert explain_error(run, "test/green/00.png").remove is None
    wrong = command("analyze", f"run={run.path}", "why=test/red/od.png")
    assert wrong.code == 2
    assert "why=test/red/odd.png" in wrong.err
    assert "3 images of the run end so" in command("analyze", f"run={run.path}", "why=red/01.png").err
    assert command("analyze", "why=test/red/odd.png").code == 2


@pytest.mark.nightly
@pytest.mark.usefixtures("quick_runs")
def test_images_are_chosen_labelled_and_trained_on(tmp_path: Path, train_here: Train, command: Command) -> None:
    old = make_class_folders(tmp_path / "old", {"blue": 60, "green": 60, "red": 60})
    run = RunDir(train_here([f"data.root={old}", "data.val_fraction=0.4", *FOREST]))
    new = tmp_path / "new"
    for number in range(20):
        draw_picture(new / f"{number:02d}.png", (30 + 9 * number, 60, 200 - 9 * number), seed=number)
    shutil.copy(new / "10.png", new / "copy.png")
    train_image = next(row["path"] for row in read_csv(run.splits) if row["split"] == "train")
    shutil.copy(old / train_image, new / "known.png")
    (new / "broken.png").write_bytes(b"no image")
    words = ("analyze", str(new), f"run={run.path}", "pseudo_precision=0.9")
    done = command(*words, "label_next=5")
    assert done.code == 0, done.err
    assert "broken.png" in done.err
    chosen = read_csv(run.label_next / "label_next.csv")
    assert len(chosen) == 5
    names = {row["path"] for row in chosen}
    assert "known.png" not in names
    assert not {"10.png", "copy.png"} <= names
    scores = [float(row["score"]) for row in chosen]
    assert scores == sorted(scores, reverse=True)
    # Proposed are labels that the model is sure of; none of those that a person is asked for.
    proposed = read_csv(run.label_next / "pseudo_labels.csv")
    assert proposed
    assert not names & {row["path"] for row in proposed}
    assert {"00.png": "blue", "known.png": train_image.split("/")[0]}.items() <= {
        row["path"]: row["label"] for row in proposed
    }.items()
    assert "reject" not in command(*words[:3], "pseudo_precision=0.999", "label_next=5").out
    # Labels that people gave are trained on, and their images are not chosen again.
    (new / "labels.csv").write_text("path,label,split\n" + "".join(f"{name},red,train\n" for name in sorted(names)))
    command(*words, "label_next=5")
    assert not names & {row["path"] for row in read_csv(run.label_next / "label_next.csv")}
    again = RunDir(train_here([f"data.root=[{old},{new}/labels.csv]", "data.val_fraction=0.4", *FOREST]))
    rows = {row["path"]: row["label"] for row in read_csv(again.splits) if row["path"].startswith("new/")}
    assert rows == {f"new/{name}": "red" for name in names}
    for wrong in (["label_next=5"], [str(new), "label_next=5"], [f"run={run.path}", "label_next=5"], [*words[1:]]):
        assert command("analyze", *wrong).code == 2
