"""Reads rows of Lance sets: the bytes of images by their paths, and the small columns.

A row's path is `SET.lance/PATH`, or `SET.lance/@7/PATH` for the row as version 7 of the set has it; without a version,
the newest counts. Lance is imported when the first set is opened, and each process opens its own: the threads of
Lance do not survive a fork.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from classifier_training.core.errors import UserError, first_line, require_extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

ENDING = ".lance"
PLACE = re.compile(r"(?P<root>.*?\.lance)(?:/@(?P<version>\d+))?(?:/(?P<path>.*))?", re.DOTALL)
SCHEME = re.compile(r"(s3|gs|az):/+")

METADATA_BYTES = 64 * 2**20
"""Most memory for what Lance keeps of a set's files. Its own limit is a gigabyte."""

DEFAULT_REGION = "us-east-1"


FACTS = np.dtype(
    [
        ("num_bytes", "<i8"), ("width", "<i4"), ("height", "<i4"), ("lacks_range", "?"), ("is_cut", "?"),
        ("sha256", "S32"),
    ]
)  # fmt: skip
"""What a set states of an image; see `images.Header` for the four in the middle."""


class SetPlace(NamedTuple):
    """A path that lies in a Lance set, or is one.

    Args:
        root: of the set: a local path or a URL.
        version: that the path names, if it does.
        path: of a row; empty for the set itself.
    """

    root: str
    version: int | None
    path: str

    @property
    def name(self) -> str:
        """The set and, if it is named, its version, as the root of a data set."""
        return self.root if self.version is None else f"{self.root}/@{self.version}"


def set_place(path: str | os.PathLike[str]) -> SetPlace | None:
    """Return what a path says of a Lance set; None if no part of it ends in .lance."""
    text = os.fspath(path)
    found = PLACE.fullmatch(text) if ENDING in text else None
    if found is None:
        return None
    version = found["version"]
    # pathlib leaves one of the slashes after a scheme.
    root = SCHEME.sub(r"\1://", found["root"], count=1)
    return SetPlace(root, None if version is None else int(version), (found["path"] or "").strip("/"))


def storage_options(root: str) -> dict[str, str]:
    """Return what Lance needs besides what it finds itself in the environment and in the files of the AWS tools."""
    if not root.startswith("s3:"):
        return {}
    options = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options["aws_endpoint"] = endpoint
        if endpoint.startswith("http:"):
            options["allow_http"] = "true"
        if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
            options["aws_region"] = DEFAULT_REGION
    return options


def import_lance() -> Any:
    """Return the module.

    Raises:
        UserError: when the extra is not installed.
    """
    try:
        import lance
    except ImportError as error:
        raise require_extra("pylance", extra="lance", purpose="a Lance set") from error
    return lance


def open_set(root: str, version: int | None = None) -> Any:
    """Open a set, in this process.

    Args:
        root: local path or URL.
        version: its number; the newest when left out.

    Returns:
        A `lance.LanceDataset`.

    Raises:
        UserError: when there is no such set or version, or it cannot be read.
    """
    lance = import_lance()
    try:
        return lance.dataset(
            root, version=version, storage_options=storage_options(root), metadata_cache_size_bytes=METADATA_BYTES
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise _not_opened(root, version, error) from error


def _not_opened(root: str, version: int | None, error: Exception) -> UserError:
    if "not found" not in str(error).lower():
        return UserError(
            f"{root}: cannot be read ({first_line(error)})",
            "a Lance set that can be reached",
            "check the address, the credentials and AWS_ENDPOINT_URL" if "://" in root else "check its permissions",
        )
    try:
        newest = None if version is None else open_set(root).version
    except UserError:
        newest = None
    if newest is not None:
        return UserError(
            f"{root} has no version {version}",
            f"one up to {newest}, the newest, that was not cleaned up",
            f"data.version={newest}, or leave it out",
        )
    return UserError(
        f"{root}: there is no Lance set",
        "a set that prepare has written to its end",
        f"classifier-training prepare /my/images output={root}",
    )


def key_of(path: str) -> int:
    """Return the 64-bit number by which a row is found; the column `key` has it."""
    return int.from_bytes(blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest(), "little")


def keys_of(paths: Iterable[str]) -> NDArray[np.uint64]:
    """Return the numbers of several paths, uint64 [N]."""
    return np.fromiter(map(key_of, paths), np.uint64)


class SetReader:
    """One version of a set, opened by one process.

    Rows are found by their keys: 12 bytes a row in memory, and no path.

    Args:
        root: of the set.
        version: its number; the newest when left out.
    """

    def __init__(self, root: str, version: int | None) -> None:
        self._set = open_set(root, version)
        keys = self._set.to_table(columns=["key"])["key"].to_numpy()
        order = np.argsort(keys, kind="stable")
        self._facts: NDArray[np.void] | None = None
        self._keys: NDArray[np.uint64] = keys[order]
        self._rows = order.astype(np.uint32)

    def rows(self, paths: Iterable[str]) -> NDArray[np.int64]:
        """Return the row number of each path, the first where it has several; -1 where it has none."""
        wanted = keys_of(paths)
        if not len(self._keys):
            return np.full(len(wanted), -1)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[places] == wanted, self._rows[places].astype(np.int64), -1)

    def facts(self, paths: Iterable[str]) -> NDArray[np.void]:
        """Return what the set states of images, `FACTS` [N]; the size is -1 for a path that is no row."""
        if self._facts is None:
            table = self._set.to_table(columns=list(FACTS.names or ()))
            self._facts = np.zeros(len(table), FACTS)
            for name in FACTS.names or ():
                values = table[name].to_pylist() if name == "sha256" else table[name].to_numpy()
                self._facts[name] = values
        rows = self.rows(paths)
        found = self._facts[rows] if len(self._facts) else np.zeros(len(rows), FACTS)
        found["num_bytes"][rows < 0] = -1
        return found

    def take(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Return the bytes of the images of distinct rows, by one request to Lance.

        Raises:
            OSError: when they cannot be read.
        """
        found = self._set.take(rows.tolist(), columns=["image"])["image"]
        return [value.as_py() for value in found]


@functools.lru_cache(maxsize=8)
def _reader(root: str, version: int | None, process: int) -> SetReader:  # noqa: ARG001 - a fork opens its own
    return SetReader(root, version)


def read_many(paths: Sequence[str]) -> list[bytes | OSError]:
    """Return the bytes of images in Lance sets, in their order; those of one set are read by one request.

    A path that is no row has an error in its place.

    Raises:
        UserError: when a set cannot be read.
    """
    found: list[bytes | OSError] = [FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) for path in paths]
    for root, reader, numbers, inside in _by_set(paths):
        rows = reader.rows(inside)
        distinct, inverse = np.unique(rows[rows >= 0], return_inverse=True)
        try:
            contents = reader.take(distinct) if len(distinct) else []
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(
                f"{root}: rows cannot be read ({first_line(error)})",
                "a Lance set that can be reached, with the files of its versions",
                "check the connection and start again; a run is resumed with train resume=latest",
            ) from error
        for number, place in zip(np.array(numbers)[rows >= 0].tolist(), inverse.tolist(), strict=True):
            found[number] = contents[place]
    return found


def facts_of(paths: Sequence[str]) -> NDArray[np.void]:
    """Return what sets state of their images, `FACTS` [N]; see `SetReader.facts`.

    Raises:
        UserError: when a set cannot be read.
    """
    found = np.zeros(len(paths), FACTS)
    for _, reader, numbers, inside in _by_set(paths):
        found[numbers] = reader.facts(inside)
    return found


def _by_set(paths: Sequence[str]) -> Iterator[tuple[str, SetReader, list[int], list[str]]]:
    """Yield each set with its reader, and the numbers and inner paths of those that lie in it."""
    by_set: dict[tuple[str, int | None], tuple[list[int], list[str]]] = {}
    for number, path in enumerate(paths):
        place = set_place(path)
        assert place is not None
        numbers, inside = by_set.setdefault((place.root, place.version), ([], []))
        numbers.append(number)
        inside.append(place.path)
    for (root, version), (numbers, inside) in by_set.items():
        yield root, _reader(root, version, os.getpid()), numbers, inside
