"""Where the bytes of an image are: in a local file, in a remote store, or in a row of a Lance set.

A place is a text. `s3://…`, `gs://…`, `az://…`, `hf://…`, `https://…` are remote files. A path with a part that ends in
`.lance`, remote or not, is a row of a Lance set. Everything else is a local file.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path, PosixPath
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READERS = {
    "remote": "classifier_training.core.storage.objects",
    "lance": "classifier_training.core.storage.lance_rows",
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


def path_of(text: str) -> Path:
    """Return the path that a setting names: of this machine, with ~ expanded, or remote."""
    return RemotePath(text) if is_remote(text) else Path(text).expanduser()


def without_secrets(url: str) -> str:
    """Return a URL with both slashes after its scheme.

    Raises:
        ValueError: when it has a password or a query, which may be a signature: it would be saved with the run.
    """
    url = url_of(url)
    parts = urlsplit(url)
    if "@" in parts.netloc or (parts.scheme in ("http", "https") and parts.query):
        raise ValueError(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} was given with a password or a signature, "
            "which would be saved with the run; credentials come from the environment (AWS_ACCESS_KEY_ID, …)"
        )
    return url.rstrip("/")


class Known(NamedTuple):
    """What is known of a file without reading it.

    Args:
        num_bytes: its size; 0 when unknown.
        version: a number below 2^63 that changes with the content: the time of the last change in nanoseconds, or a
            hash of the ETag; 0 when unknown.
    """

    num_bytes: int
    version: int


def known(paths: Sequence[Path | str]) -> list[Known | None]:
    """Return size and version of files: of remote ones as they were last listed, without a request.

    A file that is missing, or that no listing has, is None.
    """
    remote = [place for place, path in enumerate(paths) if kind_of_place(path) == "remote"]
    found: list[Known | None] = [None] * len(paths)
    if remote:
        from classifier_training.core.storage.cache import listings

        for place, listed in zip(remote, listings.find([url_of(paths[place]) for place in remote]), strict=True):
            found[place] = None if listed is None else Known(listed.num_bytes or 0, listed.version)
    rows = [place for place, path in enumerate(paths) if kind_of_place(path) == "lance"]
    if rows:
        from classifier_training.core.storage.lance_rows import facts_of

        for place, fact in zip(rows, facts_of([os.fspath(paths[place]) for place in rows]), strict=True):
            version = int.from_bytes(bytes(fact["sha256"])[:8], "little")
            found[place] = None if fact["num_bytes"] < 0 else Known(int(fact["num_bytes"]), version)
    for place in sorted(set(range(len(paths))) - set(remote) - set(rows)):
        try:
            facts = os.stat(paths[place])  # noqa: PTH116 - texts
        except OSError:
            continue
        found[place] = Known(facts.st_size, facts.st_mtime_ns)
    return found


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
        from classifier_training.core.storage.objects import write

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
    from classifier_training.core.storage.objects import write

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
        from classifier_training.core.storage.objects import list_objects, split_url

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
        from classifier_training.core.storage.objects import remove_all

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


class RemotePath(PosixPath):
    """A path of a remote store: a URL whose parts, names and endings are those of a path, and that can be read.

    A file or folder that a listing has is known without a request.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return url_of(text) if REMOTE.match(text) else text

    def __fspath__(self) -> str:
        return str(self)

    def expanduser(self) -> RemotePath:
        """Return this path."""
        return self

    def absolute(self) -> RemotePath:
        """Return this path."""
        return self

    def resolve(self, strict: bool = False) -> RemotePath:  # noqa: ARG002, FBT001, FBT002 - as pathlib has it
        """Return this path: a store has no links."""
        return self

    def is_symlink(self) -> bool:
        """Return False: a store has no links."""
        return False

    def is_file(self, **_: Any) -> bool:
        """Whether it is a file."""
        if known([self])[0] is not None:
            return True
        if not self.suffix:
            return False
        try:
            self.read_bytes()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, **_: Any) -> bool:
        """Whether there is a file below it."""
        from classifier_training.core.storage.objects import is_folder

        return is_folder(str(self))

    def exists(self, **_: Any) -> bool:
        """Whether it is a file or folder."""
        return self.is_file() or self.is_dir()

    def stat(self, **_: Any) -> os.stat_result:
        """Return the size and kind of a file.

        Raises:
            FileNotFoundError: when there is no such file.
        """
        (found,) = known([self])
        size = found.num_bytes if found is not None and found.num_bytes else len(self.read_bytes())
        return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def read_bytes(self) -> bytes:
        """Return the content; see `places.read_bytes`."""
        return read_bytes(self)

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        """Return the content as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,  # noqa: ARG002 - as pathlib has it
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open the file for reading.

        Raises:
            OSError: when it cannot be read, or is opened for writing.
        """
        if set(mode) - set("rbt"):
            raise PermissionError(None, "remote data are only read", str(self))
        file = io.BufferedReader(io.BytesIO(self.read_bytes()))
        return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Refuse: a local folder of that name would be made.

        Raises:
            OSError: always.
        """
        raise PermissionError(None, "remote data are only read", str(self))
