"""Remote data sets: one listing of all files of a folder, which is walked through as a local folder is."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.storage.places import is_remote
from classifier_training.data.walk import DataErrors, Walker, is_ignored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Listing:
    """The files below a remote folder: names by folder, as paths relative to it, sorted.

    Args:
        root: URL of the folder.
        folders: names of the folders directly inside each folder; the root is the empty text.
        files: names of the files directly inside each folder.
    """

    root: str
    folders: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)

    def below(self, folder: str = "") -> Iterator[str]:
        """Yield the relative path of each file below a folder, sorted by folder and name."""
        prefix = f"{folder}/" if folder else ""
        for name in self.files.get(folder, ()):
            yield f"{prefix}{name}"
        for name in self.folders.get(folder, ()):
            yield from self.below(f"{prefix}{name}")


_listings: ContextVar[dict[str, Listing] | None] = ContextVar("_listings", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """List each folder once inside the block, however often it is read."""
    if _listings.get() is not None:
        yield
        return
    token = _listings.set({})
    try:
        yield
    finally:
        _listings.reset(token)


def listing(root: str) -> Listing:
    """List a remote folder: one request for each 1,000 files.

    Sizes and versions are saved for all processes of this machine, which then read files without asking for them.

    Raises:
        UserError: when the store does not answer or refuses.
    """
    made = _listings.get()
    if made is not None and root in made:
        return made[root]
    found = Listing(root)
    if made is not None:
        made[root] = found
    _list(found)
    return found


def _list(found: Listing) -> None:
    from classifier_training.core.storage.cache import listings
    from classifier_training.core.storage.objects import list_objects, split_url

    base, prefix = split_url(found.root)
    begin = len(prefix) + 1 if prefix else 0

    def files() -> Iterator[tuple[str, int | None, str]]:
        for key, num_bytes, version in list_objects(found.root):
            folder, _, name = key[begin:].rpartition("/")
            found.files.setdefault(folder, []).append(name)
            yield f"{base}/{key}", num_bytes, version

    listings.save(found.root, files())
    inside: dict[str, set[str]] = {}
    for folder in found.files:
        while folder:
            above, _, name = folder.rpartition("/")
            inside.setdefault(above, set()).add(name)
            folder = above
    found.folders |= {folder: sorted(names) for folder, names in inside.items()}
    for folder, names in found.files.items():
        # Some programs put an empty file in the place of each folder.
        found.files[folder] = sorted(set(names) - inside.get(folder, set()))


@dataclass
class RemoteWalker(Walker):
    """Walks through the listing of a remote folder; see `Walker`. A store has no links and no unreadable folders."""

    _hidden: set[str] = field(default_factory=set)
    _listing: Listing | None = None

    @property
    def listing(self) -> Listing:
        """The files.

        Raises:
            UserError: when there are none, or the store does not answer or refuses.
        """
        if self._listing is None:
            self._listing = listing(str(self.root))
            if not self._listing.files:
                raise UserError(
                    f"{self.root}: there is no file below it",
                    "a folder of images",
                    "check the spelling; a folder is named as by `aws s3 ls --recursive`, without a wildcard",
                )
        return self._listing

    def files(self, folder: Path) -> Iterator[str]:
        """Yield the URL of each file below a folder, sorted by folder and name."""
        root = str(self.root)
        for name in self._below(self._inside(folder)):
            yield f"{root}/{name}"

    def folders(self, folder: Path) -> list[Path]:
        """The folders directly inside a folder, sorted by name."""
        inside = self._inside(folder)
        return [folder / name for name in self.listing.folders.get(inside, ()) if not self._ignores(inside, name)]

    def loose_files(self, folder: Path) -> list[str]:
        """The names of the files directly inside a folder, sorted."""
        inside = self._inside(folder)
        return [name for name in self.listing.files.get(inside, ()) if not self._ignores(inside, name)]

    def holds(self, folder: Path, name: str) -> bool:
        """Whether a folder has a file of that name, which may contain slashes."""
        parent, _, last = f"{self._inside(folder)}/{name}".strip("/").rpartition("/")
        names = self.listing.files.get(parent, [])
        place = bisect_left(names, last)
        return place < len(names) and names[place] == last

    def reaches(self, path: str, folder: str) -> bool:  # noqa: ARG002 - as the base class has it
        """Return True: there are no links."""
        return True

    def _inside(self, folder: Path) -> str:
        return str(folder)[len(str(self.root)) :].strip("/")

    def _below(self, folder: str) -> Iterator[str]:
        prefix = f"{folder}/" if folder else ""
        yield from (f"{prefix}{name}" for name in self.listing.files.get(folder, ()) if not self._ignores(folder, name))
        for name in self.listing.folders.get(folder, ()):
            if not self._ignores(folder, name):
                yield from self._below(f"{prefix}{name}")

    def _ignores(self, folder: str, name: str) -> bool:
        """Whether a name is ignored; the files of it, or below it, are noted once."""
        path = f"{folder}/{name}" if folder else name
        if is_ignored(name) and path not in self._hidden:
            self._hidden.add(path)
            files = [path] if name in self.listing.files.get(folder, ()) else self.listing.below(path)
            self.ignored += [f"{self.root}/{file}" for file in files]
        return is_ignored(name)


def open_walker(
    root: Path,
    *,
    follow_links: bool = False,
    errors: DataErrors | None = None,
    setting: str = "data.follow_links",
    keeps: bool = True,
) -> Walker:
    """Return what walks through a folder, local or remote; see `Walker`."""
    kind = RemoteWalker if is_remote(root) else Walker
    return kind(root, follow_links=follow_links, errors=errors or DataErrors(), setting=setting, keeps=keeps)
