from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry
from classifier_training.models.huggingface import huggingface_model
from classifier_training.models.meta import fit_input

transformers = pytest.importorskip("transformers")

NUM_LABELS = 5


def tiny(kind: str) -> Any:
    """Make a network of the library, small enough for a test."""
    torch.manual_seed(1)
    if kind == "vit":
        small: dict[str, Any] = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
        config = transformers.ViTConfig(**small, image_size=32, patch_size=8, num_labels=NUM_LABELS)
        return transformers.ViTForImageClassification(config)
    if kind == "swin":
        small = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 2}
        config = transformers.SwinConfig(**small, image_size=32, num_labels=NUM_LABELS)
        return transformers.SwinForImageClassification(config)
    small = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    if kind == "convnext":
        return transformers.ConvNextForImageClassification(
            transformers.ConvNextConfig(**small, image_size=32, num_labels=NUM_LABELS)
        )
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(**small, embedding_size=8, num_labels=NUM_LABELS)
    )


def save(network: Any, folder: Path, **preprocessor: object) -> Path:
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


HALVES = {"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}


@pytest.mark.parametrize("kind", ["vit", "swin", "convnext", "resnet"])
def test_a_folder_is_loaded_and_its_head_replaced_for_other_classes(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tiny(kind).eval()
    folder = save(source, tmp_path / kind, **HALVES)
    capfd.readouterr()
    same, other = (huggingface_model(number, name=str(folder)) for number in (NUM_LABELS, 3))
    assert capfd.readouterr() == ("", "")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(same.network.eval()(images), source(images).logits)
        assert other.network.eval()(images).shape == (2, 3)
    kept = source.state_dict()
    loaded = {name.removeprefix("model."): value for name, value in other.network.state_dict().items()}
    assert all(torch.equal(value, loaded[name]) for name, value in kept.items() if "classifier" not in name)
    assert other.architecture == kind
    assert str(other.weights) == f"{kind} (folder {folder}; license not stated)"
    assert (other.input_spec.size, other.input_spec.mean, other.input_spec.std) == (
        32,
        (0.5, 0.4, 0.3),
        (0.5, 0.6, 0.7),
    )
    # An image of another size: convolutions and windows take it, position embeddings are interpolated.
    fit_input(other, image_size=64, batch_size=4)
    assert other.network(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_a_random_start_needs_no_weights_and_the_dropout_stands_before_the_head(tmp_path: Path) -> None:
    folder = save(tiny("vit"), tmp_path / "vit")
    (folder / "model.safetensors").unlink()
    built = huggingface_model(3, name=str(folder), pretrained=False, dropout=0.25)
    assert not built.pretrained
    head = built.network.model.classifier  # type: ignore[union-attr]
    assert [type(layer).__name__ for layer in head] == ["Dropout", "Linear"]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="its weights cannot be fetched") as caught:
        huggingface_model(3, name=str(folder))
    assert "model.pretrained=false" in caught.value.remedy
    assert "model.weights" not in caught.value.remedy


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: mit\ntags: [x]\n---\n# A network\n", "mit"),
        ("---\ntags: [x]\n---\n", None),
        ("---\nlicense: [mit, gpl]\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("no front matter", None),
    ],
)
def test_the_license_is_the_model_cards(card: str, license: str | None, tmp_path: Path) -> None:  # noqa: A002
    folder = save(tiny("vit"), tmp_path / "vit")
    (folder / "README.md").write_text(card)
    built = huggingface_model(3, name=str(folder))
    assert built.weights is not None
    assert built.weights.license == license


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    folder = save(tiny("vit"), tmp_path / "vit")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="its weights cannot be fetched") as caught:
        huggingface_model(3, name=str(folder))
    assert "a pickle are not read" in caught.value.expected


def test_code_beside_a_network_is_never_run(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "strange", "auto_map": {"AutoConfig": "code.Config"}})
    )
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="it cannot be loaded as an image classifier"):
        huggingface_model(3, name=str(folder))
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_belong_are_an_error_and_no_random_start(tmp_path: Path) -> None:
    folder = save(tiny("vit"), tmp_path / "vit")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "layernorm" not in name}, folder / "model.safetensors")
    with pytest.raises(UserError, match="tensors are missing from its weights"):
        huggingface_model(3, name=str(folder))


def test_what_is_no_image_classifier_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="as an image classifier"):
        huggingface_model(3, name=str(tmp_path))
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="as an image classifier"):
        huggingface_model(3, name=str(tmp_path / "bert"), pretrained=False)


@pytest.mark.parametrize(
    ("preprocessor", "mean", "std", "size"),
    [
        ({"do_normalize": False}, 0.0, 1.0, 32),
        # EfficientNet's: pixels of -1 to 1, then normalized.
        (
            {"rescale_factor": 2 / 255, "rescale_offset": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3},
            0.75,
            0.125,
            32,
        ),
        ({"size": {"shortest_edge": 48}, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}, 0.1, 0.2, 48),
        ({"size": 48, "crop_size": 40, "do_center_crop": True, "do_normalize": False}, 0.0, 1.0, 40),
    ],
)
def test_the_preprocessor_is_read(
    preprocessor: dict[str, object], mean: float, std: float, size: int, tmp_path: Path
) -> None:
    folder = save(tiny("vit"), tmp_path / "vit", **preprocessor)
    spec = huggingface_model(3, name=str(folder)).input_spec
    assert spec.mean == pytest.approx((mean,) * 3)
    assert spec.std == pytest.approx((std,) * 3)
    assert spec.size == size


def hub_cache(network: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, *, name: str) -> dict[str, torch.Tensor]:
    """Put a network where one of that name would lie after a download; returns its weights."""
    commit = "0" * 40
    repository = folder / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    save(network, repository / "snapshots" / commit, **HALVES)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return load_file(repository / "snapshots" / commit / "model.safetensors")


def test_a_name_is_found_in_the_local_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = hub_cache(tiny("vit"), tmp_path, monkeypatch, name="some/vit-tiny")
    built = huggingface_model(NUM_LABELS, name="some/vit-tiny")
    assert torch.equal(built.network.state_dict()["model.classifier.weight"], weights["classifier.weight"])
    assert built.architecture == "some/vit-tiny"
    with pytest.raises(UserError, match="some/other: it cannot be loaded as an image classifier"):
        huggingface_model(3, name="some/other")


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("kind", ["vit", "swin", "convnext", "resnet"])
def test_every_layer_is_in_training_mode(kind: str, pretrained: bool, tmp_path: Path) -> None:
    folder = save(tiny(kind), tmp_path / kind, **HALVES)
    built = huggingface_model(3, name=str(folder), pretrained=pretrained)
    assert all(module.training for module in built.network.modules())


@pytest.mark.usefixtures("quick_runs")
def test_batch_norm_learns_in_a_run_from_trained_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    split_folder: Path,
    train_here: Callable[[list[str]], Path],
) -> None:
    before = hub_cache(tiny("resnet"), tmp_path / "hub", monkeypatch, name="some/resnet-tiny")
    parts = ["model=huggingface", "model.name=some/resnet-tiny", "callbacks=[checkpoint]", "data.image_size=32"]
    parts += ["transfer=full", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
    run = train_here([f"data.root={split_folder}", *parts])
    after = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    norms = [name for name in before if name.endswith("running_mean")]
    assert norms
    learnt = {name: next(value for key, value in after.items() if key.endswith(f".model.{name}")) for name in norms}
    assert not any(torch.equal(before[name], learnt[name]) for name in norms)


def test_a_folder_means_the_same_wherever_a_run_is_taken_up_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    words = ["data.root=/x", "model=huggingface"]
    model = compose(entry("verb", "train"), [*words, "model.name=mine"])["model"]
    assert model.keywords["name"] == str(tmp_path / "mine")
    model = compose(entry("verb", "train"), [*words, "model.name=google/vit-base-patch16-224-in21k"])["model"]
    assert model.keywords["name"] == "google/vit-base-patch16-224-in21k"


def test_the_extra_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="optional extra 'transformers'"):
        entry("model", "huggingface").build({"name": "some/name"})
