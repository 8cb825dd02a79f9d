from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression
from tests.unit.training.test_module import batches, make
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.training import linear_head as fitting
from classifier_training.training.device import Device
from classifier_training.training.linear_head import (
    Features,
    ends_linear,
    extract_features,
    fit_linear_head,
    head_logits,
    linear_head,
)

CPU = Device("cpu", "32-true", channels_last=False, words="")


def clouds(number: int, seed: int) -> Features:
    """Three overlapping clouds in 6 dimensions of different spread; the first class is the most frequent."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(torch.tensor([0.8, 0.1, 0.1]), number, replacement=True, generator=generator)
    values = torch.randn(number, 6, generator=generator)
    values[:, :3] += 1.5 * nn.functional.one_hot(targets, 3)
    return Features(values * torch.tensor([1, 10, 0.1, 1, 5, 0.0]) + 3, targets, torch.arange(number))


def balanced(targets: torch.Tensor) -> torch.Tensor:
    return 1 / torch.bincount(targets, minlength=3).float()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_head_is_that_of_scikit_learn(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = clouds(400, 0), clouds(100, 1)
    monkeypatch.setattr(fitting, "PENALTIES", (0.1,))
    weights = balanced(train.targets) if weighted else None
    head = fit_linear_head(train, val, class_weights=weights, num_classes=3, has_bias=True)
    samples = np.ones(400) / 400 if weights is None else weights[train.targets].numpy()
    spread = train.values.std(dim=0, correction=0).numpy()
    spread[5] = 1
    peer = LogisticRegression(C=1 / 0.1, tol=1e-8, max_iter=5000)
    mean = train.values.mean(dim=0).numpy()
    peer.fit((train.values.numpy() - mean) / spread, train.targets.numpy(), sample_weight=samples / samples.sum())
    expected = peer.predict_proba((val.values.numpy() - mean) / spread)
    assert head_logits(head.weight, head.bias, val.values).softmax(1).numpy() == pytest.approx(expected, abs=2e-3)
    assert not head.weight[:, 5].any()


@pytest.mark.parametrize(("limit", "value"), [("MAX_CHUNK", 3 * 60), ("MAX_HISTORY", 1)])
def test_a_head_for_much_data_is_the_same_with_less_memory(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = clouds(400, 0), clouds(100, 1)
    heads = []
    for _ in range(2):
        heads.append(fit_linear_head(train, val, class_weights=balanced(train.targets), num_classes=3, has_bias=True))
        monkeypatch.setattr(fitting, limit, value)
    assert heads[0].penalty == heads[1].penalty
    assert heads[1].logits(val.values).numpy() == pytest.approx(heads[0].logits(val.values).numpy(), abs=5e-3)


def test_the_penalty_is_the_strongest_with_a_low_loss_on_validation_and_weights_balance_the_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, val = clouds(400, 0), clouds(400, 1)
    monkeypatch.setattr(fitting, "MAX_FOLDED", 0)

    def fit(weights: torch.Tensor | None) -> fitting.LinearHead:
        return fit_linear_head(train, val, class_weights=weights, num_classes=3, has_bias=True)

    def recall(head: fitting.LinearHead) -> float:
        hits = head.logits(val.values).argmax(1) == val.targets
        return float(np.mean([hits[val.targets == one].float().mean().item() for one in range(3)]))

    plain, even = fit(None), fit(balanced(train.targets))
    assert recall(even) > recall(plain) + 0.05
    assert plain.loss == pytest.approx(nn.functional.cross_entropy(plain.logits(val.values), val.targets).item())
    losses = []
    for penalty in fitting.PENALTIES:
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "PENALTIES", (penalty,))
            losses.append(fit(None).loss)
    assert plain.loss < 1.02 * min(losses)
    assert max(losses) > 1.05 * plain.loss
    stronger = losses[: fitting.PENALTIES.index(plain.penalty)]
    assert stronger
    assert min(stronger) > plain.loss


def test_few_validation_images_do_not_choose_the_penalty_alone() -> None:
    train, val = clouds(100, 0), clouds(400, 1)
    # A single image, of the most frequent class and far out: the surer, the better.
    row = int((val.values[:, 0] - 10 * (val.targets != 0)).argmax())
    easy = Features(val.values[[row]], val.targets[[row]], val.indices[[row]])

    def fit(chooses: Features) -> fitting.LinearHead:
        return fit_linear_head(train, chooses, class_weights=None, num_classes=3, has_bias=True)

    assert fit(easy).penalty == pytest.approx(fit(val).penalty, rel=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "MAX_FOLDED", 0)
        assert fit(easy).penalty == min(fitting.PENALTIES)


def test_a_head_without_bias_and_one_of_convolution_are_written() -> None:
    train, val = clouds(100, 0), clouds(50, 1)
    head = fit_linear_head(train, val, class_weights=None, num_classes=3, has_bias=False)
    assert head.bias is None
    layer = nn.Conv2d(6, 3, 1, bias=False)
    head.write(layer)
    answers = layer(val.values[:, :, None, None]).flatten(1)
    # A convolution adds up in another order, by the number of threads.
    assert torch.allclose(answers, head_logits(head.weight, None, val.values), atol=1e-5)


def test_features_are_what_the_head_is_shown() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(5, 3)
    )
    module = make(network)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = extract_features(module, batches(), CPU, setting="transfer=lp_ft")
    assert found.values.shape == (12, 5)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module.eval()
    logits = torch.cat([module(batch.images) for batch in batches()])
    assert torch.allclose(network[5](found.values), logits, atol=1e-6)
    assert found.indices.tolist() == torch.cat([batch.indices for batch in batches()]).tolist()
    assert found.targets.tolist() == torch.cat([batch.targets for batch in batches()]).tolist()


def test_a_network_that_does_not_end_in_one_linear_layer_is_refused() -> None:
    with pytest.raises(UserError, match="head, head_dist"):
        linear_head(timm.create_model("deit_tiny_distilled_patch16_224", depth=1), setting="transfer=lp_ft")
    with pytest.raises(UserError, match="no layer that is known"):
        linear_head(nn.Flatten(), setting="transfer=lp_ft")
    scaled = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Softplus())
    assert not ends_linear(scaled, image_size=8)
    assert ends_linear(scaled[:2], image_size=8)
    assert not ends_linear(nn.Flatten(), image_size=8)
    with pytest.raises(UserError, match="retrain_head=true: the network does more"):
        extract_features(make(scaled), batches(), CPU, setting="retrain_head=true")
