"""Counts what is inside of the server, and refuses what would be too much."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

    from classifier_training.service.settings import Limits

MB = 1_000_000


class Gate:
    """Counts what is inside, and refuses what would be too much.

    Args:
        limits: what may be inside.

    Attributes:
        images: that are being answered or wait.
        bytes: of bodies.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.images = 0
        self.bytes = 0
        self.seconds_per_image = 0.0

    @contextmanager
    def admit(self, number: int) -> Iterator[None]:
        """Let images in for the time of the block.

        Raises:
            HTTPException: 413 for more than a request may have; 429 when the queue is full.
        """
        if number > self.limits.images:
            raise HTTPException(413, f"{number} images: a request may have {self.limits.images}")
        # A request of many is let in where there is nobody else, whatever the queue.
        if self.images and self.images + number > self.limits.queue:
            raise self._busy(f"{self.images} images are waiting")
        self.images += number
        try:
            yield
        finally:
            self.images -= number

    @asynccontextmanager
    async def body(self, request: Request, *, padding: int = 0) -> AsyncIterator[bytes]:
        """Read the body of a request, and hold it for the time of the block.

        Args:
            request: whose body is read.
            padding: zero bytes before it.

        Raises:
            HTTPException: 413, 415, 429 or 408; see `Limits`.
            ClientDisconnect: when the client has gone.
        """
        most = int(self.limits.body_mb * MB)
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            raise _too_large(most)
        if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
            raise HTTPException(415, f"content-encoding {encoding}: bodies are taken as they are, uncompressed")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for chunk in request.stream():
                    if size + len(chunk) > most:
                        raise _too_large(most)
                    if self.bytes + len(chunk) > self.limits.memory_mb * MB:
                        raise self._busy("too many requests are being received")
                    self.bytes += len(chunk)
                    size += len(chunk)
                    chunks.append(chunk)
            chunks = [b"".join([bytes(padding), *chunks])]
            yield chunks[0]
        except TimeoutError:
            raise HTTPException(
                408, f"the body did not arrive within {self.limits.seconds:g} s", {"connection": "close"}
            ) from None
        finally:
            self.bytes -= size

    def note(self, number: int, seconds: float) -> None:
        """Learn how long images take in the model."""
        self.seconds_per_image += 0.1 * (seconds / number - self.seconds_per_image)

    def _busy(self, reason: str) -> HTTPException:
        seconds = max(1, math.ceil(self.images * self.seconds_per_image))
        return HTTPException(429, f"{reason}; try again in {seconds} s", {"retry-after": str(seconds)})


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {most:,} bytes")
