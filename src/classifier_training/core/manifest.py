"""The manifest of complete checkpoints: their SHA-256 in manifest.json, which is written after them.

Files are identified by content, not by name. If the process is killed between a checkpoint and its entry, the new file
has no entry, and the previous one, kept under another name, still has its own.
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
        step: optimizer steps so far.
        epochs_done: complete epochs.
        is_mid_epoch: whether it was saved within an epoch, not at its end.
        ends_training: whether training ended with it, by the last epoch or an early stop.
    """

    name: str
    sha256: str
    step: int
    epochs_done: int
    is_mid_epoch: bool
    ends_training: bool = False


def read_manifest(folder: Path) -> list[Entry] | None:
    """Return the entries of a folder's manifest; None if there is none, as in runs of earlier versions.

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
            "restore it from a copy; or remove it, if you are sure that the checkpoints are intact",
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
    """Write the manifest of a folder's complete checkpoints.

    Raises:
        OSError: when the disk is full.
    """
    write_json(folder / NAME, {"checkpoints": [asdict(entry) for entry in entries]})


def remove_checkpoints(folder: Path, names: Collection[str]) -> None:
    """Remove checkpoints and their entries. Only for the holder of the run's lock.

    Files are removed first, which works on a full disk; an entry without a file does no harm.

    Args:
        folder: of the checkpoints.
        names: of the files; missing ones are ignored.
    """
    entries = read_manifest(folder)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    if entries is not None and any(entry.name in names for entry in entries):
        write_manifest(folder, [entry for entry in entries if entry.name not in names])


def refuse_damaged(path: Path) -> None:
    """Raise when a file is not in the manifest beside it.

    Raises:
        UserError: when there is a manifest without the file's hash.
    """
    entries = read_manifest(path.parent)
    if entries is None or not path.is_file():
        return
    if sha256(path) not in {entry.sha256 for entry in entries}:
        raise damaged(path)


def damaged(path: Path) -> UserError:
    """Return the error for a checkpoint that is not the one that was written."""
    return UserError(
        f"{path}: damaged or incomplete: its SHA-256 is not in {NAME}",
        "a checkpoint as the run wrote it",
        "resume the run, which uses the newest intact checkpoint; or restore the file from a copy",
    )
