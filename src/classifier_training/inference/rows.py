"""A prediction as a row: the same names in every format, and text that every reader takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from typing import NotRequired

    from classifier_training.core.types import Prediction


class Share(TypedDict):
    """A class and its probability."""

    label: str
    probability: float


class Row(TypedDict):
    """One image's answer; see Prediction for the meaning of the fields."""

    path: str
    label: str | None
    confidence: float | None
    top_k: list[Share]
    rejected: bool | None
    reject_reason: str | None
    error: str | None
    probabilities: NotRequired[dict[str, float] | None]


def to_row(prediction: Prediction, *, probabilities: bool) -> Row:
    """Return the row of a prediction."""
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
    return row


def valid_text(text: str) -> str:
    r"""Write the bytes of a file name that are no UTF-8 as `\xNN`, which every format can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    return text


def screen_text(text: str) -> str:
    """Write what would move the cursor or colour a terminal as escapes: a file's name can hold anything."""
    text = valid_text(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
