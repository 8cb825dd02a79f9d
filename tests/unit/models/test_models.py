from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import draw_picture

from classifier_training.core.errors import UserError
from classifier_training.models.resnet import ResNet18, ResNet50
from classifier_training.models.summary import summarize
from classifier_training.models.timm_models import timm_model


def test_the_head_fits_the_classes() -> None:
    built = ResNet18(dropout=0.5)(7)
    assert built.network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert (built.architecture, built.pretrained, built.input_spec.size) == ("resnet18", False, 224)


def test_timm_networks_say_what_they_want_to_see() -> None:
    built = timm_model(4, name="test_resnet")
    assert built.network(torch.zeros(2, 3, 64, 64)).shape == (2, 4)
    assert built.input_spec.size == 160
    assert timm_model(2, name="timm/test_resnet.r160_in1k").architecture == "test_resnet.r160_in1k"


def test_a_wrong_timm_name_gets_the_nearest_ones() -> None:
    with pytest.raises(UserError) as caught:
        timm_model(2, name="mobilnetv4_conv_small")
    assert caught.value.remedy == "model.name=mobilenetv4_conv_small"
    with pytest.raises(UserError, match="Invalid pretrained tag") as caught:
        timm_model(2, name="resnet18.zzz")
    assert caught.value.remedy == "model.name=resnet18"
    assert "resnet18.a1_in1k" in caught.value.expected


def test_a_setting_that_the_network_does_not_have_is_named() -> None:
    with pytest.raises(UserError, match="drop_path_rate"):
        timm_model(2, name="vgg11", drop_path=0.1)


def test_pretrained_weights_are_taken_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(3)
    source = resnet18()
    file = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(source.state_dict(), file)
    built = ResNet18(pretrained=True)(5)
    assert built.pretrained
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
    with pytest.raises(UserError, match="could not be fetched") as caught:
        ResNet18(pretrained=True)(5)
    assert "fetching" in caplog.text
    assert capfd.readouterr() == ("", "")
    assert "model.weights=" in caught.value.remedy
    assert "resnet18-" in caught.value.expected
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(UserError, match=r"could not be fetched \(Connect"):
        timm_model(5, name="test_resnet", pretrained=True)
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
    built = timm_model(3, name="test_resnet", pretrained=True)
    expected = source.state_dict()
    loaded = {name: value for name, value in built.network.state_dict().items() if "fc" not in name}
    assert len(loaded) > 10
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_file_are_loaded_and_a_head_for_other_classes_is_not(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(3)
    source = ResNet18()(10).network
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_file(source.state_dict(), path)
    same, other = ResNet18(weights=str(path))(10), ResNet18(weights=str(path))(4)
    assert torch.equal(same.network.fc.weight, source.fc.weight)  # type: ignore[arg-type, union-attr]
    assert torch.equal(other.network.conv1.weight, source.conv1.weight)  # type: ignore[arg-type, union-attr]
    assert other.network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    with pytest.raises(UserError, match="another network"):
        ResNet50(weights=str(path))(10)


def test_weight_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"xx")
    torch.save([1, 2], tmp_path / "b.pth")
    draw_picture(tmp_path / "d.png", (1, 2, 3), seed=0)
    for name, words in (
        ("a.safetensors", "cannot be read"),
        ("b.pth", "no table"),
        ("c.pth", "no such file"),
        ("d.png", "no PyTorch file"),
    ):
        with pytest.raises(UserError, match=words):
            ResNet18(weights=str(tmp_path / name))(2)
    with pytest.raises(UserError, match="two starts"):
        ResNet18(weights="x", pretrained=True)(2)


def test_the_summary_counts_what_is_known_of_resnet18() -> None:
    summary = summarize(ResNet18()(1000).network, architecture="resnet18", image_size=224)
    assert summary.num_parameters == 11_689_512
    # He et al. 2016, table 1, counts 1.8e9 multiply-adds.
    assert summary.num_flops == pytest.approx(2 * 1.8e9, rel=0.02)
    assert sum(row.num_parameters for row in summary.layers) == summary.num_parameters
    assert sum(row.num_flops for row in summary.layers) == summary.num_flops
    assert summary.layers[0].output_shape == (64, 112, 112)
    assert "layer4.1.conv2" in summary.to_text()
