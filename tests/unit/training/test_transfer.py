from __future__ import annotations

import pytest
import torch
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.training.transfer import (
    AutoTransfer,
    FullFineTuning,
    LinearProbe,
    ProbeThenFineTune,
    ProgressiveUnfreezing,
    Transfer,
    choose_transfer,
    refuse_transfer,
)


def frozen(transfer: Transfer, num_epochs: int = 8) -> list[int]:
    return [transfer.num_frozen(epoch, 5) for epoch in range(num_epochs)]


def test_what_is_frozen_follows_from_the_epoch() -> None:
    assert frozen(FullFineTuning()) == frozen(ProbeThenFineTune(frozen_share=0)) == [0] * 8
    assert frozen(LinearProbe()) == [4] * 8
    assert frozen(ProbeThenFineTune()) == [1] * 8
    assert [ProbeThenFineTune().num_frozen(0, number) for number in (2, 3, 6, 9)] == [0, 1, 2, 3]
    assert frozen(ProgressiveUnfreezing()) == [4, 3, 2, 1, 0, 0, 0, 0]
    assert frozen(ProgressiveUnfreezing(head_epochs=2, every_epochs=3)) == [4, 4, 3, 3, 3, 2, 2, 2]
    assert frozen(ProgressiveUnfreezing(stages=2)) == [4, 3, 2, 2, 2, 2, 2, 2]
    assert frozen(ProgressiveUnfreezing(stages=99)) == [4, 3, 2, 1, 0, 0, 0, 0]


def test_a_transfer_without_effect_is_refused() -> None:
    refuse_transfer(FullFineTuning(), "tiny", is_trained=False, max_epochs=1)
    for transfer in (LinearProbe(), ProgressiveUnfreezing(), ProbeThenFineTune()):
        with pytest.raises(UserError, match="starts from random weights"):
            refuse_transfer(transfer, "tiny", is_trained=False, max_epochs=9)
    refuse_transfer(ProgressiveUnfreezing(head_epochs=2), "tiny", is_trained=True, max_epochs=3)
    refuse_transfer(AutoTransfer(), "tiny", is_trained=False, max_epochs=1)
    with pytest.raises(UserError, match="nothing but the head"):
        refuse_transfer(ProgressiveUnfreezing(head_epochs=3), "tiny", is_trained=True, max_epochs=3)


def test_auto_probes_where_there_is_something_to_probe() -> None:
    assert isinstance(choose_transfer(ends_linear=True), ProbeThenFineTune)
    assert isinstance(choose_transfer(ends_linear=False), FullFineTuning)


@pytest.mark.parametrize("fused", [True, False])
def test_weight_decay_leaves_frozen_weights_alone(fused: bool) -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    free = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.AdamW([weight, free], lr=0.1, weight_decay=0.5, fused=fused)
    weight.requires_grad_(False)
    (weight * free).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert torch.equal(weight, torch.ones(2, 2))
    assert not torch.equal(free, torch.ones(2, 2))
