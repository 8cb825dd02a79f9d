"""About how many training images a class needs: learning_curve.json and its plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.run_dir import write_json
from classifier_training.core.run_reader import DamagedFileError, read_values
from classifier_training.evaluation.figures.curves import MAX_PANELS, LearningCurvePanel, LearningCurvesFigure
from classifier_training.evaluation.learning_law import CurvePoints, LearningCurves
from classifier_training.evaluation.verdict import named, rounded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult
    from classifier_training.evaluation.drawing import Drawer

LEVEL = 0.90
"""Of all intervals here."""

TAILS = ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2)

MAX_GROWTH, NUM_GROWTHS = 5.0, 33
"""Times the measured images, up to which the law was tried: nothing is said of more. And steps on the way."""

MIN_TRAIN, MIN_HELD_OUT = 4, 10
"""Images of a class without which nothing is said of it."""

FINE_TUNED_SPREAD = 0.45
"""By how much the recall of a fine-tuned network may grow otherwise than that of the linear probe, whose features more
images do not change; see `LearningCurves.sample`. scripts/bench/learning_curve.py measures it."""

MAX_ROWS = 10
"""Classes that are forecast, those with the lowest recall first."""


def learning_rows(
    points: CurvePoints,
    class_names: Sequence[str],
    hits: NDArray[np.int64],
    support: NDArray[np.int64],
    targets: Sequence[float | None],
    *,
    is_probe: bool,
    seed: int,
) -> list[dict[str, Any]]:
    """Say of the classes with the lowest recall how it is going to grow, and about how many images a target needs.

    Args:
        points: what was measured.
        class_names: [K].
        hits: held-out images that the finished model classified correctly, by class [K].
        support: held-out images [K].
        targets: recall that is asked for [K]; None leaves a class out.
        is_probe: whether the finished model is the linear probe, and not fine-tuned.
        seed: of the draws.

    Returns:
        Rows of learning_curve.json: label, target; recall `now` with its 90 % interval; images_now; images_for_target
        with both ends of its interval, each None where it is more than was tried; forecasts of the recall with more
        images; reason, why there is no number.
    """
    recall = hits / np.maximum(support, 1)
    asked = [place for place, target in enumerate(targets) if target is not None]
    held_out = np.minimum(support, points.held_out)
    enough = np.flatnonzero((points.sizes[:, -1] >= MIN_TRAIN) & (held_out >= MIN_HELD_OUT)).tolist()
    curves = LearningCurves(points.of(enough)) if enough else None
    rows, told = [], set(enough)
    # Classes of which nothing can be told come last: without held-out images their recall is not known to be low.
    for place in sorted(asked, key=lambda place: (place not in told, recall[place], place))[:MAX_ROWS]:
        row: dict[str, Any] = {
            "label": class_names[place], "target": float(targets[place] or 0),
            "now": float(recall[place]) if support[place] else None, "low": None, "high": None,
            "images_now": int(points.images_now[place]), "images_for_target": None, "images_low": None,
            "images_high": None, "forecasts": [], "reason": None,
        }  # fmt: skip
        if curves is None or place not in told:
            row["reason"] = (
                f"too few images: {points.sizes[place, -1]} for training and {held_out[place]} held out, where "
                f"{MIN_TRAIN} and {MIN_HELD_OUT} are needed"
            )
        else:
            of_class = (int(hits[place]), int(support[place]))
            spread = 0.0 if is_probe else FINE_TUNED_SPREAD
            row |= _forecast(curves, enough.index(place), hits=of_class, target=row["target"], spread=spread, seed=seed)
        rows.append(row)
    return rows


def _forecast(
    curves: LearningCurves, place: int, *, hits: tuple[int, int], target: float, spread: float, seed: int
) -> dict[str, Any]:
    """Return what a row says of the recall of a class with more images."""
    now, measured = int(curves.points.images_now[place]), int(curves.points.sizes[place, -1])
    # Where only a part of the images was used, less is known of more.
    images = np.unique(np.round(now * np.geomspace(1, MAX_GROWTH, NUM_GROWTHS)).astype(np.int64))
    images = images[images <= MAX_GROWTH * measured]
    if not len(images):
        return {"reason": f"only {measured:,} of the {now:,} images were used"}
    recall, limit = curves.sample(place, images / now, hits=hits, spread=spread, seed=seed)
    low, middle, high = np.quantile(recall, TAILS, axis=0)
    found: dict[str, Any] = {
        "low": float(low[0]),
        "high": float(high[0]),
        "forecasts": [
            {"images": number, "recall": float(at), "low": float(below), "high": float(above)}
            for number, at, below, above in zip(images.tolist(), middle, low, high, strict=True)
        ],
    }
    for name, ends in (("images_low", high), ("images_for_target", middle), ("images_high", low)):
        reached = np.flatnonzero(ends >= target)
        found[name] = int(images[reached[0]]) if len(reached) else None
    if found["images_for_target"] is None:
        unlikely = np.mean(limit >= target) < TAILS[0]
        found["reason"] = (
            "not reachable by more images of this kind" if unlikely else f"more than {images[-1]:,} images"
        )
    return found


def forecast_words(row: Mapping[str, Any], name: str) -> str:
    """Say how many more training images a class needs by its learning curve; nothing where that says nothing of it."""
    if row.get("label") != name:
        return ""
    now, wanted, reason = int(row["images_now"]), row.get("images_for_target"), str(row.get("reason") or "")
    if wanted is None:
        if reason.startswith("more than"):
            return f"{reason} of {named(name)}"
        return "" if not reason or reason.startswith("too few") else f"{named(name)}: {reason}"
    low, high = (None if row.get(end) is None else max(0, int(row[end]) - now) for end in ("images_low", "images_high"))
    spread = ""
    if low is not None and high is not None:
        spread = f" ({rounded(low):,} to {rounded(high):,})"
    elif low is not None:
        spread = f" ({rounded(low):,} or more)" if low else " (perhaps far more)"
    return f"about {rounded(max(1, int(wanted) - now)):,} more of {named(name)}{spread}"


def write_learning_curve(
    run_dir: RunDir,
    scored: SplitResult,
    class_names: Sequence[str],
    drawer: Drawer,
    *,
    targets: Sequence[float | None],
    is_probe: bool,
    seed: int,
) -> None:
    """Write learning_curve.json and have its plot painted, where the linear probe of the run has left its points.

    Args:
        run_dir: the run.
        scored: predictions of its model on the held-out images.
        class_names: [K].
        drawer: paints.
        targets: recall that is asked for [K]; None leaves a class out.
        is_probe: whether its model is the linear probe, and not fine-tuned.
        seed: of the run.

    Raises:
        OSError: when a file cannot be read or written.
        DamagedFileError: when the points are damaged.
    """
    path = run_dir.learning_curve
    plot = path.with_suffix(".png")
    for earlier in (path, plot):
        earlier.unlink(missing_ok=True)
    if not run_dir.learning_points.exists():
        return
    points = read_points(run_dir.learning_points)
    support = np.bincount(scored.targets, minlength=len(class_names))
    correct = scored.targets[scored.logits.argmax(axis=1) == scored.targets]
    hits = np.bincount(correct, minlength=len(class_names))
    rows = learning_rows(points, class_names, hits, support, targets, is_probe=is_probe, seed=seed)
    write_json(path, rows)
    panels = [_panel(row, points, class_names.index(row["label"])) for row in rows if row["forecasts"]][:MAX_PANELS]
    if panels:
        drawer.submit(LearningCurvesFigure(panels=panels), plot)


def read_points(path: Path) -> CurvePoints:
    """Read learning_points.json.

    Raises:
        OSError: when it cannot be read.
        DamagedFileError: when it is damaged.
    """
    try:
        return CurvePoints.from_dict(read_values(path))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(path, f"{type(error).__name__}: {error}") from error


def _panel(row: dict[str, Any], points: CurvePoints, place: int) -> LearningCurvePanel:
    return LearningCurvePanel(
        label=row["label"],
        target=row["target"],
        measured_images=points.sizes[place].tolist(),
        measured_recall=(1 - points.errors[place] / points.held_out[place]).tolist(),
        forecast=[(item["images"], item["recall"], item["low"], item["high"]) for item in row["forecasts"]],
    )
