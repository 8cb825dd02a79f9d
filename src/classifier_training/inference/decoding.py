"""From items to the network's inputs: decoded in threads ahead of the model, in order, in bounded memory."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from classifier_training.core.images import MAX_PIXELS, UnreadableImageError
from classifier_training.core.runtime import num_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.inference.sources import Item


class Decoded(NamedTuple):
    """An item, and either its input, float32 [3, H, W], or the reason why there is none."""

    item: Item
    tensor: NDArray[np.float32] | None
    error: str | None


def decode(items: Iterable[Item], preprocessing: Preprocessing, *, ahead: int) -> Iterator[Decoded]:
    """Yield items decoded, in their order.

    Args:
        items: what to decode.
        preprocessing: from pixels to input.
        ahead: items that are decoded before they are asked for.
    """
    remaining = iter(items)
    first = list(islice(remaining, 2))
    if len(first) < 2:
        # Threads would only cost a single image their start.
        yield from (decode_one(item, preprocessing) for item in first)
        return
    pool = ThreadPoolExecutor(num_cores(), "decode")
    waiting: deque[Future[Decoded]] = deque()
    try:
        for item in chain(first, remaining):
            waiting.append(_submit(pool, item, preprocessing))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def decode_one(item: Item, preprocessing: Preprocessing) -> Decoded:
    """Decode one item; whatever is wrong with it becomes its error."""
    if item.error is not None:
        return Decoded(item, None, item.error)
    try:
        image = preprocessing.read(item.path) if item.pixels is None else Image.fromarray(item.pixels)
        return Decoded(item, fit(image, preprocessing), None)
    except UnreadableImageError as error:
        return Decoded(item, None, error.reason)
    except MemoryError:
        return Decoded(item, None, "does not fit into memory")


def fit(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return the network's input for an upright RGB picture, float32 [3, H, W].

    Raises:
        UnreadableImageError: for a picture so long and thin that it becomes huge before it is cut.
    """
    place = preprocessing.geometry(image.height, image.width)
    if place.height * place.width > MAX_PIXELS:
        raise UnreadableImageError("", f"{image.width} x {image.height} pixels are too long and thin to be cropped")
    return preprocessing.tensor(image)


def _submit(pool: ThreadPoolExecutor, item: Item, preprocessing: Preprocessing) -> Future[Decoded]:
    if item.pixels is None:
        return pool.submit(decode_one, item, preprocessing)
    # Frames come decoded and large; waiting for a thread, they would fill the memory.
    done: Future[Decoded] = Future()
    done.set_result(decode_one(item, preprocessing)._replace(item=replace(item, pixels=None)))
    return done
