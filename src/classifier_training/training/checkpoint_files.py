"""Checkpoints as files: written whole or not at all, listed by SHA-256; the newest whole one is found by its step."""

from __future__ import annotations

import hashlib
import io
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from classifier_training.core.errors import UserError
from classifier_training.core.manifest import (
    NAME,
    Entry,
    damaged,
    read_manifest,
    refuse_damaged,
    remove_checkpoints,
    write_manifest,
)
from classifier_training.core.run_dir import atomic_path, keep_as, sha256
from classifier_training.core.runtime import command
from classifier_training.models.weights import read_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from classifier_training.core.run_dir import RunDir

log = logging.getLogger(__name__)


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, fsyncs, renames and lists; reads tensors and plain values alone, never code.

    The checkpoint that a new last.ckpt or step.ckpt takes the place of stays as previous.ckpt.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object | None = None
    ) -> None:
        """Write a checkpoint; `storage_options` is Lightning's and must be None.

        Raises:
            OSError: when there is no room; what was there before is whole then.
        """
        if storage_options is not None:
            raise TypeError("storage_options do not apply to local files")
        path = Path(path)
        entries = {entry.name: entry for entry in _listed(path.parent) or ()}
        with atomic_path(path) as temporary:
            digest = _write(checkpoint, temporary)
            if path.name in ROTATED and path.name in entries and path.is_file():
                keep_as(path, PREVIOUS)
        if path.name in ROTATED and path.name in entries:
            entries[PREVIOUS] = replace(entries[path.name], name=PREVIOUS)
        entries[path.name] = describe(checkpoint, path.name, digest)
        is_superseded = path.name == LAST and STEP in entries
        if is_superseded:
            del entries[STEP]
        write_manifest(path.parent, list(entries.values()))
        if is_superseded:
            path.with_name(STEP).unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,  # noqa: ARG002, FBT001 - Lightning's signature
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU by default.

        Raises:
            UserError: when the file is missing, damaged, or holds more than tensors and plain values.
        """
        return read_checkpoint(Path(path), map_location=map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


LAST, STEP, PREVIOUS = "last.ckpt", "step.ckpt", "previous.ckpt"
ROTATED = (LAST, STEP)

ENDS_TRAINING = "ends_training"
"""Key of a checkpoint after which no step was to come."""


class _Hashed(io.RawIOBase):
    """A file for torch to write into, which keeps the first error: torch's own writer loses what it was."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
            self.digest.update(data)
        return len(data)


def _write(checkpoint: Mapping[str, Any], path: Path) -> str:
    with path.open("wb") as file:
        hashed = _Hashed(file)
        torch.save(checkpoint, hashed)  # type: ignore[arg-type]
        if hashed.error is not None:
            raise hashed.error
    return hashed.digest.hexdigest()


def describe(checkpoint: Mapping[str, Any], name: str, digest: str) -> Entry:
    """Say what a checkpoint is."""
    epoch = int(checkpoint.get("epoch", -1))
    done = epochs_done(checkpoint)
    return Entry(
        name=name,
        sha256=digest,
        step=int(checkpoint.get("global_step", 0)),
        epochs_done=done,
        is_mid_epoch=done <= epoch,
        ends_training=bool(checkpoint.get(ENDS_TRAINING, False)),
    )


def epochs_done(checkpoint: Mapping[str, Any]) -> int:
    """Return how many epochs had come to their end."""
    if "loops" not in checkpoint:
        return int(checkpoint.get("epoch", -1)) + 1
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def read_checkpoint(path: Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything that it holds.

    Raises:
        UserError: when the file is missing, damaged, or holds more than tensors and plain values.
    """
    refuse_damaged(path)
    found = read_tensors(path, map_location=map_location)
    if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
        raise UserError(f"{path}: holds no weights", "a checkpoint of this program", "choose another run or checkpoint")
    return found


@dataclass(frozen=True)
class Found:
    """A checkpoint to resume from.

    Args:
        path: of the file.
        entry: what it is.
        kept: the whole checkpoints up to this one, and the one with the best weights.
        newer: files of the whole checkpoints after this one, which are removed when the run is resumed.
    """

    path: Path
    entry: Entry
    kept: tuple[Entry, ...] = ()
    newer: tuple[Path, ...] = ()


def find_newest(run_dir: RunDir, *, at_epoch_end: bool) -> Found | None:
    """Return the newest whole checkpoint of a run, by its step; None where the run begins again.

    Damaged ones are named. What is whole stays as it is until `resume_from`. Only for who holds the run's lock.

    Args:
        run_dir: the run.
        at_epoch_end: whether the middle of an epoch will not do, since the run is resumed with other settings. A run in
            its first epoch then begins again.

    Raises:
        UserError: when there are checkpoints, and none of them can be gone on from.
    """
    folder = run_dir.last_checkpoint.parent
    saved = (run_dir.last_checkpoint, run_dir.step_checkpoint, run_dir.previous_checkpoint)
    paths = [path for path in saved if path.is_file()]
    entries = _listed(folder)
    found = _whole(paths, entries)
    fitting = [one for one in found if not (at_epoch_end and one.entry.is_mid_epoch)]
    if not fitting:
        if not paths or (not found and _first_was_cut(paths, entries)):
            return None
        if found and not any(one.entry.epochs_done for one in found):
            log.warning("%s: the first epoch has not come to its end; with other settings the run begins again", folder)
            return None
        raise UserError(
            f"{folder}: "
            + ("no epoch has come to its end" if found else f"none of its {len(paths)} checkpoints is whole"),
            "the end of an epoch, to resume with other settings" if found else "a checkpoint as the run wrote it",
            "leave the changes out" if found else f"restore one from a copy, or start anew: {command('train')}",
        )
    newest = max(fitting, key=lambda one: (one.entry.step, one.entry.epochs_done))
    kept = [one.entry for one in found if one.entry.step <= newest.entry.step]
    return replace(
        newest,
        kept=(*kept, *_weights([run_dir.best_checkpoint, run_dir.probe_checkpoint], entries)),
        newer=tuple(one.path for one in found if one.entry.step > newest.entry.step),
    )


def share_of(best: Mapping[str, Any]) -> float:
    """Share of the last epoch's weights in what best.ckpt holds; 1 where they, or the linear probe's, are alone."""
    return float(best.get("interpolation", {}).get("share") or 1.0)


def resume_from(run_dir: RunDir, found: Found | None, *, is_trained: bool) -> None:
    """Remove what is newer than the checkpoint to resume from. Only for the process that holds the run's lock.

    Args:
        run_dir: the run.
        found: the checkpoint; None where the run begins again.
        is_trained: whether no step is to come. Else training did not end with that checkpoint after all.
    """
    folder = run_dir.last_checkpoint.parent
    if found is None:
        remove_checkpoints(folder, (LAST, STEP, PREVIOUS))
        return
    for path in found.newer:
        path.unlink()
    entries = [
        entry if is_trained or entry.sha256 != found.entry.sha256 else replace(entry, ends_training=False)
        for entry in found.kept
    ]
    write_manifest(folder, entries)


def _first_was_cut(paths: list[Path], entries: list[Entry] | None) -> bool:
    """Whether a kill came between the very first checkpoint and its line; then it is removed."""
    if entries is None or any(entry.name in (LAST, STEP, PREVIOUS) for entry in entries):
        return False
    for path in paths:
        log.warning("%s: the first checkpoint was not written to its end; the run begins again", path)
        path.unlink()
    return True


def _whole(paths: list[Path], entries: list[Entry] | None) -> list[Found]:
    found = []
    for path in paths:
        try:
            digest = sha256(path)
            if entries is None:
                entry = describe(read_checkpoint(path), path.name, digest)
            else:
                entry = next((one for one in entries if one.sha256 == digest), None)  # type: ignore[assignment]
                if entry is None:
                    raise damaged(path)
        except UserError as error:
            log.warning("%s; an earlier checkpoint is looked for", error.came)
        else:
            found.append(Found(path, replace(entry, name=path.name)))
    return found


def _weights(paths: list[Path], entries: list[Entry] | None) -> list[Entry]:
    """The lines of files that hold weights alone."""
    found = []
    for path in paths:
        if not path.is_file():
            continue
        digest = sha256(path)
        if entries is not None:
            found += [one for one in entries if (one.name, one.sha256) == (path.name, digest)]
            continue
        with suppress(UserError):  # named when it is needed
            found.append(describe(read_checkpoint(path), path.name, digest))
    return found


def _listed(folder: Path) -> list[Entry] | None:
    try:
        return read_manifest(folder)
    except UserError as error:
        log.warning("%s; each checkpoint is read to see whether it is whole", error.came)
        (folder / NAME).unlink()
        return None
