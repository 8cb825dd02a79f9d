from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.conftest import draw_picture
from torch import nn

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.core.errors import UserError
from classifier_training.core.register import describe, entry, with_settings
from classifier_training.models.cost import summarize
from classifier_training.models.head import HEAD_STD, start_small
from classifier_training.models.timm_models import timm_model
from classifier_training.models.torchvision_models import ResNet18, ResNet50
from classifier_training.models.weights import load_weights_file, without_weights


def test_the_head_fits_the_classes() -> None:
    built = ResNet18(pretrained=False, dropout=0.5)(7)
    assert built.network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert (built.architecture, built.pretrained, built.input_spec.size) == ("resnet18", False, 224)


def test_timm_networks_say_what_they_want_to_see() -> None:
    built = timm_model(4, name="test_resnet", pretrained=False)
    assert built.network(torch.zeros(2, 3, 64, 64)).shape == (2, 4)
    assert built.input_spec.size == 160
    assert timm_model(2, name="timm/test_resnet.r160_in1k", pretrained=False).architecture == "test_resnet.r160_in1k"


def test_a_wrong_timm_name_gets_the_nearest_ones() -> None:
    with pytest.raises(UserError) as caught:
        timm_model(2, name="mobilnetv4_conv_small", pretrained=False)
    assert caught.value.remedy == "model.name=mobilenetv4_conv_small"
    with pytest.raises(UserError, match="Invalid pretrained tag") as caught:
        timm_model(2, name="resnet18.zzz", pretrained=False)
    assert caught.value.remedy == "model.name=resnet18"
    assert "resnet18.a1_in1k" in caught.value.expected


def test_a_setting_that_the_network_does_not_have_is_named() -> None:
    with pytest.raises(UserError, match="drop_path_rate"):
        timm_model(2, name="vgg11", drop_path=0.1, pretrained=False)


def test_pretrained_weights_are_taken_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(3)
    source = resnet18()
    file = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(source.state_dict(), file)
    built = ResNet18(pretrained=True)(5)
    assert built.weights is not None
    assert built.weights.name == "resnet18.IMAGENET1K_V1"
    assert built.weights.license is not None
    assert built.weights.license.startswith("BSD-3-Clause")
    assert file.name in built.weights.source
    assert torch.equal(built.network.layer4[1].conv2.weight, source.layer4[1].conv2.weight)  # type: ignore[index, union-attr]


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A proxy that nobody answers at."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    # The hub's client reads the proxies once, and is shared by all that runs in this process.
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


def test_weights_that_cannot_be_fetched_are_an_error_with_remedies(
    no_connection: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="the trained weights of resnet18 cannot be fetched") as caught:
        ResNet18()(5)
    assert "fetching" in caplog.text
    assert capfd.readouterr() == ("", "")
    for remedy in ("connect", "model=tf_efficientnet_lite0", "model.weights=", "model.pretrained=false"):
        assert remedy in caught.value.remedy
    assert "resnet18-" in caught.value.expected
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(UserError, match=r"test_resnet cannot be fetched \(Connect"):
        timm_model(5, name="test_resnet")
    assert time.monotonic() - started < 10
    assert "Retrying" not in caplog.text
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_timm_weights_come_from_a_local_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    source = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    commit = "0" * 40
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    save_file(source.state_dict(), repository / "snapshots" / commit / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    built = timm_model(3, name="test_resnet")
    assert built.weights is not None
    assert (built.weights.name, built.weights.license) == ("test_resnet.r160_in1k", "apache-2.0")
    assert "timm/test_resnet.r160_in1k" in built.weights.source
    expected = source.state_dict()
    loaded = {name: value for name, value in built.network.state_dict().items() if "fc" not in name}
    assert len(loaded) > 10
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_file_are_loaded_and_a_head_for_other_classes_is_not(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(3)
    source = ResNet18(pretrained=False)(10).network
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_file(source.state_dict(), path)
    same, other = ResNet18(weights=str(path))(10), ResNet18(weights=str(path))(4)
    assert torch.equal(same.network.fc.weight, source.fc.weight)  # type: ignore[arg-type, union-attr]
    assert torch.equal(other.network.conv1.weight, source.conv1.weight)  # type: ignore[arg-type, union-attr]
    assert other.network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert same.weights is not None
    assert other.weights is not None
    assert (same.weights.has_head, other.weights.has_head) == (True, False)
    assert str(same.weights) == f"weights.{suffix} (file {path}; license not stated)"
    with pytest.raises(UserError, match="another network"):
        ResNet50(weights=str(path))(10)


def test_weight_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"xx")
    torch.save([1, 2], tmp_path / "b.pth")
    draw_picture(tmp_path / "d.png", (1, 2, 3), seed=0)
    for name, words in (
        ("a.safetensors", "cannot be read"),
        ("b.pth", "contains no state_dict"),
        ("c.pth", "no such file"),
        ("d.png", "no PyTorch file"),
    ):
        with pytest.raises(UserError, match=words):
            ResNet18(weights=str(tmp_path / name))(2)
    with pytest.raises(UserError, match="only one of them can be loaded"):
        ResNet18(weights="x", pretrained=True)(2)


def test_a_network_without_trained_weights_starts_from_random_ones_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import timm

    caplog.set_level("INFO")
    name = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with torch.device("meta"):
        assert timm_model(2, name=name).weights is None
        assert f"model.name={name}: there are no trained weights of it; it starts from random ones" in caplog.text
        with pytest.raises(UserError, match="there are no trained weights") as caught:
            timm_model(2, name=name, pretrained=True)
    assert "model.weights=" in caught.value.remedy


@pytest.mark.parametrize("build", [ResNet18(), functools.partial(timm_model, name="test_resnet")])
def test_the_same_network_is_built_without_a_look_at_weights(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("timm_models.hub_access", "torchvision_models._load_published"):
        monkeypatch.setattr(f"classifier_training.models.{place}", lambda *_: pytest.fail("weights were looked for"))
    built = without_weights(build)(3)
    assert built.weights is None
    assert built.network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    named = with_settings(build, weights="/no/such/file", dropout=0.5)
    assert describe(without_weights(named))["dropout"] == 0.5
    # What has no such settings is as it was.
    plain = entry("model", "student").build({})
    assert without_weights(plain) is plain


def test_a_new_head_is_small_whatever_the_library_makes() -> None:
    networks = {
        "fc": ResNet18(pretrained=False)(4).network,
        "classifier": timm_model(4, name="tf_efficientnet_lite0", pretrained=False).network,
    }
    for name, network in networks.items():
        before = {key: value.clone() for key, value in network.state_dict().items()}
        start_small(network, 4)
        changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
        assert {f"{name}.weight"} <= changed <= {f"{name}.weight", f"{name}.bias"}
        head = network.get_submodule(name)
        assert isinstance(head.weight, torch.Tensor)
        assert head.weight.std().item() == pytest.approx(HEAD_STD, rel=0.1)
        assert not head.bias.any()  # type: ignore[operator]
    # A convolution that is no head, and a matrix that nobody trains.
    frozen = nn.Linear(4, 3).requires_grad_(requires_grad=False)
    kept = frozen.weight.clone()
    start_small(nn.Sequential(frozen), 3)
    assert torch.equal(frozen.weight, kept)


def test_the_summary_counts_what_is_known_of_resnet18() -> None:
    summary = summarize(ResNet18(pretrained=False)(1000).network, architecture="resnet18", image_size=224)
    assert summary.num_parameters == 11_689_512
    # He et al. 2016, table 1, counts 1.8e9 multiply-adds.
    assert summary.num_flops == pytest.approx(2 * 1.8e9, rel=0.02)
    assert sum(row.num_parameters for row in summary.layers) == summary.num_parameters
    assert sum(row.num_flops for row in summary.layers) == summary.num_flops
    assert summary.layers[0].output_shape == (64, 112, 112)
    text = summary.to_text()
    assert "layer4.1.conv2" in text
    assert "11,689,512 parameters (trainable: all; 44.6 MiB as float32)" in text
    some = summarize(ResNet18(pretrained=False)(4).network, architecture="x", image_size=64, num_trainable=2052)
    assert "11,178,564 parameters (trainable: 2,052 of 11.2 M; " in some.to_text()


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict"])
def test_weights_are_found_in_a_checkpoint_of_a_training_script(tmp_path: Path, name: str) -> None:
    source = timm.create_model("test_resnet", num_classes=7)
    path = tmp_path / "best.pth"
    torch.save({"epoch": 3, name: source.state_dict(), "class_names": ["a", "b"], "optimizer_state_dict": {}}, path)
    network = timm.create_model("test_resnet", num_classes=2)
    load_weights_file(network, str(path), head=("fc.",))
    kept = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    assert kept
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in kept.items())
