"""Where the bytes of an image are: in a local file, in a remote store, or in a row of a Lance set.

A place is a text. `s3://…`, `gs://…`, `az://…`, `hf://…`, `https://…` are remote files. A path with a part that ends in
`.lance`, remote or not, is a row of a Lance set. Everything else is a local file.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READERS = {
    "remote": "classifier_training.core.objects",
    "lance": "classifier_training.data.formats.lance",
}
"""Modules that read a kind of place, imported when first needed: `read_many(places)` returns what ours does."""

REMOTE = re.compile(r"(?:s3|gs|az|hf|https?):/")
"""One slash is enough, because pathlib joins two."""

LANCE = re.compile(r"\.lance(?:/|$)")


def is_remote(path: Path | str) -> bool:
    """Whether a path is a URL of a remote store."""
    return REMOTE.match(os.fspath(path)) is not None


def kind_of_place(path: Path | str) -> str:
    """Return local, remote or lance."""
    text = os.fspath(path)
    if ".lance" in text and LANCE.search(text):
        return "lance"
    return "remote" if REMOTE.match(text) else "local"


def is_local(path: Path | str) -> bool:
    """Whether a path is one of a local file."""
    return kind_of_place(path) == "local"


def url_of(path: Path | str) -> str:
    """Return a remote path with both slashes after its scheme, of which pathlib leaves one."""
    scheme, _, rest = os.fspath(path).partition(":")
    return f"{scheme}://{rest.lstrip('/')}"


def read_bytes(path: Path | str) -> bytes:
    """Return the content of a file, wherever it is.

    Raises:
        OSError: when there is no such file, or it cannot be read.
        UserError: when a remote store does not answer, after several tries.
    """
    (found,) = read_many([path])
    if isinstance(found, OSError):
        raise found
    return found


def read_many(paths: Sequence[Path | str]) -> list[bytes | OSError]:
    """Return the contents of files in their order; remote ones are fetched at the same time.

    A file that is missing or cannot be read has an error in its place.

    Raises:
        UserError: when a remote store does not answer, after several tries. No image is left out for that.
    """
    found: list[bytes | OSError] = [OSError()] * len(paths)
    by_kind: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        by_kind.setdefault(kind_of_place(path), []).append(place)
    for kind, places in by_kind.items():
        wanted = [os.fspath(paths[place]) for place in places]
        read = _read_local if kind == "local" else importlib.import_module(READERS[kind]).read_many
        for place, content in zip(places, read(wanted), strict=True):
            found[place] = content
    return found


def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole or not at all; see `new_file`."""
    if is_remote(path):
        from classifier_training.core.objects import write

        write(url_of(path), content)
        return
    with new_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def new_file(path: str) -> Iterator[Path]:
    """Give a temporary path on this disk; when the block ends well, its file is at `path`, local or remote.

    A reader finds the old file or the new one, never a part.

    Raises:
        OSError: when a local file cannot be written.
        UserError: when a remote one cannot.
    """
    from classifier_training.core.run_dir import atomic_path

    if not is_remote(path):
        with atomic_path(Path(path)) as temporary:
            yield temporary
        return
    from classifier_training.core.objects import write

    with TemporaryDirectory() as folder:
        yield Path(folder, "file")
        write(url_of(path), Path(folder, "file"))


def list_names(folder: str) -> list[str]:
    """Return the names of the files in a folder, hidden ones left out; none where there is no such folder.

    Raises:
        OSError: when a local folder cannot be read.
        UserError: when a remote one cannot.
    """
    if is_remote(folder):
        from classifier_training.core.objects import list_objects, split_url

        start = len(split_url(folder)[1].strip("/")) + 1
        names = {found.key[start:].partition("/")[0] for found in list_objects(folder)}
    else:
        try:
            names = set(os.listdir(folder))  # noqa: PTH208
        except FileNotFoundError:
            return []
    return sorted(name for name in names if not name.startswith("."))


def remove_folder(folder: str) -> None:
    """Remove a folder with all that is in it.

    Raises:
        OSError: when a local folder cannot be removed.
        UserError: when a remote one cannot.
    """
    if is_remote(folder):
        from classifier_training.core.objects import remove_all

        remove_all(url_of(folder))
        return
    shutil.rmtree(folder)


def _read_local(paths: Sequence[str]) -> list[bytes | OSError]:
    found: list[bytes | OSError] = []
    for path in paths:
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                found.append(file.read())
        except OSError as error:
            found.append(error)
    return found
