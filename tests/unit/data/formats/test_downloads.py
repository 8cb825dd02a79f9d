"""Other libraries' data sets, read from copies that the test writes in those libraries' own formats."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import COLOURS, draw_picture

from classifier_training.core.errors import UserError
from classifier_training.data.formats.downloads import HuggingFaceData, TorchvisionData, known_set
from classifier_training.data.load import load_data


def write_idx(path: Path, values: np.ndarray) -> None:
    """The format of MNIST's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, number in (("train", 40), ("t10k", 20)):
        raw = tmp_path / "torchvision/MNIST/raw"
        write_idx(raw / f"{name}-images-idx3-ubyte", rng.integers(0, 256, (number, 28, 28)))
        write_idx(raw / f"{name}-labels-idx1-ubyte", np.arange(number) % 10)
    return tmp_path / "torchvision"


def test_mnist_is_written_out_with_its_labels_and_splits(mnist: Path) -> None:
    source = TorchvisionData(name="MNIST", root=str(mnist))
    index = source.read()
    assert [sample.split for sample in index.samples].count("test") == 20
    assert index.samples[0].label == "0 - zero"
    from torchvision.datasets import MNIST

    pictures = MNIST(mnist, train=True)
    for place, sample in enumerate(sample for sample in index.samples if sample.split == "train"):
        assert (np.asarray(Image.open(index.root / sample.path)) == np.asarray(pictures[place][0])).all()
    assert load_data(source, seed=0).splits.counts("train").sum() == 40 - 10
    for file in (mnist / "MNIST/raw").iterdir():
        file.unlink()
    assert source.read() == index, "the second start reads the images alone"


def test_files_are_copied_as_they_are(tmp_path: Path) -> None:
    for name, colour in COLOURS.items():
        for number in range(3):
            draw_picture(tmp_path / f"tv/eurosat/2750/{name}/{name}_{number}.jpg", colour, seed=number)
    index = TorchvisionData(name="EuroSAT", root=str(tmp_path / "tv")).read()
    assert index.present_splits() == set()
    assert {sample.label for sample in index.samples} == set(COLOURS)
    first = tmp_path / "tv/eurosat/2750/blue/blue_0.jpg"
    assert (index.root / index.samples[0].path).read_bytes() == first.read_bytes()


def test_a_set_that_cannot_be_fetched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def refuse(*_words: object, **_settings: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(UserError, match=r"MNIST: not in .*, and it cannot be downloaded") as caught:
        TorchvisionData(name="MNIST", root=str(tmp_path / "none")).read()
    assert "data.root=/my/torchvision" in caught.value.remedy


def test_names_are_spelt_as_torchvision_does_or_refused() -> None:
    assert known_set("cifar10") == "CIFAR10"
    with pytest.raises(ValueError, match="similar names: CIFAR100, CIFAR10"):
        known_set("CIFAR1000")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


@pytest.mark.usefixtures("hub_cache")
def test_a_parquet_data_set_keeps_bytes_and_labels_to_the_letter(tmp_path: Path) -> None:
    import datasets

    names = ["", "F/A-18", "hawk"]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    contents: list[bytes] = []
    for split, number in (("train", 9), ("validation", 6)):
        rows = []
        for place in range(number):
            draw_picture(tmp_path / "p.png", (place * 20, 3, 4), seed=place)
            contents.append((tmp_path / "p.png").read_bytes())
            rows.append({"img": {"bytes": contents[-1], "path": None}, "label": place % 3})
        made = datasets.Dataset.from_list(rows, features=features)
        (tmp_path / "set/data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(tmp_path / f"set/data/{split}-00000-of-00001.parquet")
    index = HuggingFaceData(name=str(tmp_path / "set")).read()
    assert index.present_splits() == {"train", "val"}
    assert {sample.label for sample in index.samples} == set(names)
    ordered = sorted(index.samples, key=lambda sample: (sample.split, sample.path.rpartition("/")[2]))
    assert [(index.root / sample.path).read_bytes() for sample in ordered] == contents
    with pytest.raises(UserError, match="has no column 'image'") as caught:
        HuggingFaceData(name=str(tmp_path / "set"), image_column="image").read()
    assert caught.value.remedy == "data.image_column=img"


@pytest.mark.usefixtures("hub_cache")
def test_a_folder_of_images_is_read_through_the_same_library(unsplit_folder: Path) -> None:
    index = HuggingFaceData(name=str(unsplit_folder)).read()
    assert index.present_splits() == set()
    assert {sample.label for sample in index.samples} == {"blue", "green", "red"}
    assert len(index.samples) == 30


@pytest.mark.usefixtures("hub_cache")
def test_a_data_set_that_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # Read from the environment once, when the library is imported; without it a minute of trying again passes.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"data\.name=nobody/nothing cannot be loaded") as caught:
        HuggingFaceData(name="nobody/nothing").read()
    assert "without a network" in caught.value.remedy


@pytest.mark.usefixtures("hub_cache")
def test_hidden_labels_of_a_test_split_are_left_out_and_bytes_that_are_no_image_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datasets = pytest.importorskip("datasets")
    red = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(red, "PNG")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})

    def write(split: str, contents: list[bytes], labels: list[int]) -> None:
        rows = {"img": [{"bytes": one, "path": None} for one in contents], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / f"set/{split}.parquet"))

    (tmp_path / "set").mkdir()
    write("train", [red.getvalue()] * 2, [0, 1])
    write("test", [red.getvalue()] * 3, [-1, -1, -1])
    found = HuggingFaceData(name=str(tmp_path / "set")).read()
    assert [(sample.split, sample.label) for sample in found.samples] == [("train", "a"), ("train", "b")]
    assert "3 rows of test have no label and are left out" in caplog.text
    write("train", [red.getvalue(), b"no image"], [0, 1])
    with pytest.raises(UserError, match="000002: the bytes of this row are no image"):
        HuggingFaceData(name=str(tmp_path / "set")).read()
