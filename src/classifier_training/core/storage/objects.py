"""Objects of remote stores: listed with their sizes and ETags, and fetched many at a time, with retries.

S3 and servers of its protocol, Google Cloud Storage, Azure and HTTP are read through obstore, Hugging Face through
huggingface_hub (`core/storage/stores.py`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from classifier_training.core.errors import UserError, plural
from classifier_training.core.storage.cache import Listed, contents, hash_text, listings
from classifier_training.core.storage.places import url_of
from classifier_training.core.storage.stores import RefusedError, WritableStore, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

    from classifier_training.core.storage.stores import Object, Store

log = logging.getLogger(__name__)

Result = TypeVar("Result")

CONCURRENT = 32
"""Requests at a time: with 20 ms of latency, 1,600 small files a second."""

PATIENCE = 120.0
"""Seconds for which a file is asked for again before the run stops."""

LIST_PATIENCE = 30.0
"""The same for a listing, which is the first that a mistyped address meets."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two tries: a random part of 0.2, then of twice as long each time (full jitter)."""

TOLD_SECONDS = 60.0
"""Least time between two warnings about one store."""


class CutError(OSError):
    """A body that is shorter or longer than the listing says."""


def split_url(url: str) -> tuple[str, str]:
    """Split a URL into its store (scheme with bucket, container, host or repository) and the path in it."""
    scheme, _, rest = url_of(url).partition("://")
    number = 1
    if scheme == "hf":
        number = 3 if rest.startswith(("datasets/", "spaces/")) else 2
    parts = rest.split("/", number)
    return f"{scheme}://{'/'.join(parts[:number])}", parts[number] if len(parts) > number else ""


def read_many(urls: Sequence[str]) -> list[bytes | OSError]:
    """Return the contents of remote files, from this disk where they are kept; see `places.read_many`."""
    urls = [url_of(url) for url in urls]
    known = listings.find(urls)
    kept = contents()
    found: list[bytes | OSError | None] = [kept.get(url, listed) for url, listed in zip(urls, known, strict=True)]
    missing = [place for place, content in enumerate(found) if content is None]
    if missing:
        fetched = fetch([urls[place] for place in missing], [known[place] for place in missing])
        for place, (content, is_listed) in zip(missing, fetched, strict=True):
            found[place] = content
            if is_listed and isinstance(content, bytes):
                kept.put(urls[place], known[place], content)
    return found  # type: ignore[return-value] # nothing is missing


def fetch(urls: Sequence[str], known: Sequence[Listed | None]) -> list[tuple[bytes | OSError, bool]]:
    """Fetch files at the same time.

    Args:
        urls: of the files.
        known: what a listing says of each, where there is one.

    Returns:
        The content, or the error of a file that is missing; and whether it may be the version that is listed.

    Raises:
        UserError: when a store does not answer, refuses, or answers with fewer bytes than were listed.
    """

    async def fetch_all() -> list[tuple[bytes | OSError, bool]]:
        free = asyncio.Semaphore(CONCURRENT)

        async def fetch_one(url: str, listed: Listed | None) -> tuple[bytes | OSError, bool]:
            async with free:
                return await _fetch(url, listed or Listed())

        return await asyncio.gather(*(fetch_one(url, listed) for url, listed in zip(urls, known, strict=True)))

    return _wait_for(fetch_all())


def is_folder(url: str) -> bool:
    """Whether there is a file below a URL.

    Raises:
        UserError: see `list_objects`.
    """
    return next(list_objects(url), None) is not None


async def _fetch(url: str, listed: Listed) -> tuple[bytes | OSError, bool]:
    base, key = split_url(url)
    store = _open(base, os.getpid())
    deadline = time.monotonic() + PATIENCE
    for number in range(1, 1_000_000):
        try:
            content, version = await store.get(key)
            if listed.version and version and hash_text(version) != listed.version:
                _tell(base, f"{url} has changed since it was listed; it is used as it is now")
                return content, False
            if listed.num_bytes not in (None, len(content)):
                raise CutError(None, f"{len(content):,} bytes came, and {listed.num_bytes:,} are listed")
        except FileNotFoundError as error:
            return FileNotFoundError(error.errno, "no such file", url), False
        except OSError as error:
            await asyncio.sleep(_pause(base, url, error, number, deadline))
        else:
            return content, True
    raise AssertionError


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
    _tell(base, f"{base}: {reason}; trying again")
    return pause


_told: dict[str, float] = {}


def _tell(base: str, words: str) -> None:
    now = time.monotonic()
    if now - _told.get(base, -TOLD_SECONDS) >= TOLD_SECONDS:
        _told[base] = now
        log.warning("%s", words)


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
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
