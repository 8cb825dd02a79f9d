from __future__ import annotations

import csv
import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from classifier_training import cli
from classifier_training.conf.command_line import read_words
from classifier_training.conf.compose import compose
from classifier_training.conf.help import verb_help
from classifier_training.core.errors import EXTRAS, UserError
from classifier_training.core.register import entries, entry
from classifier_training.models import bundled
from classifier_training.workflows.models import ModelsResult, models


@pytest.fixture
def torchvision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier_training.workflows.models.LIBRARIES", ("torchvision",))


def absent(name: str) -> None:
    raise PackageNotFoundError(name)


def listed(result: ModelsResult) -> list[str]:
    return [row.model for row in result.rows]


def test_all_registered_names_are_listed_with_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    # Weights that are not installed do not keep a network from being built.
    monkeypatch.setitem(EXTRAS, "lite", ("no_such_module",))
    monkeypatch.setattr(bundled, "distribution", absent)
    result = models()
    rows = {row.model.partition(" ")[0]: row for row in result.rows}
    assert set(rows) == {known.name for known in entries("model")}
    assert rows["resnet18"].parameters == 11_181_642
    # He et al. 2016, table 1: 1.8e9 multiply-adds.
    assert rows["resnet18"].gflops == pytest.approx(3.6, rel=0.02)
    assert rows["resnet18"].image_size == 224
    assert (rows["resnet18"].pretrained, rows["student"].pretrained) == (True, False)
    kinds = {name: rows[name].weights for name in ("tf_efficientnet_lite0", "resnet18", "timm", "student", "svm")}
    assert kinds == {
        "tf_efficientnet_lite0": "package", "resnet18": "fetched", "timm": "fetched", "student": "none", "svm": "none",
    }  # fmt: skip
    assert [rows[name].extra for name in ("huggingface", "tf_efficientnet_lite1")] == ["transformers", "lite"]
    assert rows["tf_efficientnet_lite0"].extra is None
    assert rows["timm"].parameters is None
    text = str(result)
    assert "timm model.name=…" in text
    assert "batch_size=32" in text


@pytest.mark.usefixtures("torchvision_alone")
def test_a_pattern_finds_names_of_the_libraries_and_the_rest_is_counted() -> None:
    result = models(pattern="shufflenet_v2_*", limit=1)
    assert listed(result) == ["torchvision model.name=shufflenet_v2_x0_5"]
    assert result.num_more == 3
    assert "and 3 more: limit=4 shows all" in str(result)
    assert listed(models(pattern="cnn_v")) == ["cnn_v1", "cnn_v2"]
    assert listed(models(pattern="mobilenet_v2")) == ["mobilenet_v2", "torchvision model.name=mobilenet_v2"]


def test_timm_is_searched_with_its_tags_where_a_tag_is_begun() -> None:
    result = models(pattern="test_vit.")
    assert listed(result) == ["timm model.name=test_vit.r160_in1k"]
    assert result.rows[0].weights == "fetched"
    (row,) = models(pattern="tf_efficientnet_lite0.").rows
    assert (row.model, row.weights) == ("timm model.name=tf_efficientnet_lite0.in1k", "package")


def test_memory_grows_with_the_batch_and_the_picture() -> None:
    small, large, sharp = (
        models(pattern="cnn_v1", batch_size=batch, image_size=size).rows[0].training_mb
        for batch, size in ((8, None), (64, None), (8, 256))
    )
    assert small is not None
    assert large is not None
    assert sharp is not None
    assert small < sharp < large


@pytest.mark.usefixtures("torchvision_alone")
def test_a_size_that_a_network_does_not_take_is_said_in_its_row() -> None:
    result = models(pattern="vit_b_32", image_size=100)
    assert result.rows[0].parameters is None
    assert "does not take images of this size" in str(result)


@pytest.mark.usefixtures("torchvision_alone")
def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="no model has a name like that") as caught:
        models(pattern="mobilnet_v2")
    assert caught.value.remedy.endswith("models mobilenet_v2")


@pytest.mark.parametrize(("group", "name", "verb"), [("optimizer", "adamw", "train"), ("format", "onnx", "export")])
def test_a_setting_other_than_the_model_is_answered_with_its_names(group: str, name: str, verb: str) -> None:
    with pytest.raises(UserError, match=f"{group}: no model") as caught:
        models(pattern=group)
    assert caught.value.expected.startswith(f"{group}= takes ")
    assert name in caught.value.expected
    assert caught.value.remedy.startswith(f"classifier-training {verb} --help all")


def test_the_rows_are_written(tmp_path: Path) -> None:
    models(pattern="cnn_v", output=str(tmp_path / "models.json"))
    models(pattern="cnn_v", output=str(tmp_path / "models.csv"))
    rows = json.loads((tmp_path / "models.json").read_text())
    assert [row["model"] for row in rows] == ["cnn_v1", "cnn_v2"]
    with (tmp_path / "models.csv").open(newline="") as file:
        assert [int(row["parameters"]) for row in csv.DictReader(file)] == [row["parameters"] for row in rows]
    with pytest.raises(UserError, match=r"output=models\.xlsx"):
        models(pattern="cnn_v", output="models.xlsx")


def test_a_word_without_a_key_is_the_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    models_verb, train = entry("verb", "models"), entry("verb", "train")
    assert compose(models_verb, read_words(models_verb, ["vgg*", "limit=3"]))["pattern"] == "vgg*"
    assert compose(models_verb, read_words(models_verb, ["10"]))["pattern"] == "10"
    with pytest.raises(UserError, match="a b: pattern is given more than once"):
        read_words(models_verb, ["a", "b"])
    with pytest.raises(UserError, match="resnet18: not a setting"):
        read_words(train, ["resnet18"])
    assert "models [PATTERN] [key=value …]" in verb_help(entry("verb", "models"))
    assert cli.run(["models", "cnn_v1"]) == 0
    assert "cnn_v1" in capsys.readouterr().out
