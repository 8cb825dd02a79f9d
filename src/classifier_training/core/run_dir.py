"""Every path of a run folder, and the writes that are never seen half done."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from classifier_training.core.display import write_rows
from classifier_training.core.errors import UserError
from classifier_training.core.files import escapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links answer."""


@dataclass(frozen=True)
class RunDir:
    """One run's folder: `outputs/[category/][name/]YYYY-MM-DD/HH-MM-SS[-xxxx]`."""

    path: Path

    @classmethod
    def create(cls, root: Path, *, category: str | None = None, name: str | None = None) -> RunDir:
        """Make a folder that no other run has.

        Raises:
            UserError: when the folder cannot be made, or would lie outside `root`.
        """
        for setting, part in (("category", category), ("name", name)):
            if part and escapes(part):
                raise UserError(
                    f"{setting}={part} leads out of {root}",
                    "a name, or names with slashes between them",
                    f"{setting}={PurePath(part).name.strip('.') or 'mine'}, and output=/some/folder for another place",
                )
        # Local time on purpose: a person looks for the run by the clock on the wall.
        now = datetime.now().astimezone()
        day = days_folder(root, category=category, name=name) / now.strftime("%Y-%m-%d")
        try:
            day.mkdir(parents=True, exist_ok=True)
            path = day / now.strftime("%H-%M-%S")
            while True:
                try:
                    path.mkdir()
                except FileExistsError:
                    path = day / f"{now.strftime('%H-%M-%S')}-{secrets.token_hex(2)}"
                else:
                    return cls(path)
        except OSError as error:
            raise UserError(
                f"{day}: cannot make the run folder ({error.strerror})",
                "a folder that can be written to",
                "choose another one: output=/some/folder",
            ) from error

    @property
    def config(self) -> Path:  # noqa: D102
        return self.path / "config.yaml"

    @property
    def decisions(self) -> Path:
        """What the run chose by itself, to be kept when it goes on."""
        return self.path / "decisions.json"

    @property
    def lr_range(self) -> Path:  # noqa: D102
        return self.path / "lr_range.png"

    @property
    def versions(self) -> Path:  # noqa: D102
        return self.path / "versions.json"

    @property
    def log(self) -> Path:  # noqa: D102
        return self.path / "train.log"

    def process_log(self, rank: int) -> Path:
        """What another of several processes said, where it ended before its time."""
        return self.path / f"process-{rank}.log"

    @property
    def splits(self) -> Path:  # noqa: D102
        return self.path / "splits.csv"

    @property
    def best_checkpoint(self) -> Path:  # noqa: D102
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def probe_checkpoint(self) -> Path:
        """The weights with the head of the linear probe, before the first epoch."""
        return self.path / "checkpoints" / "probe.ckpt"

    @property
    def last_checkpoint(self) -> Path:  # noqa: D102
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint that the newest one took the place of."""
        return self.path / "checkpoints" / "previous.ckpt"

    @property
    def step_checkpoint(self) -> Path:
        """The state between two steps of an epoch."""
        return self.path / "checkpoints" / "step.ckpt"

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from, whole or not."""
        folder = f"{self.path}/checkpoints"
        # Thousands of runs are asked; a Path object for each file would double the time.
        return any(os.path.isfile(f"{folder}/{name}.ckpt") for name in ("last", "step", "previous"))  # noqa: PTH113

    @property
    def onnx(self) -> Path:  # noqa: D102
        return self.path / "model.onnx"

    @property
    def pipeline(self) -> Path:  # noqa: D102
        return self.path / "pipeline.onnx"

    @property
    def golden(self) -> Path:  # noqa: D102
        return self.path / "golden"

    @property
    def demo(self) -> Path:  # noqa: D102
        return self.path / "demo.html"

    @property
    def weights(self) -> Path:  # noqa: D102
        return self.path / "model.safetensors"

    @property
    def torchscript(self) -> Path:  # noqa: D102
        return self.path / "model.torchscript"

    @property
    def ort(self) -> Path:  # noqa: D102
        return self.path / "model.ort"

    @property
    def openvino(self) -> Path:  # noqa: D102
        return self.path / "openvino"

    @property
    def coreml(self) -> Path:  # noqa: D102
        return self.path / "model.mlpackage"

    @property
    def litert(self) -> Path:  # noqa: D102
        return self.path / "model.tflite"

    @property
    def tensorrt(self) -> Path:  # noqa: D102
        return self.path / "model.engine"

    @property
    def labels_mapping(self) -> Path:  # noqa: D102
        return self.path / "labels_mapping.json"

    @property
    def model_info(self) -> Path:  # noqa: D102
        return self.path / "model_info.json"

    @property
    def model_summary(self) -> Path:  # noqa: D102
        return self.path / "model_summary.txt"

    @property
    def metrics(self) -> Path:  # noqa: D102
        return self.path / "metrics.csv"

    @property
    def result(self) -> Path:
        """What the run gave; written at its very end, so a run without it is not finished."""
        return self.path / "result.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here, for as long as it lives."""
        return self.path / "run.lock"

    @property
    def registration(self) -> Path:
        """What the registry says of this run, and nobody else knows: its version and its promotions."""
        return self.path / "registry.json"

    @property
    def benchmark(self) -> Path:  # noqa: D102
        return self.path / "benchmark"

    @property
    def classification_report(self) -> Path:
        """The figures of an evaluation."""
        return self.evaluation / "classification_report.json"

    @property
    def history(self) -> Path:  # noqa: D102
        return self.path / "training_history.json"

    @property
    def history_plots(self) -> Path:  # noqa: D102
        return self.path / "training_history"

    @property
    def dataset(self) -> Path:  # noqa: D102
        return self.path / "dataset"

    @property
    def evaluation(self) -> Path:  # noqa: D102
        return self.path / "evaluation"

    @property
    def report(self) -> Path:  # noqa: D102
        return self.path / "report.html"

    @property
    def model_card(self) -> Path:  # noqa: D102
        return self.path / "MODEL_CARD.md"

    @property
    def hub_config(self) -> Path:
        """What timm and the Hub read beside model.safetensors."""
        return self.path / "config.json"

    @property
    def label_issues(self) -> Path:  # noqa: D102
        return self.path / "label_issues"

    def quantized(self, path: Path, scheme: str) -> Path:
        """Path of a file's quantised copy, such as model_int8.onnx."""
        return self.path / f"{path.stem}_{scheme}{path.suffix}"

    def epoch(self, epoch: int) -> Path:
        """Folder of one epoch's images, counted from 0."""
        return self.path / f"epoch_{epoch:03d}"


def days_folder(root: Path, *, category: str | None, name: str | None) -> Path:
    """Folder of the days in which runs of a category and name are kept."""
    return root.joinpath(*(part for part in (category, name) if part))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, its file is fsynced and takes the name.

    A reader finds the old file or the new one, never a part, whatever kills the writer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        yield temporary
        # Some writers make the file anew, for its owner's eyes alone.
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def keep_as(path: Path, name: str) -> None:
    """Give a file a second name beside it, in place of the file that had that name, without a moment without either."""
    temporary = path.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    try:
        try:
            os.link(path, temporary)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            shutil.copyfile(path, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path.with_name(name))
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder inside `folder`; when the block ends well, what is in it takes the place of its namesakes.

    When the block raises, nothing is left behind, `folder` itself included where it was made here.
    """
    made = not folder.exists()
    make_folder(folder)
    staging = folder / f".staged.{os.getpid()}-{secrets.token_hex(3)}.tmp"
    staging.mkdir()
    try:
        yield staging
        replaced = staging / ".replaced"
        replaced.mkdir()
        for path in sorted(staging.iterdir()):
            if path == replaced:
                continue
            target = folder / path.name
            if target.is_dir():
                # A folder takes the name of no other that has something in it.
                target.replace(replaced / path.name)
            path.replace(target)
        _sync_directory(folder)
        made = False
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if made:
            with suppress(OSError):
                folder.rmdir()


def remove_orphans(folder: Path) -> None:
    """Remove what killed writers left half done; only for who holds the folder's lock."""
    for path in list(folder.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder for results, before the work that they come from.

    Raises:
        UserError: when it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "no permission to write"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    if reason:
        raise UserError(
            f"{folder}: results cannot be written there ({reason})",
            "a folder that can be written to",
            "choose another one: output=/some/folder",
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. NaN, which JSON does not have, is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, is_safe: bool = False) -> None:
    """Write a CSV file atomically, row by row; see `core.table.write_rows`."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write_rows(file, header, rows, is_safe=is_safe)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and hashes of all files in a folder, in hexadecimal."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listed = "".join(f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
