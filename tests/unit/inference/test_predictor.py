from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.conftest import COLOURS, draw_picture
from tests.unit.export.test_export import PREPROCESSING, examples

from classifier_training.core.errors import UserError
from classifier_training.core.images import read_rgb
from classifier_training.core.run_dir import RunDir
from classifier_training.export.bundle import BundleInfo
from classifier_training.export.write import write_bundle
from classifier_training.inference.predictor import Predictor
from classifier_training.models.timm_models import timm_model


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    torch.manual_seed(0)
    made = RunDir(tmp_path_factory.mktemp("run"))
    info = BundleInfo(class_names=("a", "b", "c"), preprocessing=PREPROCESSING, architecture="test_resnet")
    write_bundle(
        made,
        timm_model(3, name="test_resnet"),
        info,
        examples=examples(tmp_path_factory.mktemp("pictures")),
        opset=None,
    )
    return made


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    made = []
    for number, colour in enumerate(COLOURS.values()):
        draw_picture(tmp_path / f"{number}.png", colour, seed=number)
        made.append(str(tmp_path / f"{number}.png"))
    (tmp_path / "broken.png").write_bytes(b"x")
    return [made[0], str(tmp_path / "broken.png"), *made[1:]]


def test_answers_are_those_of_the_network_on_the_same_pixels(run_dir: RunDir, paths: list[str]) -> None:
    torch.manual_seed(0)
    network = timm_model(3, name="test_resnet").network.eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(PREPROCESSING.tensor(read_rgb(paths[0])))[None]).softmax(1)[0]
    found = Predictor(run_dir.path)(paths[0])
    assert found.label == "abc"[int(expected.argmax())]
    assert found.confidence == pytest.approx(expected.max().item(), abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_order_and_answers_do_not_depend_on_the_batch(run_dir: RunDir, paths: list[str], batch_size: int) -> None:
    predictor = Predictor(run_dir.path)
    found = list(predictor.predict(paths, batch_size=batch_size, probabilities=True))
    assert [item.path for item in found] == paths
    assert [item.error is None for item in found] == [True, False, True, True]
    single = predictor(paths[3])
    assert found[3].label == single.label
    assert found[3].confidence == pytest.approx(single.confidence, abs=1e-5)
    assert sum((found[0].probabilities or {}).values()) == pytest.approx(1, abs=1e-5)


def test_the_threshold_marks_and_keeps_the_label(run_dir: RunDir, paths: list[str]) -> None:
    found = next(Predictor(run_dir.path).predict(paths, threshold=1.0, top_k=2))
    assert found.rejected
    assert found.label == found.top_k[0][0]
    assert len(found.top_k) == 2
    assert found.to_dict()["top_k"][0] == {"label": found.label, "probability": found.confidence}  # type: ignore[index]


def test_a_folder_without_or_with_a_damaged_model_is_named(run_dir: RunDir, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir.path, tmp_path / "copy"))
    (copy / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be loaded"):
        Predictor(copy)
    (copy / "model.onnx").unlink()
    with pytest.raises(UserError, match="is missing"):
        Predictor(copy)
