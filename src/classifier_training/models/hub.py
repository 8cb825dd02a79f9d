"""The Hugging Face hub, asked once and quietly."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_SECONDS = 10.0


@contextmanager
def hub_access() -> Iterator[Exception | None]:
    """Let the hub's client work; without a connection it looks into its cache alone.

    The client would ask again and again, for most of a minute, and write a warning each time.

    Yields:
        Why there is no connection; None when there is one.
    """
    from huggingface_hub import constants

    error = _connection_error(constants.ENDPOINT)
    logger = logging.getLogger("huggingface_hub")
    level, offline = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = offline or error is not None
    try:
        yield error
    finally:
        logger.setLevel(level)
        constants.HF_HUB_OFFLINE = offline


def _connection_error(address: str) -> Exception | None:
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=CONNECT_SECONDS)
    except Exception as error:  # noqa: BLE001 - the client's HTTP library has changed before
        return error
    return None
