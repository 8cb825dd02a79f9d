"""`predict`: labels for new images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.run_dir import write_json
from classifier_training.core.types import Prediction
from classifier_training.data.index import is_image, walk_files
from classifier_training.inference.predictor import Predictor
from classifier_training.registry.runs import find_run


@dataclass(frozen=True)
class PredictResult:
    """What a prediction gave, image by image.

    Args:
        predictions: in the order of the files.
        max_display: rows shown on the screen; 0 for all.
        output: the JSON file that was written, if one was.
    """

    predictions: tuple[Prediction, ...]
    max_display: int
    output: Path | None

    @property
    def exit_code(self) -> int:
        """0, or 3 when some files could not be read."""
        return 3 if any(prediction.error for prediction in self.predictions) else 0

    def __str__(self) -> str:
        shown = self.predictions[: self.max_display or None]
        width = max(len(prediction.path) for prediction in shown)
        lines = [_line(prediction, width) for prediction in shown]
        if len(shown) < len(self.predictions):
            lines.append(f"… and {len(self.predictions) - len(shown)} more (max_display=0 shows all)")
        failed = sum(prediction.error is not None for prediction in self.predictions)
        rejected = sum(bool(prediction.rejected) for prediction in self.predictions)
        lines.append(
            f"\n{len(self.predictions)} images, {failed} errors, "
            f"{len(self.predictions) - failed - rejected} at or above the threshold"
        )
        if self.output is not None:
            lines.append(f"written to {self.output}")
        return "\n".join(lines)


@register(group="verb", name="predict")
def predict(
    *,
    run: str = "latest",
    source: str,
    output: str | None = None,
    top_k: Annotated[int, Field(ge=1)] = 3,
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5,
    probabilities: bool = False,
    max_display: Annotated[int, Field(ge=0)] = 20,
) -> PredictResult:
    """Label an image, or all images of a folder, with a finished run.

    Args:
        run: run folder, latest or best.
        source: image file, or a folder that is searched to its end.
        output: JSON file to write.
        top_k: likeliest classes to list for each image.
        threshold: confidence below which an answer is marked as rejected.
        probabilities: write the probability of every class.
        max_display: rows shown on the screen; 0 shows all.
    """
    paths = find_images(source)
    predictor = Predictor(find_run(run).path)
    found = tuple(predictor.predict(paths, top_k=top_k, threshold=threshold, probabilities=probabilities))
    written = None
    if output is not None:
        written = Path(output).expanduser()
        write_json(written, [prediction.to_dict() for prediction in found])
    return PredictResult(found, max_display, written)


def find_images(source: str) -> list[str]:
    """List the images that a source stands for.

    Raises:
        UserError: when there are none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = [str(file) for file in walk_files(path) if is_image(file)]
        if found:
            return found
    elif path.exists():
        return [str(path)]
    raise UserError(
        f"source={source}: {'no image in this folder' if path.is_dir() else 'there is no such file or folder'}",
        "an image, or a folder of images",
        "source=/path/to/image.jpg",
    )


def _line(prediction: Prediction, width: int) -> str:
    if prediction.error is not None:
        return f"{prediction.path:<{width}}  error: {prediction.error}"
    best, *others = prediction.top_k
    rest = "  ".join(f"{label or '(empty)'} {value:.1%}" for label, value in others)
    mark = "  below the threshold" if prediction.rejected else ""
    return f"{prediction.path:<{width}}  {best[0] or '(empty)'} {best[1]:.1%}   {rest}{mark}"
