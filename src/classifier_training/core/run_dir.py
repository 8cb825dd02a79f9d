"""Every path of a run folder, and the writes that are never seen half done."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, overload

from classifier_training.core.display import write_rows
from classifier_training.core.errors import UserError
from classifier_training.core.files import escapes
from classifier_training.core.storage.places import kind_of_place, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links answer."""


@dataclass(frozen=True)
class RunPath:
    """One file or folder of a run: its path from an instance of `RunDir`, this description from the class.

    Args:
        relative: where it is in the run folder.
        meaning: what it holds.
    """

    relative: str
    meaning: str

    @overload
    def __get__(self, run: None, owner: object) -> RunPath: ...

    @overload
    def __get__(self, run: RunDir, owner: object) -> Path: ...

    def __get__(self, run: RunDir | None, owner: object) -> RunPath | Path:
        return self if run is None else run.path / self.relative


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
            if part and (":" in part or any(piece.startswith(".") for piece in PurePath(part).parts)):
                raise UserError(
                    f"{setting}={part}: no run would be found by that name",
                    "a name without a colon, whose folders do not begin with a dot",
                    f"{setting}={part.replace(':', '-').replace('/.', '/').lstrip('.') or 'mine'}",
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

    config = RunPath("config.yaml", "What ran, without secrets.")
    versions = RunPath("versions.json", "Of Python, the system and the packages.")
    decisions = RunPath("decisions.json", "What the run chose by itself, to be kept when it is resumed.")
    splits = RunPath("splits.csv", "Path, label, split and group of each image.")
    corrections = RunPath("corrections.csv", "Labels and splits that were corrected; only where some were.")
    log = RunPath("train.log", "Every message.")
    mlflow = RunPath("mlflow", "Of logging=mlflow: what is kept for the server.")
    mlflow_run = RunPath("mlflow/run.json", "Which run there it is, and how many rows of metrics it has.")
    mlflow_metrics = RunPath("mlflow/metrics.jsonl", "All rows of metrics, one a line, in the order of sending.")
    lock = RunPath("run.lock", "Held by the process that trains here, for as long as it lives.")
    stop_request = RunPath("stop.request", "Where it is there, training ends after the epoch; the end removes it.")
    dataset = RunPath("dataset", "Statistics and plots of the data.")
    statistics = RunPath("dataset/statistics.json", "The statistics.")
    lr_range = RunPath("lr_range.png", "Plot of the search for a learning rate.")

    best_checkpoint = RunPath("checkpoints/best.ckpt", "The weights that are scored and exported.")
    probe_checkpoint = RunPath("checkpoints/probe.ckpt", "Those with the head of the linear probe, before any epoch.")
    last_checkpoint = RunPath("checkpoints/last.ckpt", "The state after the last epoch.")
    previous_checkpoint = RunPath("checkpoints/previous.ckpt", "The checkpoint that the newest one took the place of.")
    step_checkpoint = RunPath("checkpoints/step.ckpt", "The state between two steps of an epoch.")

    metrics = RunPath("metrics.csv", "One row an epoch.")
    history = RunPath("training_history.json", "The same as JSON.")
    history_plots = RunPath("training_history", "Plots of it.")

    onnx = RunPath("model.onnx", "The network, float32.")
    pipeline = RunPath("pipeline.onnx", "The network with its preprocessing, from pixels to probabilities.")
    weights = RunPath("model.safetensors", "The weights for PyTorch, loadable without pickle.")
    hub_config = RunPath("config.json", "What timm and the Hub read beside the weights.")
    golden = RunPath("golden", "Images and their probabilities, to check other clients with.")
    demo = RunPath("demo.html", "A page that classifies images in the browser.")
    labels_mapping = RunPath("labels_mapping.json", "Class names, their indices, and the normalization.")
    model_info = RunPath("model_info.json", "What the model is, and what was written of it.")
    model_summary = RunPath("model_summary.txt", "The layers of the network.")
    model_card = RunPath("MODEL_CARD.md", "What a person who is handed the model should know.")

    evaluation = RunPath("evaluation", "Metrics, mistakes and plots of the scored split.")
    classification_report = RunPath("evaluation/classification_report.json", "The metrics of an evaluation.")
    predictions = RunPath("evaluation/predictions.csv", "What was predicted for each image.")
    errors = RunPath("evaluation/errors.csv", "Those that were wrong, the worst first.")
    learning_points = RunPath("evaluation/learning_points.json", "Errors of linear probes on parts of the images.")
    learning_curve = RunPath("evaluation/learning_curve.json", "About how many training images a class needs.")
    test_predictions = RunPath("evaluation/test_predictions.csv", "Predictions for test images that have no labels.")
    corrections_effect = RunPath(
        "evaluation/corrections_effect.json", "The run against the one that it started from, on the same images."
    )
    trained_again = RunPath(
        "evaluation/trained_again.json", "A run that was trained again against the run before, on held-out images."
    )
    label_issues = RunPath("label_issues", "Labels that the model contradicts.")
    label_next = RunPath("label_next", "Images without labels that are worth labelling next.")
    explanations = RunPath("why", "Pages that explain single predictions.")
    features = RunPath("features.npz", "What the network's last layer is shown of each image; can be computed again.")
    benchmark = RunPath("benchmark", "Times of the model's formats.")
    folds = RunPath("folds", "Of a cross-validation: the run of each fold, in folders 0, 1, …")
    cross_validation = RunPath(
        "cross_validation.json", "Metrics of a cross-validation: mean, spread, and of each fold."
    )
    out_of_fold = RunPath("evaluation/out_of_fold.csv", "Predictions for each training image, by the fold without it.")
    out_of_fold_evaluation = RunPath("evaluation_out_of_fold", "Metrics, mistakes and plots of these predictions.")
    report = RunPath("report.html", "A page on all of this.")
    registration = RunPath("registry.json", "What the registry alone knows of this run: its version and promotions.")
    result = RunPath("result.json", "What the run gave; written at its very end, so a run without it is not finished.")

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to resume from, whole or not; or folds, each of which looks for its own."""
        # Thousands of runs are asked; a Path object for each file would double the time.
        return self.is_cross_validation or any(
            os.path.isfile(f"{self.path}/{kept.relative}")  # noqa: PTH113
            for kept in RESUMED_FROM
        )

    @property
    def is_cross_validation(self) -> bool:
        """Whether the run is made of the runs of its folds."""
        return os.path.isdir(f"{self.path}/{RunDir.folds.relative}")  # noqa: PTH112

    @property
    def is_fold(self) -> bool:
        """Whether it is the run of a fold of a cross-validation."""
        return self.path.parent.name == RunDir.folds.relative

    def root(self, config: Mapping[str, Any]) -> Path:
        """The folder of all runs that this one is in, by its path and the category and name in its configuration."""
        folder = self.path.absolute().parent
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", folder.name):
            return folder
        depth = len(days_folder(Path(), category=config.get("category"), name=config.get("name")).parts)
        return folder.parents[min(depth, len(folder.parents) - 1)]

    def fold(self, number: int) -> RunDir:
        """Run of a fold, counted from 0."""
        return RunDir(self.folds / str(number))

    @property
    def fold_runs(self) -> list[RunDir]:
        """Runs of the folds, in their order; none where the run is no cross-validation."""
        if not self.is_cross_validation:
            return []
        # A launcher's folder lies beside them.
        folders = [path for path in self.folds.iterdir() if path.name.isdigit()]
        return [RunDir(path) for path in sorted(folders, key=lambda path: int(path.name))]

    def process_log(self, rank: int) -> Path:
        """What another of several processes said, where it ended before its time."""
        return self.path / f"process-{rank}.log"

    def quantized(self, path: Path, scheme: str) -> Path:
        """Path of a file's quantized copy, such as model_int8.onnx."""
        return self.path / f"{path.stem}_{scheme}{path.suffix}"

    def epoch(self, epoch: int) -> Path:
        """Folder of one epoch's images, counted from 0."""
        return self.path / f"epoch_{epoch:03d}"


RESUMED_FROM = (RunDir.last_checkpoint, RunDir.step_checkpoint, RunDir.previous_checkpoint)


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
    above = (folder, *folder.absolute().parents)
    there = next(path for path in above if os.path.exists(path))  # noqa: PTH110 - Path's raises where no one may look
    try:
        # Permissions mean nothing to root, and a model in the cache is to stay what it is.
        reason = "" if there.stat().st_mode & 0o222 else "it is read-only"
        if not reason:
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
    """Write a CSV file atomically, row by row; see `core.display.write_rows`."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write_rows(file, header, rows, is_safe=is_safe)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and hashes of all files in a folder, in hexadecimal."""
    if kind_of_place(path) == "lance":
        return hashlib.sha256(read_bytes(path)).hexdigest()
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
