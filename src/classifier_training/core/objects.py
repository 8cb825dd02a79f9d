"""Objects of remote stores: listed with their sizes and ETags, and fetched many at a time, with retries.

S3 and servers of its protocol, Google Cloud Storage, Azure and HTTP are read through obstore, Hugging Face through
huggingface_hub (`core/stores.py`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from classifier_training.core.errors import UserError, plural
from classifier_training.core.places import url_of
from classifier_training.core.stores import RefusedError, WritableStore, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

    from classifier_training.core.stores import Object, Store

log = logging.getLogger(__name__)

Result = TypeVar("Result")

CONCURRENT = 32
"""Requests at a time: with 20 ms of latency, 1,600 small files a second."""

PATIENCE = 120.0
"""Seconds for which a file is asked for again before the run stops."""

LIST_PATIENCE = 30.0
"""The same for a listing, which is the first that a mistyped address meets."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds between two tries: a random part of 0.2, then of twice as long each time (full jitter)."""

TOLD_SECONDS = 60.0
"""Least time between two warnings about one store."""


class CutError(OSError):
    """A body that is shorter or longer than the listing says."""


class ChangedError(OSError):
    """A file that is no longer the one that was listed."""


def split_url(url: str) -> tuple[str, str]:
    """Split a URL into its store (scheme with bucket, container, host or repository) and the path in it."""
    scheme, _, rest = url_of(url).partition("://")
    number = 1
    if scheme == "hf":
        number = 3 if rest.startswith(("datasets/", "spaces/")) else 2
    parts = rest.split("/", number)
    return f"{scheme}://{'/'.join(parts[:number])}", parts[number] if len(parts) > number else ""


def read_many(urls: Sequence[str]) -> list[bytes | OSError]:
    """Return the contents of remote files; see `places.read_many`."""
    return fetch([url_of(url) for url in urls])


def fetch(urls: Sequence[str], listed: Sequence[Object | None] | None = None) -> list[bytes | OSError]:
    """Fetch the contents of files at the same time; one that is missing has an error in its place.

    Args:
        urls: of the files.
        listed: what a listing says of each, where there is one.

    Raises:
        UserError: when a store does not answer, refuses, or answers with something else than was listed.
    """
    known = listed or [None] * len(urls)
    deadline = time.monotonic() + PATIENCE

    async def fetch_all() -> list[bytes | OSError]:
        free = asyncio.Semaphore(CONCURRENT)

        async def fetch_one(url: str, expected: Object | None) -> bytes | OSError:
            async with free:
                return await _fetch(url, expected, deadline)

        return await asyncio.gather(*(fetch_one(url, expected) for url, expected in zip(urls, known, strict=True)))

    return _wait_for(fetch_all())


async def _fetch(url: str, expected: Object | None, deadline: float) -> bytes | OSError:
    base, key = split_url(url)
    store = _open(base, os.getpid())
    for number in range(1, 1_000_000):
        try:
            content, version = await store.get(key)
            if expected is not None:
                _compare(url, expected, len(content), version)
        except FileNotFoundError as error:
            return FileNotFoundError(error.errno, "no such file", url)
        except OSError as error:
            await asyncio.sleep(_pause(base, url, error, number, deadline))
        else:
            return content
    raise AssertionError


def _compare(url: str, expected: Object, num_bytes: int, version: str) -> None:
    if expected.version and version and version != expected.version:
        raise ChangedError(None, "the file has changed since it was listed", url)
    if expected.num_bytes not in (None, num_bytes):
        raise CutError(None, f"{num_bytes:,} bytes came, and {expected.num_bytes:,} are listed", url)


def list_objects(url: str) -> Iterator[Object]:
    """Yield every file below a URL, by one request for each 1,000 of them.

    Raises:
        UserError: when the store does not answer or refuses.
    """
    base, prefix = split_url(url)
    store = _open(base, os.getpid())
    deadline, number, last = time.monotonic() + LIST_PATIENCE, 1, ""
    while True:
        try:
            for found in store.list(prefix.strip("/"), after=last):
                yield found
                deadline, number, last = time.monotonic() + LIST_PATIENCE, 1, found.key
        except OSError as error:
            time.sleep(_pause(base, url, error, number, deadline))
            number += 1
        else:
            return


def write(url: str, content: bytes | Path) -> None:
    """Write a file, whole or not at all.

    Args:
        url: of the file.
        content: of it, or the local file that has it.

    Raises:
        UserError: when the store does not answer or refuses.
    """
    _change(url, lambda store, key: store.put(key, content))


def remove_all(url: str) -> None:
    """Remove every file below a URL.

    Raises:
        UserError: when the store does not answer or refuses.
    """
    keys = [found.key for found in list_objects(url)]
    _change(url, lambda store, _: store.delete(keys))


def _change(url: str, work: Callable[[WritableStore, str], Coroutine[Any, Any, None]]) -> None:
    base, key = split_url(url)
    store, deadline = _open(base, os.getpid()), time.monotonic() + PATIENCE
    if not isinstance(store, WritableStore):
        raise UserError(
            f"{url}: cannot be written to", "a folder, or a bucket (s3://…, gs://…, az://…)", "output=/some/folder/"
        )
    for number in range(1, 1_000_000):
        try:
            return _wait_for(work(store, key))
        except OSError as error:
            time.sleep(_pause(base, url, error, number, deadline))
    raise AssertionError


def _pause(base: str, url: str, error: OSError, number: int, deadline: float) -> float:
    """Return the seconds before the next try.

    Raises:
        UserError: when another try is of no use, or the time is over.
    """
    reason = error.strerror or str(error) or type(error).__name__
    if isinstance(error, ChangedError):
        raise UserError(
            f"{url}: {reason}",
            "files that stay as they are while a command reads them",
            "start the command again, which lists the files anew",
        ) from error
    if isinstance(error, (FileNotFoundError, PermissionError, RefusedError)):
        raise UserError(
            f"{url}: {reason}", "a file or folder that may be read", _open(base, os.getpid()).remedy
        ) from error
    pause = random.uniform(0, min(FIRST_PAUSE * 2 ** min(number - 1, 10), LONGEST_PAUSE))  # noqa: S311 - no secret
    if time.monotonic() + pause > deadline:
        raise UserError(
            f"{url}: {reason}, in the last of {plural(number, 'try', 'tries')}",
            "a store that answers with the file as it is listed",
            f"check the network and the store ({_open(base, os.getpid()).where}), then start again; "
            "train resume=RUN resumes a run",
        ) from error
    _tell(base, reason)
    return pause


_told: dict[str, float] = {}


def _tell(base: str, reason: str) -> None:
    now = time.monotonic()
    if now - _told.get(base, -TOLD_SECONDS) >= TOLD_SECONDS:
        _told[base] = now
        log.warning("%s: %s; trying again, for up to %.0f s", base, reason, PATIENCE)


@functools.cache
def _open(base: str, _process: int) -> Store:
    """Open a store once in each process: its connections do not survive a fork."""
    return open_store(base)


def _wait_for(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine, in a thread of its own where this one has a running loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    results: list[Callable[[], Result]] = []

    def run() -> None:
        try:
            result = asyncio.run(work)
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            results.append(lambda error=error: _raise(error))  # type: ignore[misc]
        else:
            results.append(lambda: result)

    thread = threading.Thread(target=run, name="remote", daemon=True)
    thread.start()
    thread.join()
    return results[0]()


def _raise(error: BaseException) -> Any:
    raise error
