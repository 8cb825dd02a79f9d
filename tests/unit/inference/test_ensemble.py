from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.unit.export.test_export import PREPROCESSING

from classifier_training.core.errors import UserError
from classifier_training.core.types import softmax
from classifier_training.export.ensemble import Member, build_ensemble, write_ensemble
from classifier_training.export.session import onnx_runner
from classifier_training.inference.ensemble import Ensemble, mean_logits
from classifier_training.inference.model import LoadedModel
from classifier_training.inference.predictor import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = ("a", "b", "c")


def linear(seed: int, *, opset: int = 18, scale: float = 1.0) -> onnx.ModelProto:
    """A linear model of 2 x 2 images."""
    weights = scale * np.random.default_rng(seed).standard_normal((12, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def images(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((number, 3, 2, 2)).astype(np.float32)


def test_the_softmax_of_the_mean_is_the_mean_of_the_probabilities() -> None:
    logits = [np.random.default_rng(seed).standard_normal((5, 3)).astype(np.float32) for seed in range(3)]
    temperatures = [0.5, 1.0, 3.0]
    expected = np.mean(
        [softmax(one / np.float32(value)) for one, value in zip(logits, temperatures, strict=True)], axis=0
    )
    assert np.abs(softmax(mean_logits(logits, temperatures)) - expected).max() < 1e-6
    # A probability that float32 does not have is no logarithm of 0.
    sure = np.array([[1000.0, 0.0, -1000.0]], dtype=np.float32)
    assert np.isfinite(mean_logits([sure, sure], [1.0, 1.0])).all()


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_one_file_gives_the_mean_of_its_models(tmp_path: Path, scale: float) -> None:
    members = []
    for seed, temperature in enumerate((0.7, 1.0, 2.5)):
        onnx.save(linear(seed, scale=scale), tmp_path / f"{seed}.onnx")
        members.append(Member(tmp_path / f"{seed}.onnx", temperature))
    write_ensemble(members, tmp_path / "all.onnx", metadata={"said": "so"})
    found = onnx_runner(tmp_path / "all.onnx")(images(7))
    logits = [onnx_runner(member.path)(images(7)) for member in members]
    expected = softmax(mean_logits(logits, [member.temperature for member in members]))
    assert np.isfinite(found).all()
    assert np.abs(softmax(found) - expected).max() < 1e-6
    metadata = {item.key: item.value for item in onnx.load(tmp_path / "all.onnx").metadata_props}
    assert metadata == {"said": "so", "temperature": "1.0", "ensemble": "3"}


def test_models_of_different_opsets_are_not_put_into_one_file() -> None:
    with pytest.raises(UserError, match="different opsets: 17, 18"):
        build_ensemble([linear(0, opset=17), linear(1)], [1.0, 1.0])


class Fixed(Predictor):
    """Gives the same logits for every image."""

    def __init__(self, logits: list[float], *, size: int, names: tuple[str, ...] = CLASSES) -> None:
        import dataclasses

        preprocessing = dataclasses.replace(PREPROCESSING, size=(size, size))
        super().__init__(LoadedModel(Path("m.onnx"), "0", names, preprocessing, None))
        self._logits = np.array(logits, dtype=np.float32)
        self.sizes: set[int] = set()

    @property
    def device(self) -> str:
        return "here"

    def _run(self, inputs: NDArray[np.float32], outputs: list[str]) -> list[NDArray[np.float32]]:
        assert outputs == ["logits"]
        self.sizes.add(inputs.shape[-1])
        return [np.tile(self._logits, (len(inputs), 1))]


def test_each_model_prepares_images_in_its_own_way(tmp_path: Path) -> None:
    from tests.conftest import draw_picture

    draw_picture(tmp_path / "a.png", (200, 0, 0), seed=0)
    (tmp_path / "b.png").write_text("no image")
    members = [Fixed([3.0, 0.0, 0.0], size=16), Fixed([0.0, 3.0, 0.0], size=24)]
    ensemble = Ensemble(members, path=Path("both"))
    good, bad = ensemble.predict([tmp_path / "a.png", tmp_path / "b.png"], probabilities=True)
    assert members[0].sizes == {16}
    assert members[1].sizes == {24}
    assert good.probabilities is not None
    assert good.probabilities["a"] == pytest.approx(good.probabilities["b"])
    assert bad.error is not None
    with pytest.raises(UserError, match="prepare images in different ways"):
        ensemble.run(images(1))
    with pytest.raises(UserError, match="the second lacks 'c'"):
        Ensemble([members[0], Fixed([0.0, 1.0], size=16, names=("a", "b"))], path=Path("both"))
