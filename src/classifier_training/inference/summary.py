"""What many predictions come to, counted as they pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from classifier_training.core.table import align
from classifier_training.inference.rows import screen_text

if TYPE_CHECKING:
    from classifier_training.inference.rows import Row


MARKS = {"low_confidence": "below the threshold", "unlike_training": "unlike the training data"}


@dataclass
class Summary:
    """Counts over rows; only the first rows themselves are kept.

    Args:
        threshold: confidence below which an answer is rejected.
        num_shown: rows to keep for the screen; None for all.
        images: rows seen.
        errors: those without an answer.
        accepted: those at or above the threshold.
        labels: answers by class.
        shown: the first rows.
        rule: what an accepted answer is; the threshold alone when left out.
        foreign: those rejected as unlike the training data.
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
        self._confidence += row["confidence"]

    @property
    def answered(self) -> int:
        """Images with an answer."""
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
        """The lines of the summary; no speed where nothing was computed."""
        parts = [
            f"{self.images:,} image{'' if self.images == 1 else 's'}",
            f"{self.errors:,} error{'' if self.errors == 1 else 's'}",
            f"{self.accepted:,}/{self.answered:,} {self.rule or f'at or above the threshold {self.threshold:g}'}",
            *([f"{self.foreign:,} unlike the training data"] if self.foreign else []),
        ]
        if self.answered:
            parts.append(f"average confidence {self._confidence / self.answered:.1%}")
        if images_per_second is not None:
            parts.append(f"{images_per_second:,.1f} images/s")
        ordered = sorted(self.labels.items(), key=lambda pair: (-pair[1], pair[0]))
        rows = [(label_text(label), f"{count:,}", f"{count / self.answered:.1%}") for label, count in ordered]
        table = align(("label", "images", "share"), rows, right=frozenset({"images", "share"})) if rows else []
        return [", ".join(parts), *(f"  {line}" for line in table)]


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
