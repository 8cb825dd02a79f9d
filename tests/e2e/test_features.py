"""The stored features of a run: computed once, renewed when they must be, and what is read from them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.workflows.evaluating import features as module
from classifier_training.workflows.evaluating.features import FeatureExtractor, ImageFeatures, RunFeatures, run_features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from classifier_training.inference.sources import Item

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
def run(split_folder: Path, train_here: Train, undrawn: None) -> RunDir:
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
    split_folder: Path, train_here: Train, undrawn: None, monkeypatch: pytest.MonkeyPatch
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
