"""What a model predicted within a time, as counts and sums that can be added: a few kilobytes, no images, no paths."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import UserError, reason_of
from classifier_training.core.run_dir import make_folder, write_text
from classifier_training.core.runtime import command, setting
from classifier_training.monitoring.statistics import HIGH, IMAGE_STATISTICS, LOW, NAMES, image_statistics, values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.monitoring.statistics import Scale

    Floats = NDArray[np.float64]

VERSION = 1

NUM_BINS = 20
"""Of each statistic's histogram, equally wide from its lowest to its highest value."""

FLUSH_S = 10.0
"""Seconds for which predictions are held before the file is written again; they are lost when a process is killed."""

SKETCHES = "sketches"
"""Folder of the sketches in the one that `serve` records in."""

HOUR = "%Y-%m-%dT%H"


@dataclass(eq=False)
class Sketch:
    """Counts and sums of predictions.

    Args:
        model: SHA-256 of the model's file.
        class_names: [K].
        number: of predictions.
        rejected: how many were marked as rejected.
        predicted: by class, int64 [K].
        probabilities: sum of the calibrated probabilities by class [K].
        known: predictions that have each statistic, int64 [F]; see `statistics.STATISTICS`.
        totals: sum of each statistic [F].
        squares: sum of each statistic's square [F].
        histograms: int64 [F, NUM_BINS].
    """

    model: str
    class_names: tuple[str, ...]
    number: int = 0
    rejected: int = 0
    predicted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    probabilities: Floats = field(default_factory=lambda: np.zeros(0))
    known: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(NAMES), np.int64))
    totals: Floats = field(default_factory=lambda: np.zeros(len(NAMES)))
    squares: Floats = field(default_factory=lambda: np.zeros(len(NAMES)))
    histograms: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(NAMES), NUM_BINS), np.int64))

    def __post_init__(self) -> None:
        if not len(self.predicted):
            self.predicted = np.zeros(len(self.class_names), np.int64)
            self.probabilities = np.zeros(len(self.class_names))

    def add(
        self, probabilities: NDArray[np.floating], values: NDArray[np.floating], rejected: NDArray[np.bool_]
    ) -> None:
        """Count predictions.

        Args:
            probabilities: calibrated [N, K].
            values: of each statistic [N, F]; NaN where it is not known.
            rejected: whether each was marked as rejected [N].
        """
        self.number += len(probabilities)
        self.rejected += int(rejected.sum())
        self.predicted += np.bincount(probabilities.argmax(axis=1), minlength=len(self.class_names))
        self.probabilities += probabilities.sum(axis=0, dtype=np.float64)
        known = np.isfinite(values)
        clipped = np.where(known, np.clip(values, LOW, HIGH), 0.0)
        self.known += known.sum(axis=0)
        self.totals += clipped.sum(axis=0)
        self.squares += np.square(clipped).sum(axis=0)
        places = np.clip((clipped - LOW) / (HIGH - LOW) * NUM_BINS, 0, NUM_BINS - 1).astype(np.int64)
        for number in range(len(NAMES)):
            self.histograms[number] += np.bincount(places[known[:, number], number], minlength=NUM_BINS)

    def merge(self, other: Sketch) -> Sketch:
        """Return the sketch of both together.

        Raises:
            ValueError: when they are of different models.
        """
        if (self.model, self.class_names) != (other.model, other.class_names):
            raise ValueError("sketches of different models cannot be merged")
        return Sketch(
            self.model, self.class_names, self.number + other.number, self.rejected + other.rejected,
            self.predicted + other.predicted, self.probabilities + other.probabilities, self.known + other.known,
            self.totals + other.totals, self.squares + other.squares, self.histograms + other.histograms,
        )  # fmt: skip

    @property
    def means(self) -> Floats:
        """Mean of each statistic [F]; NaN where no prediction has it."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.totals / self.known

    @property
    def shares(self) -> Floats:
        """Share of each class among the predictions [K]."""
        return self.predicted / max(self.number, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "version": VERSION,
            "model": self.model,
            "class_names": list(self.class_names),
            "number": self.number,
            "rejected": self.rejected,
            "predicted": self.predicted.tolist(),
            "probabilities": rounded(self.probabilities),
            "statistics": {
                name: {
                    "known": int(self.known[place]),
                    "total": rounded(self.totals[place]),
                    "squares": rounded(self.squares[place]),
                    "histogram": self.histograms[place].tolist(),
                }
                for place, name in enumerate(NAMES)
            },
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Sketch:
        """Read what `to_dict` gave.

        Raises:
            ValueError, KeyError, TypeError: when it is something else, or of another version.
        """
        if found["version"] != VERSION:
            raise ValueError(f"a sketch of version {found['version']}, and this program reads version {VERSION}")
        columns = [found["statistics"][name] for name in NAMES]
        sketch = cls(
            str(found["model"]),
            tuple(found["class_names"]),
            int(found["number"]),
            int(found["rejected"]),
            np.array(found["predicted"], np.int64),
            np.array(found["probabilities"], np.float64),
            np.array([one["known"] for one in columns], np.int64),
            np.array([one["total"] for one in columns], np.float64),
            np.array([one["squares"] for one in columns], np.float64),
            np.array([one["histogram"] for one in columns], np.int64),
        )
        shapes = {sketch.predicted.shape, sketch.probabilities.shape, (len(sketch.class_names),)}
        if len(shapes) != 1 or sketch.histograms.shape != (len(NAMES), NUM_BINS):
            raise ValueError("its parts are of different sizes")
        return sketch

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Sketch:
        """Read what `to_json` gave; raises as `from_dict`."""
        return cls.from_dict(json.loads(text))


def rounded(values: Any) -> Any:
    """Return numbers with six significant digits, as plain values."""
    plain = np.asarray(values, np.float64)
    return [rounded(one) for one in plain] if plain.ndim else float(f"{plain:.6g}")


class SketchWriter:
    """Writes the sketches of what a process predicts: a file an hour (UTC), named after the hour, the host and itself.

    Several threads may add, and several processes may write into one folder. A file is replaced as a whole, at most
    every ten seconds and at the end.

    Args:
        folder: for the files; it is made.
        model: SHA-256 of the model's file.
        class_names: [K].
        novelty: scale of the model's novelty scores; None where it has none.
        clock: seconds since 1970.

    Raises:
        UserError: when the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        class_names: Sequence[str],
        novelty: Scale | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        make_folder(folder)
        self.folder = folder
        self._model, self._class_names, self._novelty, self._clock = model, tuple(class_names), novelty, clock
        host = "".join(letter if letter.isalnum() else "_" for letter in socket.gethostname())
        # The process id alone may come again within the hour, and one process may serve two models.
        self._name = f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
        self._lock = threading.Lock()
        self._hour, self._written, self._is_new = "", 0.0, False
        self._sketch = Sketch(model, self._class_names)
        self._timer: threading.Timer | None = None

    def add(
        self,
        probabilities: NDArray[np.floating],
        rejected: NDArray[np.bool_],
        *,
        pixels: NDArray[np.uint8] | None = None,
        novelty: NDArray[np.floating] | None = None,
    ) -> None:
        """Count predictions that were made now.

        Args:
            probabilities: calibrated [N, K].
            rejected: whether each was marked as rejected [N].
            pixels: as the network was shown them, uint8 [N, H, W, 3]; None where they are not known.
            novelty: scores [N]; None where the model has none.
        """
        if not len(probabilities):
            return
        nothing = np.full((len(probabilities), len(IMAGE_STATISTICS)), np.nan)
        image = nothing if pixels is None else image_statistics(pixels)
        values = values_of(image, probabilities, novelty, self._novelty)
        now = self._clock()
        hour = datetime.fromtimestamp(now, UTC).strftime(HOUR)
        with self._lock:
            if hour != self._hour:
                self._write()
                self._hour, self._written = hour, now
                self._sketch = Sketch(self._model, self._class_names)
            self._sketch.add(probabilities, values, rejected)
            self._is_new = True
            if now - self._written >= FLUSH_S:
                self._write()
                self._written = now
            elif self._timer is None:
                # Where no other prediction follows.
                self._timer = threading.Timer(FLUSH_S, self._write_late)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Write what is held."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._write()

    def _write_late(self) -> None:
        with self._lock:
            self._timer = None
            # What cannot be written is held, and the next prediction says why.
            with suppress(OSError):
                self._write()
                self._written = self._clock()

    def _write(self) -> None:
        if self._is_new:
            write_text(self.folder / f"{self._hour}.{self._name}.json", self._sketch.to_json())
            self._is_new = False


@dataclass(frozen=True)
class Read:
    """The sketches of a folder.

    Args:
        days: the sketch of each day (UTC, YYYY-MM-DD) that has predictions, in order.
        others: predictions by other models, by the SHA-256 of their file.
        damaged: files that are no sketches, with the reason.
    """

    days: dict[str, Sketch]
    others: dict[str, int]
    damaged: dict[str, str]


def read_sketches(folder: Path, models: Collection[str]) -> Read:
    """Read the sketches of a model, by day.

    Args:
        folder: that they were written into.
        models: SHA-256 of the files that count as this model.

    Raises:
        UserError: when there is no such folder, or no sketch in it.
    """
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise UserError(
            f"{folder}: no sketches of predictions",
            "a folder that predictions were recorded in",
            f"{command('predict')} /my/images {setting('sketches', folder)}",
        )
    days: dict[str, Sketch] = {}
    others: dict[str, int] = {}
    damaged: dict[str, str] = {}
    for file in files:
        try:
            day = datetime.strptime(file.name.partition(".")[0], HOUR).replace(tzinfo=UTC).strftime("%Y-%m-%d")
            sketch = Sketch.from_json(file.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError, OSError) as error:
            damaged[file.name] = reason_of(error)
            continue
        if sketch.model not in models:
            others[sketch.model] = others.get(sketch.model, 0) + sketch.number
            continue
        # The files of one run, such as its int8 copy, count as one model.
        sketch.model = ""
        days[day] = days[day].merge(sketch) if day in days else sketch
    return Read(dict(sorted(days.items())), others, damaged)
