from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.models import torchvision_models
from classifier_training.models.head import class_layers, drop_before
from classifier_training.models.meta import on_meta
from classifier_training.models.torchvision_models import torchvision_model, torchvision_names


@pytest.mark.parametrize(
    ("name", "head", "image_size"),
    [
        ("shufflenet_v2_x0_5", "fc", 32),
        ("mobilenet_v3_small", "classifier.3", 32),
        ("squeezenet1_1", "classifier.1", 32),
        ("swin_t", "head", 32),
        ("vit_b_32", "heads.head", 224),
    ],
)
def test_the_head_is_found_wherever_it_stands(name: str, head: str, image_size: int) -> None:
    with torch.device("meta"):
        network = torchvision_model(7, name=name, dropout=0.4, pretrained=False).network.train()
        assert network(torch.empty(2, 3, image_size, image_size)).shape == (2, 7)
        assert class_layers(lambda number: torchvision_model(number, name=name, pretrained=False).network) == (head,)
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)][-1] == 0.4


@pytest.mark.nightly
@pytest.mark.parametrize("name", torchvision_names())
def test_every_classifier_answers_with_logits_alone(name: str) -> None:
    built = on_meta(lambda: torchvision_model(7, name=name, pretrained=False))
    with torch.device("meta"):
        built.network.to("meta")
        for network in (built.network.train(), built.network.eval()):
            side = built.input_spec.size
            assert network(torch.empty(2, 3, side, side)).shape == (2, 7)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_second_outputs_are_left_out(name: str, recwarn: pytest.WarningsRecorder) -> None:
    with torch.device("meta"):
        built = torchvision_model(7, name=name, pretrained=False)
        assert built.network.train()(torch.empty(2, 3, 299, 299)).shape == (2, 7)
    assert built.input_spec.mean == (0.5, 0.5, 0.5)
    assert built.input_spec.size == (299 if name == "inception_v3" else 224)
    assert not recwarn.list


def test_published_weights_of_a_network_with_second_outputs_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import GoogLeNet_Weights, googlenet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(3)
    source = googlenet(init_weights=False).eval()
    file = tmp_path / "hub" / "checkpoints" / GoogLeNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(source.state_dict(), file)
    built = torchvision_model(1000, name="googlenet", pretrained=True)
    # What the network sees after its own preprocessing is what torchvision's transform makes of ImageNet's.
    pixels = torch.rand(2, 3, 64, 64)
    source.transform_input = True
    usual = GoogLeNet_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (usual.mean, usual.std))
    spec = built.input_spec
    own_mean, own_std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))
    with torch.no_grad():
        expected = source((pixels - mean) / std)
        found = built.network.eval()((pixels - own_mean) / own_std)
    assert torch.allclose(found, expected, atol=1e-4)


def in_the_cache(home: Path, url: str) -> Path:
    file = home / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    return file


@pytest.mark.parametrize("name", ["densenet121", "mnasnet0_5", "shufflenet_v2_x0_5"])
def test_published_weights_are_taken_whatever_their_tensors_were_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import get_model, get_model_weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = get_model(name, weights=None)
    state = source.state_dict()
    if name.startswith("densenet"):
        # As the published files have them: norm.1 for norm1, and no counts of batches.
        for key in list(state):
            new = re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key)
            state[new] = state.pop(key)
            if new.endswith("num_batches_tracked"):
                del state[new]
        del state._metadata
    torch.save(state, in_the_cache(tmp_path, get_model_weights(name)["IMAGENET1K_V1"].url))
    built = torchvision_model(1000, name=name, pretrained=True)
    for (key, expected), found in zip(source.state_dict().items(), built.network.state_dict().values(), strict=True):
        assert torch.equal(expected, found), key


def test_a_pickle_in_the_cache_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "canary",)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"conv1.weight": Payload()}, in_the_cache(tmp_path, ResNet18_Weights.IMAGENET1K_V1.url))
    with pytest.raises(UserError, match="contains more than tensors"):
        torchvision_model(3, name="resnet18", pretrained=True)
    assert not (tmp_path / "canary").exists()


def test_a_wrong_name_gets_the_nearest_ones() -> None:
    with pytest.raises(UserError, match="no classifier of that name") as caught:
        torchvision_model(2, name="convnext_tinny", pretrained=False)
    assert caught.value.remedy == "model.name=convnext_tiny"
    with pytest.raises(UserError, match="no weights of that name for resnet50") as caught:
        torchvision_model(2, name="resnet50.IMAGENET1K_V3", pretrained=False)
    assert "IMAGENET1K_V2" in caught.value.expected


def test_the_input_is_that_of_the_published_weights() -> None:
    with torch.device("meta"):
        assert torchvision_model(2, name="efficientnet_b1", pretrained=False).input_spec.size == 240
        assert torchvision_model(2, name="efficientnet_v2_s", pretrained=False).input_spec.size == 384


def test_a_network_is_built_for_the_size_that_its_weights_were_trained_on() -> None:
    architecture, published = torchvision_models._find("vit_b_16.IMAGENET1K_SWAG_E2E_V1")
    with torch.device("meta"):
        network = torchvision_models._create(architecture, published, 3)
        assert network(torch.zeros(1, 3, 384, 384)).shape == (1, 3)


def test_a_network_that_reads_values_while_it_is_built_is_built() -> None:
    built = torchvision_model(2, name="regnet_x_400mf", dropout=0.2, pretrained=False)
    assert built.network(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def test_a_dropout_that_stands_before_the_head_is_set_and_no_second_one_is_added() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    drop_before(network, ("2",), 0.1)
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.1]
    bare = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    drop_before(bare, ("1",), 0.0)
    assert not [layer for layer in bare.modules() if isinstance(layer, nn.Dropout)]
