"""Which checkpoints are whole: their SHA-256 in manifest.json, which is written after them.

A file is known by its content, not by its name. So a kill between a file and its line leaves a file without a line, and
the one before it, which was kept under another name, with one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import sha256, write_json

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint.

    Args:
        name: of the file when it was written.
        sha256: of the file's content, in hexadecimal.
        step: steps of the optimizer behind it.
        epochs_done: epochs that had come to their end.
        is_mid_epoch: whether it was taken between two steps of an epoch, not at an epoch's end.
        ends_training: whether no step was to come: the last epoch, or one that was stopped after.
    """

    name: str
    sha256: str
    step: int
    epochs_done: int
    is_mid_epoch: bool
    ends_training: bool = False


def read_manifest(folder: Path) -> list[Entry] | None:
    """Return what a folder's manifest lists; None where there is none, as in runs of earlier versions.

    Raises:
        UserError: when it is damaged.
    """
    path = folder / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["checkpoints"]
        entries = [_entry(**entry) for entry in found]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__})",
            "the list that the run wrote beside its checkpoints",
            "restore it from a copy; or remove it, if you are sure that the checkpoints are whole",
        ) from error
    return entries


def _entry(
    *, name: str, sha256: str, step: int, epochs_done: int, is_mid_epoch: bool, ends_training: bool = False
) -> Entry:
    # Runs of earlier versions do not say whether training had ended.
    return Entry(
        name=str(name),
        sha256=str(sha256),
        step=int(step),
        epochs_done=int(epochs_done),
        is_mid_epoch=bool(is_mid_epoch),
        ends_training=bool(ends_training),
    )


def write_manifest(folder: Path, entries: Sequence[Entry]) -> None:
    """List the whole checkpoints of a folder, and no others.

    Raises:
        OSError: when there is no room.
    """
    write_json(folder / NAME, {"checkpoints": [asdict(entry) for entry in entries]})


def remove_checkpoints(folder: Path, names: Collection[str]) -> None:
    """Remove checkpoints and their lines. Only for who holds the run's lock.

    The files go first, which a full disk does not hinder; a line without a file does no harm.

    Args:
        folder: of the checkpoints.
        names: of the files; those that are not there are passed over.
    """
    entries = read_manifest(folder)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    if entries is not None and any(entry.name in names for entry in entries):
        write_manifest(folder, [entry for entry in entries if entry.name not in names])


def refuse_damaged(path: Path) -> None:
    """Raise when a file lies beside a manifest that does not list it.

    Raises:
        UserError: then.
    """
    entries = read_manifest(path.parent)
    if entries is None or not path.is_file():
        return
    if sha256(path) not in {entry.sha256 for entry in entries}:
        raise damaged(path)


def damaged(path: Path) -> UserError:
    """Return the error for a checkpoint that is not the one that was written."""
    return UserError(
        f"{path}: damaged, or not written to its end: its SHA-256 is not in {NAME}",
        "a checkpoint as the run wrote it",
        "resume the run, which takes the newest whole one; or restore the file from a copy",
    )
