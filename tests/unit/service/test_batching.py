"""Which inputs go through the model together, and when."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier_training.inference.predictor import Outputs
from classifier_training.service.batching import Batcher

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Model:
    """Gives the sum of each input, once it may."""

    def __init__(self, *, novelty: bool = True) -> None:
        self.batches: list[int] = []
        self.may = threading.Event()
        self.may.set()
        self._novelty = novelty

    def __call__(self, inputs: NDArray[np.float32]) -> Outputs:
        assert self.may.wait(10)
        self.batches.append(len(inputs))
        if np.isnan(inputs).any():
            raise ValueError("not a number")
        sums = inputs.sum(axis=(1, 2, 3))
        return Outputs(np.stack([sums, -sums], axis=1), sums if self._novelty else None)


def batcher(model: Model, **settings: float) -> Batcher:
    values = {"max_batch": 4, "max_wait_s": 5, "num_runs": 1, **settings}
    return Batcher(model, ended=lambda *_: None, **values)  # type: ignore[arg-type]


def inputs(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("novelty", [True, False])
def test_what_waits_for_the_model_is_one_batch_and_everyone_gets_their_own(*, novelty: bool) -> None:
    model = Model(novelty=novelty)

    async def main() -> list[Outputs]:
        made = batcher(model)
        model.may.clear()
        first = asyncio.create_task(made.infer(inputs(0)))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(made.infer(inputs(*values))) for values in ((1, 2), (3,), (4, 5), (6,))]
        await asyncio.sleep(0.05)
        model.may.set()
        return await asyncio.gather(first, *rest)

    found = asyncio.run(main())
    # The first alone; then 1 + 2 images, as the next two would not fit; then the rest.
    assert model.batches == [1, 3, 3]
    assert [one.logits[:, 0].tolist() for one in found] == [[0], [1, 2], [3], [4, 5], [6]]
    assert [None if one.novelty is None else one.novelty.tolist() for one in found] == (
        [[0], [1, 2], [3], [4, 5], [6]] if novelty else [None] * 5
    )


def test_more_than_a_batch_is_taken_apart_and_put_together_again() -> None:
    model = Model()
    found = asyncio.run(_alone(model, inputs(*range(10))))
    assert model.batches == [4, 4, 2]
    assert found.logits[:, 0].tolist() == list(range(10))


async def _alone(model: Model, given: NDArray[np.float32]) -> Outputs:
    return await batcher(model).infer(given)


def test_an_image_alone_does_not_wait_and_one_with_company_does() -> None:
    model = Model()

    async def main() -> None:
        made = batcher(model)
        async with asyncio.timeout(2):
            await made.infer(inputs(1))
        with made.coming():
            waiting = asyncio.create_task(made.infer(inputs(1)))
            await asyncio.sleep(0.1)
            assert model.batches == [1]
            # A full batch begins whoever else is coming.
            await made.infer(inputs(2, 3, 4))
            await waiting
            assert model.batches == [1, 4]
            waiting = asyncio.create_task(made.infer(inputs(1)))
            await asyncio.sleep(0.05)
            assert not waiting.done()
        async with asyncio.timeout(2):
            await waiting

    asyncio.run(main())
    assert model.batches == [1, 4, 1]


def test_company_that_does_not_come_is_not_waited_for_longer_than_told() -> None:
    model = Model()

    async def main() -> float:
        made = batcher(model, max_wait_s=0.1)
        with made.coming():
            began = asyncio.get_running_loop().time()
            async with asyncio.timeout(5):
                await made.infer(inputs(1))
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(main()) >= 0.09


def test_an_error_reaches_those_of_its_batch_alone_and_the_next_go_on() -> None:
    model = Model()

    async def main() -> None:
        made = batcher(model, max_batch=1)
        bad, good = await asyncio.gather(made.infer(inputs(np.nan)), made.infer(inputs(7)), return_exceptions=True)
        assert isinstance(bad, ValueError)
        assert isinstance(good, Outputs)
        assert good.logits.tolist() == [[7, -7]]

    asyncio.run(main())


def test_who_has_gone_does_not_disturb_the_others_of_the_batch() -> None:
    model = Model()

    async def main() -> None:
        made = batcher(model)
        model.may.clear()
        first = asyncio.create_task(made.infer(inputs(0)))
        await asyncio.sleep(0.02)
        gone, stays = (asyncio.create_task(made.infer(inputs(value))) for value in (1, 2))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        model.may.set()
        await first
        assert (await stays).logits.tolist() == [[2, -2]]

    asyncio.run(main())
