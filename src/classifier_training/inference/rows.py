"""Predictions as rows: their fields, the file formats they are written in, and a summary of many."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from classifier_training.core.display import align, write_rows
from classifier_training.core.errors import require_extra
from classifier_training.inference.rejection import RejectRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import NotRequired

    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.core.types import Prediction


class Share(TypedDict):
    """A class and its probability."""

    label: str
    probability: float


class Row(TypedDict):
    """One image's prediction; see `Prediction` for the meaning of the fields."""

    path: str
    label: str | None
    confidence: float | None
    top_k: list[Share]
    rejected: bool | None
    reject_reason: str | None
    error: str | None
    probabilities: NotRequired[dict[str, float] | None]
    label_set: NotRequired[list[str] | None]


def to_row(prediction: Prediction, *, probabilities: bool, label_set: bool = False) -> Row:
    """Return the row of a prediction, with the probabilities of all classes and the label set if asked for."""
    row = Row(
        path=valid_text(prediction.path),
        label=prediction.label,
        confidence=prediction.confidence,
        top_k=[Share(label=label, probability=value) for label, value in prediction.top_k],
        rejected=prediction.rejected,
        reject_reason=prediction.reject_reason,
        error=None if prediction.error is None else valid_text(prediction.error),
    )
    if probabilities:
        row["probabilities"] = None if prediction.probabilities is None else dict(prediction.probabilities)
    if label_set:
        row["label_set"] = None if prediction.label_set is None else list(prediction.label_set)
    return row


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """What rows say of an image beside the prediction.

    Args:
        top_k: top predictions to list.
        rule: when a prediction is rejected.
        unknown: whether a rejected prediction has the label `unknown`.
        probabilities: whether to list every class.
        set_thresholds: probability from which on each class is in the label set [K]; None without label sets.
    """

    top_k: int = 3
    rule: RejectRule = field(default_factory=RejectRule)
    unknown: bool = False
    probabilities: bool = False
    set_thresholds: NDArray[np.float64] | None = None

    def row(self, prediction: Prediction) -> Row:
        """Return the row of a prediction that was made with these settings."""
        return to_row(prediction, probabilities=self.probabilities, label_set=self.set_thresholds is not None)


class Extras(NamedTuple):
    """Which fields rows have beside the usual ones.

    Args:
        probabilities: the class names when rows have probabilities, else None.
        label_set: whether rows have label sets.
    """

    probabilities: Sequence[str] | None = None
    label_set: bool = False


def valid_text(text: str) -> str:
    r"""Write the bytes of a file name that are no UTF-8 as `\xNN`, which every format can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    return text


def screen_text(text: str) -> str:
    """Escape control characters, which would move the cursor or colour a terminal; a file name may hold them."""
    text = valid_text(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


ROW_GROUP = 4096
"""Rows of a Parquet file that are compressed together, and held in memory."""


def write_json(rows: Iterator[Row], path: Path, extras: Extras) -> None:  # noqa: ARG001
    """Write one JSON array, a row a line."""
    with path.open("w", encoding="utf-8") as file:
        before = "[\n  "
        for row in rows:
            file.write(before + to_json(row))
            before = ",\n  "
        file.write("\n]\n")


def write_jsonl(rows: Iterator[Row], path: Path, extras: Extras) -> None:  # noqa: ARG001
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_json(row) + "\n" for row in rows)


def write_csv(rows: Iterator[Row], path: Path, extras: Extras, *, is_safe: bool = False) -> None:
    """Write a table: top_k and label_set as JSON text, and the probabilities as a column prob_<class> each.

    With `is_safe`, no cell is a formula to a spreadsheet.
    """
    names = extras.probabilities or ()
    header = ["path", "label", "confidence", "top_k", "rejected", "reject_reason", "error"]
    header += ["label_set"] if extras.label_set else []
    with path.open("w", encoding="utf-8", newline="") as file:
        cells = (_csv_cells(row, names) for row in rows)
        write_rows(file, [*header, *(f"prob_{name}" for name in names)], cells, is_safe=is_safe)


def _csv_cells(row: Row, names: Sequence[str]) -> list[object]:
    shares = row.get("probabilities") or {}
    return [
        row["path"],
        row["label"],
        row["confidence"],
        to_json(row["top_k"]),
        None if row["rejected"] is None else str(row["rejected"]).lower(),
        row["reject_reason"],
        row["error"],
        *([to_json(members) if (members := row["label_set"]) is not None else None] if "label_set" in row else []),
        *(shares.get(name) for name in names),
    ]


def write_parquet(rows: Iterator[Row], path: Path, extras: Extras) -> None:
    """Write a Parquet file in row groups.

    top_k is a list of structs, label_set a list of texts, probabilities a struct of the classes.

    Raises:
        UserError: when pyarrow is not installed.
    """
    pa, parquet = import_pyarrow()
    share = pa.struct([("label", pa.string()), ("probability", pa.float64())])
    fields = [
        ("path", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float64()),
        ("top_k", pa.list_(share)),
        ("rejected", pa.bool_()),
        ("reject_reason", pa.string()),
        ("error", pa.string()),
    ]
    if extras.label_set:
        fields.append(("label_set", pa.list_(pa.string())))
    if extras.probabilities is not None:
        fields.append(("probabilities", pa.struct([(name, pa.float64()) for name in extras.probabilities])))
    schema = pa.schema(fields)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


FORMATS: dict[str, Callable[[Iterator[Row], Path, Extras], None]] = {
    ".json": write_json,
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
}
"""Writers by the ending of the file."""


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def to_json(value: object) -> str:
    """Write a value as JSON on one line."""
    return _encoder.encode(value)


def import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module.

    Raises:
        UserError: when it is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise require_extra("pyarrow", extra="parquet", purpose="a .parquet output") from error
    return pa, parquet


MARKS = {"low_confidence": "below the threshold", "unlike_training": "unlike the training data"}


@dataclass
class Summary:
    """Counts over rows; only the first rows themselves are kept.

    Args:
        threshold: confidence below which a prediction is rejected.
        num_shown: rows to keep for the screen; None for all.
        images: rows seen.
        errors: those without a prediction.
        accepted: those at or above the threshold.
        labels: predictions by class.
        shown: the first rows.
        rule: what an accepted prediction is; the threshold when left out.
        foreign: those rejected as unlike the training data.
        set_words: what label sets are, for the screen; empty without them.
        set_sizes: numbers of labels in the sets.
    """

    threshold: float
    num_shown: int | None
    images: int = 0
    errors: int = 0
    accepted: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    shown: list[Row] = field(default_factory=list)
    rule: str = ""
    foreign: int = 0
    set_words: str = ""
    set_sizes: Counter[int] = field(default_factory=Counter)
    _confidence: float = 0.0

    def add(self, row: Row) -> None:
        """Count a row."""
        if self.num_shown is None or len(self.shown) < self.num_shown:
            self.shown.append(row)
        self.images += 1
        if row["label"] is None or row["confidence"] is None:
            self.errors += 1
            return
        self.accepted += not row["rejected"]
        self.foreign += row["reject_reason"] == "unlike_training"
        self.labels[row["label"]] += 1
        if members := row.get("label_set"):
            self.set_sizes[len(members)] += 1
        self._confidence += row["confidence"]

    def merge(self, other: Summary) -> None:
        """Count the rows of another summary."""
        self.images += other.images
        self.errors += other.errors
        self.accepted += other.accepted
        self.foreign += other.foreign
        self.labels.update(other.labels)
        self.set_sizes.update(other.set_sizes)
        self._confidence += other._confidence

    @property
    def classified(self) -> int:
        """Images with a prediction."""
        return self.images - self.errors

    def table(self) -> list[str]:
        """The lines of the table: path, label, confidence, the other classes."""
        if not self.shown:
            return []
        rows = [_cells(row) for row in self.shown]
        lines = align(("path", "label", "confidence", "others"), rows, right=frozenset({"confidence"}))
        more = self.images - len(self.shown)
        return [*lines, *([f"… and {more:,} more (max_display=0 shows all)"] if more else []), ""]

    def words(self, images_per_second: float | None) -> list[str]:
        """The lines of the summary; without the speed where nothing was computed."""
        parts = [
            f"{self.images:,} image{'' if self.images == 1 else 's'}",
            f"{self.errors:,} error{'' if self.errors == 1 else 's'}",
            f"{self.accepted:,}/{self.classified:,} {self.rule or f'at or above the threshold {self.threshold:g}'}",
            *([f"{self.foreign:,} unlike the training data"] if self.foreign else []),
        ]
        if self.classified:
            parts.append(f"average confidence {self._confidence / self.classified:.1%}")
        if images_per_second is not None:
            parts.append(f"{images_per_second:,.1f} images/s")
        ordered = sorted(self.labels.items(), key=lambda pair: (-pair[1], pair[0]))
        rows = [(label_text(label), f"{count:,}", f"{count / self.classified:.1%}") for label, count in ordered]
        table = align(("label", "images", "share"), rows, right=frozenset({"images", "share"})) if rows else []
        return [", ".join(parts), *(f"  {line}" for line in table), *self._sets()]

    def _sets(self) -> list[str]:
        """The line on label sets."""
        number = self.set_sizes.total()
        if not self.set_words or not number:
            return []
        mean = sum(size * count for size, count in self.set_sizes.items()) / number
        return [f"{self.set_words}: {mean:.2f} labels on average, {self.set_sizes[1] / number:.1%} have one alone"]


def label_text(label: str) -> str:
    """Write a label for the screen; the empty one is legal, and invisible."""
    return screen_text(label) or "(empty)"


def _cells(row: Row) -> tuple[str, str, str, str]:
    path = screen_text(row["path"])
    if row["label"] is None or row["confidence"] is None:
        return path, "", "", f"error: {screen_text(row['error'] or '')}"
    others = [f"{label_text(share['label'])} {share['probability']:.1%}" for share in row["top_k"][1:]]
    mark = [MARKS[row["reject_reason"] or "low_confidence"]] if row["rejected"] else []
    return path, label_text(row["label"]), f"{row['confidence']:.1%}", "  ".join([*others, *mark])
