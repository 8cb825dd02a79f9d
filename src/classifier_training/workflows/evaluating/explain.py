"""Why a run's model is wrong about an image: its nearest training images, and those whose change makes it right."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, plural, shown
from classifier_training.core.errors import nearest as close_words
from classifier_training.core.run_dir import RunDir, make_folder, write_json
from classifier_training.core.types import TRAIN, VAL, softmax, spread_rows
from classifier_training.evaluation import report
from classifier_training.evaluation.influence import MAX_CHANGED, Change, Flip, LogisticHead, fit_head
from classifier_training.evaluation.label_quality import MAX_FITTED
from classifier_training.evaluation.neighbours import nearest
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.features import RunFeatures, run_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

NUM_NEIGHBOURS = 10


@dataclass(frozen=True)
class TrainingImage:
    """A training image beside the one that is explained.

    Args:
        path: of the file, as in predictions.csv.
        label: that the run was trained with.
        similarity: cosine of the two images' features.
    """

    path: str
    label: str
    similarity: float


@dataclass(frozen=True)
class FlippingSet:
    """Training images whose removal, or whose relabelling, makes the prediction right.

    Args:
        found: whether there is such a set of at most `limit` images that the search found.
        images: of the set, those with the largest effect first; none where the head that is fitted anew is right
            without any change.
        probability: of the true class after the change, by the head that was fitted again; None where none was found.
        limit: images up to which it was looked for.
    """

    found: bool
    images: tuple[TrainingImage, ...]
    probability: float | None
    limit: int


@dataclass(frozen=True)
class Explanation:
    """Why an image was predicted as it was.

    Args:
        path: of the file, as in predictions.csv.
        split: that it is in.
        label: of the image.
        predicted: by the model.
        confidence: of the prediction, calibrated.
        neighbours: the nearest training images, the nearest first.
        remove: the set whose removal makes the prediction right; None for a prediction that is right.
        relabel: the set whose relabelling as the image's class makes it right; None for one that is right.
        agreement: share of the held-out images that the fitted head predicts as the model does.
    """

    path: str
    split: str
    label: str
    predicted: str
    confidence: float
    neighbours: tuple[TrainingImage, ...]
    remove: FlippingSet | None
    relabel: FlippingSet | None
    agreement: float

    def findings(self) -> list[tuple[str, tuple[TrainingImage, ...]]]:
        """What was found: sentences, each with the training images that it is about."""
        label, predicted = shown(self.label), shown(self.predicted)
        votes = sum(image.label == self.predicted for image in self.neighbours)
        first = f"label {label}, predicted {predicted} with confidence {self.confidence:.2f}"
        near = f"{votes} of the {len(self.neighbours)} nearest training images are {predicted}"
        if self.remove is None or self.relabel is None:
            return [(f"{first}: correct", ()), (near, self.neighbours)]
        found: list[tuple[str, tuple[TrainingImage, ...]]] = [(first, ()), (near, self.neighbours)]
        if self.remove.found and not self.remove.images:
            head = f"a last layer that is fitted anew to all training images predicts {label}"
            return [*found, (f"{head} ({self.remove.probability:.2f}); no image has to be changed", ())]
        for change, done in ((self.remove, "without"), (self.relabel, f"after relabelling as {label}")):
            if change.found:
                which = "this" if len(change.images) == 1 else "these"
                words = f"{which} {plural(len(change.images), 'training image')}"
                found.append((f"predicted {label} ({change.probability:.2f}) {done} {words}", change.images))
            else:
                found.append((f"still wrong {done} any set of up to {change.limit} training images that was tried", ()))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "findings": [sentence for sentence, _ in self.findings()]}


class Explainer:
    """Explains predictions of a run; the head is fitted when it is first needed.

    Args:
        run_dir: a finished run.
        moved_to: folder that its images are in now, if not where they were.

    Raises:
        UserError: when the run has no features; see `run_features`.
    """

    def __init__(self, run_dir: RunDir, *, moved_to: str | None = None) -> None:
        self.run_dir = run_dir
        self.features = run_features(run_dir, moved_to=moved_to)
        self._train = self.features.rows(TRAIN)
        if len(self._train) > MAX_FITTED:
            log.info(
                "why: %s of the %s training images, spread evenly, are looked at; more would take too long",
                f"{MAX_FITTED:,}", f"{len(self._train):,}",
            )  # fmt: skip
            self._train = self._train[spread_rows(len(self._train), MAX_FITTED)]

    @cached_property
    def head(self) -> LogisticHead:
        """A logistic head, fitted to the features of the training images."""
        features = self.features
        val = features.rows(VAL)
        if not len(val):
            raise UserError(
                "no validation image of the run can be read",
                "validation images, by which the head is chosen",
                "mount the data where it was, or name its folder: data.root=/my/images",
            )
        return fit_head(
            features.values[self._train],
            features.targets[self._train],
            features.values[val],
            features.targets[val],
            num_classes=len(features.class_names),
        )

    @cached_property
    def agreement(self) -> float:
        """Share of the held-out images that the head predicts as the model does."""
        held_out = self.features.rows(*{split for split in self.features.splits if split != TRAIN})
        found = self.head.logits(self.features.values[held_out]).argmax(axis=1)
        return float((found == self.features.logits[held_out].argmax(axis=1)).mean())

    def explain(self, path: str) -> Explanation:
        """Explain the prediction for one of the run's images.

        Args:
            path: as in predictions.csv or splits.csv, or the end of it where one image alone ends so.

        Raises:
            UserError: when the run has no such image that can be read, or the model does not know its label.
        """
        features = self.features
        row = _find(features, path, self.run_dir.path)
        logits = features.logits[row] / np.float32(features.temperature)
        predicted, true = int(logits.argmax()), int(features.targets[row])
        if true < 0:
            raise UserError(
                f"{features.files[row]}: its label {features.labels[row]!r} is none that the model knows",
                f"one of {enumerate_words(map(repr, features.class_names), limit=5)}",
                "choose another image",
            )
        own = [int(place) for place in np.flatnonzero(self._train == row)]
        similar = nearest(features.values[self._train], features.values[row][None], NUM_NEIGHBOURS + 1)
        neighbours = [
            self._image(place, similarity)
            for place, similarity in zip(similar.rows[0].tolist(), similar.similarities[0].tolist(), strict=True)
            if place not in own
        ]
        changes: list[FlippingSet] = []
        if predicted != true:
            changes = [self._search(row, true, change, own) for change in ("remove", "relabel")]
        return Explanation(
            path=features.files[row],
            split=features.splits[row],
            label=features.labels[row],
            predicted=features.class_names[predicted],
            confidence=float(softmax(logits[None]).max()),
            neighbours=tuple(neighbours[:NUM_NEIGHBOURS]),
            remove=changes[0] if changes else None,
            relabel=changes[1] if changes else None,
            agreement=self.agreement,
        )

    def _search(self, row: int, true: int, change: Change, own: list[int]) -> FlippingSet:
        query = self.features.values[row]
        found: Flip | None = self.head.find_flip(query, true, change, without=own)
        if found is None:
            return FlippingSet(found=False, images=(), probability=None, limit=MAX_CHANGED)
        places = list(found.rows)
        similar = _cosines(self.features.values[self._train[places]], query)
        images = [self._image(place, similarity) for place, similarity in zip(places, similar, strict=True)]
        return FlippingSet(found=True, images=tuple(images), probability=found.probability, limit=MAX_CHANGED)

    def _image(self, place: int, similarity: float) -> TrainingImage:
        row = self._train[place]
        return TrainingImage(self.features.files[row], self.features.labels[row], round(similarity, 4))


def _cosines(values: NDArray[np.floating], query: NDArray[np.floating]) -> list[float]:
    found = nearest(query[None], values, 1).similarities[:, 0]
    return [float(value) for value in found]


def _find(features: RunFeatures, path: str, run: Path) -> int:
    row = features.row_of(path)
    if row >= 0:
        return row
    ending = [place for place, name in enumerate(features.paths) if f"/{name}".endswith(f"/{path}")]
    if len(ending) == 1:
        return ending[0]
    reason = features.unreadable.get(path)
    if reason is not None:
        raise UserError(f"{path}: cannot be read ({reason})", "an image that can be read", "choose another image")
    if ending:
        named = [features.paths[place] for place in ending]
        raise UserError(
            f"{path}: {plural(len(ending), 'image')} of the run end so: {enumerate_words(named, limit=3)}",
            "one image",
            f"why={named[0]}",
        )
    close = close_words(path, features.paths)
    raise UserError(
        f"{path}: no image of {run}",
        "a path as in the run's evaluation/errors.csv or splits.csv",
        f"why={close[0] if close else features.paths[-1]}",
    )


def explain_error(run: RunDir | str, path: str, *, moved_to: str | None = None) -> Explanation:
    """Explain the prediction of a run's model for one of its images; see `Explainer.explain`.

    What was read and fitted for a run is kept for the next image of it.

    Args:
        run: a finished run, or what `find_run` finds it by.
        path: of the image, as in predictions.csv.
        moved_to: folder that the images are in now, if not where they were.

    Raises:
        UserError: when the run or the image cannot be found, or the network has no features.
    """
    run_dir = find_run(run) if isinstance(run, str) else run
    state = tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in (run_dir.onnx, run_dir.splits))
    return _explainer(run_dir, moved_to, state).explain(path)


@lru_cache(maxsize=2)
def _explainer(run_dir: RunDir, moved_to: str | None, _state: tuple[int, ...]) -> Explainer:
    return Explainer(run_dir, moved_to=moved_to)


@dataclass(frozen=True)
class ExplanationReport:
    """What was written.

    Args:
        folder: with report.html and why.json.
        explanations: of the images.
    """

    folder: Path
    explanations: tuple[Explanation, ...]

    def __str__(self) -> str:
        lines = []
        for one in self.explanations:
            lines.append(one.path)
            for sentence, images in one.findings():
                lines.append(f"  {sentence}{':' if images else ''}")
                lines += [f"    {image.path}" for image in images]
        return "\n".join([*lines, f"page: {self.folder / 'report.html'}"])


def report_errors(
    run: str, paths: str | Sequence[str], *, moved_to: str | None = None, output: str | None = None
) -> ExplanationReport:
    """Explain predictions, and write a page with thumbnails and why.json.

    Args:
        run: a finished run, as for `find_run`.
        paths: of one image or several.
        moved_to: folder that the run's images are in now, if not where they were.
        output: folder to write to; one for these images inside the run when left out.

    Raises:
        UserError: when the run or an image cannot be found, or the network has no features.
    """
    explainer = Explainer(find_run(run), moved_to=moved_to)
    named = [paths] if isinstance(paths, str) else list(dict.fromkeys(paths))
    found = tuple(explainer.explain(path) for path in named)
    run_dir = explainer.run_dir
    if output:
        folder = Path(output).expanduser()
    else:
        digest = hashlib.sha256("\n".join(one.path for one in found).encode()).hexdigest()[:8]
        folder = run_dir.explanations / f"{Path(found[0].path).stem}-{digest}"
    make_folder(folder)
    write_json(folder / "why.json", [one.to_dict() for one in found])
    _write_page(folder / "report.html", run_dir, found)
    return ExplanationReport(folder, found)


def _write_page(path: Path, run_dir: RunDir, found: Sequence[Explanation]) -> None:
    body = [report.header(f"Why these predictions: {run_dir.path.name}", str(run_dir.path))]
    for one in found:
        words = f"predicted {shown(one.predicted)} {one.confidence:.0%}\n{Path(one.path).name}"
        title = f"label: {shown(one.label)}"
        pieces = [report.thumbnails([report.thumbnail(Path(one.path), title, words)])]
        for sentence, images in one.findings():
            pieces.append(report.paragraph(f"{sentence[0].upper()}{sentence[1:]}{':' if images else '.'}"))
            pieces += [_images(images)] if images else []
        body.append(report.section(Path(one.path).name, *pieces))
    body.append(
        report.footer(
            "Cosine similarity of what the last layer is shown. Sets were found by influence functions (Koh & Liang "
            "2017, arXiv:1703.04730; Yang et al. 2023, arXiv:2302.02169) and verified by fitting a logistic last layer "
            f"again, which agrees with the model on {found[0].agreement:.1%} of the held-out images. The layers below "
            "stay as they are, with what they learned from every image."
        )
    )
    report.write_page(path, title=f"Why: {run_dir.path.name}", body=body)


def _images(images: Sequence[TrainingImage]) -> report.Html:
    return report.thumbnails(
        report.thumbnail(
            Path(image.path), f"label: {shown(image.label)}", f"{image.similarity:.2f}\n{Path(image.path).name}"
        )
        for image in images
    )
