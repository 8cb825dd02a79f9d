"""`evaluate`: a finished run's metrics on labelled images."""

from __future__ import annotations

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.images import UnreadableImageError, read_size
from classifier_training.core.register import Choice, register
from classifier_training.core.run_dir import make_folder
from classifier_training.core.runtime import num_cores
from classifier_training.core.types import TEST, TRAIN, VAL, SplitResult, SplitTable
from classifier_training.data.formats.auto import AutoData
from classifier_training.data.formats.source import TRAINING_ALONE, DataSource
from classifier_training.data.load import read_samples
from classifier_training.data.splitting.splits import read_manifest
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.metrics import classification_metrics, cross_entropies
from classifier_training.evaluation.results import Evaluation
from classifier_training.evaluation.slices import field_bins, size_bins
from classifier_training.workflows.evaluating.against import compare_runs
from classifier_training.workflows.evaluating.maps import draw_maps, forget_maps
from classifier_training.workflows.evaluating.opened import OpenedModel, open_model
from classifier_training.workflows.evaluating.run_page import write_run_page
from classifier_training.workflows.evaluating.samples import (
    known_samples,
    own_source,
    tabulate,
    unknown_labels,
    with_metadata,
)
from classifier_training.workflows.evaluating.scores import write_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.core.types import SplitTable
    from classifier_training.data.index import Sample
    from classifier_training.inference.predictor import Predictor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation gave.

    Args:
        folder: where the result files are.
        result: the predictions.
        evaluation: their metrics.
        verdict: on the comparison with another run, in one sentence; empty without one.
    """

    folder: Path
    result: SplitResult
    evaluation: Evaluation
    verdict: str = ""

    def __str__(self) -> str:
        lines = [str(self.evaluation), *([self.verdict] if self.verdict else [])]
        lines.append(f"written to {self.folder}; the page to open: {self.folder / 'report.html'}")
        return "\n".join(lines)


@register(group="verb", name="evaluate")
def evaluate(
    *,
    run: str = "latest",
    data: Annotated[DataSource, Choice("auto")],
    split: Literal["train", "val", "test"] | None = None,
    against: str | None = None,
    slices: str | list[str] | None = None,
    intervals: bool = True,
    maps: bool = False,
    output: str | None = None,
    csv_safe: bool = False,
) -> EvaluateResult:
    """Score a finished run's model on its own held-out images, or on other labelled data.

    data.root names other data, and data.on_error=skip leaves out images that cannot be read, as do the own images of a
    run that was trained so. The other settings of data are for training.

    Args:
        run: run folder, latest, best, NAME, NAME:v2, an alias such as production, or a file to score: model_int8.onnx,
            checkpoints/best.ckpt.
        split: which part of the data; test when left out, or all of data that is not split.
        against: another run, named in the same way, to compare with on the same images.
        slices: what to give metrics of parts by: group, size (of the image) or a field of the metadata; one or
            several.
        intervals: find the 95 % interval of every metric.
        maps: also draw embedding.png, a map of the images by what the network sees in them, and occlusion.png, the
            places that the worst mistakes were decided by; it takes a minute or so more.
        output: folder for the result files; a folder inside the run when left out.
        csv_safe: write the tables so that no label or path is a formula to a spreadsheet; needs output.
    """
    _refuse_idle(data)
    if csv_safe and output is None:
        raise UserError(
            "csv_safe=true without output: other verbs read the tables inside a run, and would find other labels",
            "a folder of your own for the tables",
            "output=/some/folder",
        )
    opened = open_model(run)
    other = open_model(against, setting="against") if against else None
    if output:
        make_folder(Path(output).expanduser())
    predictor, run_dir = opened.predictor, opened.run_dir
    own_data = not data.is_named
    if own_data and not run_dir.splits.exists():
        raise UserError(
            f"run={run}: {run_dir.splits} does not exist, so the run's own images are not known",
            "a run folder, or a file in one, or data to score it on",
            "data.root=/my/images",
        )
    source = own_source(run_dir) if own_data else data
    index = source.read() if own_data else read_samples(source)
    rows = with_metadata(read_manifest(run_dir.splits), index) if own_data else index.samples
    chosen = _choose_split(rows, split)
    folder = Path(output).expanduser() if output else _default_folder(opened, index.root, chosen, own_data=own_data)
    make_folder(folder)
    table = tabulate(rows, index.root, chosen, predictor.class_names)
    names = [slices] if isinstance(slices, str) else slices or []
    columns = slice_columns(names, known_samples(rows, chosen, predictor.class_names), table)
    result = _score(predictor, table, skips="skip" in (data.on_error, source.on_error))
    with Drawer() as drawer:
        evaluation = write_scores(
            folder,
            result,
            table,
            predictor.class_names,
            drawer,
            calibration=predictor.calibration,
            source=opened.path.name,
            slices=columns,
            unknown_labels=unknown_labels(rows, chosen, predictor.class_names),
            intervals=intervals,
            csv_safe=csv_safe,
        )
        verdict = compare_runs(folder, result, table, opened, other, csv_safe=csv_safe) if other else ""
        if maps:
            draw_maps(folder, opened, result, table, drawer)
        else:
            forget_maps(folder)
    calibration = predictor.calibration
    write_run_page(
        folder / run_dir.report.name, run_dir, folder, result, table, predictor.class_names, evaluation,
        temperature=None if calibration is None else calibration.temperature,
    )  # fmt: skip
    return EvaluateResult(folder, result, evaluation, verdict)


def _refuse_idle(data: DataSource) -> None:
    """Refuse what would change nothing: an evaluation splits nothing, and the model says how it wants its images."""
    for field in dataclasses.fields(data):
        idle = field.name in TRAINING_ALONE or (field.name not in ("root", "on_error") and not data.is_named)
        if idle and getattr(data, field.name) != field.default:
            raise UserError(
                f"data.{field.name}={getattr(data, field.name)} has no effect on an evaluation",
                "data.root, data.on_error and how the data is read" if data.is_named else "data.on_error alone",
                "leave it out",
            )
    if not data.is_named and not isinstance(data, AutoData):
        raise UserError(
            "data= without data.root names no data",
            "a form of data and its folder, or neither for the run's own images",
            "data.root=/my/images, or leave data= out",
        )


def _choose_split(rows: Sequence[Sample], wanted: str | None) -> str:
    present = {sample.split for sample in rows}
    if wanted is None:
        return next((name for name in (TEST, VAL, "", TRAIN) if name in present), "")
    if wanted not in present:
        listed = ", ".join(sorted(present - {""}))
        raise UserError(
            f"split={wanted}: the data has no such split",
            f"one of {listed}" if listed else "no split= for data that is not split",
            f"split={next(iter(sorted(present - {''})))}" if listed else "leave split= out",
        )
    return wanted


def _score(predictor: Predictor, table: SplitTable, *, skips: bool) -> SplitResult:
    logits, indices = [], []
    for index, answer in enumerate(predictor.answers(table.paths)):
        if answer.logits is None:
            if not skips:
                raise UnreadableImageError(answer.path, str(answer.error))
            log.warning("left out %s: %s", answer.path, answer.error)
        else:
            logits.append(answer.logits)
            indices.append(index)
    if not logits:
        raise UserError(
            f"{table.paths[0]}: neither this nor any other image can be read",
            "readable images",
            "look at the files",
        )
    stacked = np.stack(logits)
    rows = np.array(indices, dtype=np.int64)
    targets = table.targets[rows]
    losses = cross_entropies(stacked, targets)
    metrics = classification_metrics(stacked, targets, losses, predictor.class_names)
    return SplitResult(table.name, stacked, targets, rows, losses, metrics)


def _default_folder(opened: OpenedModel, root: Path, split: str, *, own_data: bool) -> Path:
    # The predictions of another file of the run do not replace those of model.onnx.
    file = [] if opened.is_main else [opened.path.stem]
    data = [] if own_data else [root.name]
    part = [split] if split and not (own_data and split == TEST) else []
    return opened.run_dir.path / "_".join([opened.run_dir.evaluation.name, *file, *data, *part])


GROUP, SIZE = "group", "size"


def slice_columns(names: Sequence[str], samples: Sequence[Sample], table: SplitTable) -> dict[str, list[str]]:
    """Return, for each name, the slice of each sample.

    Args:
        names: group, size (by the shorter side in pixels), or a field of the metadata.
        samples: of the table, in its order, with their metadata.
        table: the split.

    Raises:
        UserError: for a name that these images do not have.
    """
    fields = list(dict.fromkeys(name for sample in samples for name in sample.metadata or {}))
    found = {}
    for name in names:
        if name == SIZE:
            found[name] = _sizes(table.paths)
        elif name == GROUP and any(table.groups):
            found[name] = [group or "(none)" for group in table.groups]
        elif name in fields:
            found[name] = field_bins([(sample.metadata or {}).get(name) for sample in samples])
        else:
            known = [SIZE, *([GROUP] if any(table.groups) else []), *fields]
            close = nearest(name, known)
            raise UserError(
                f"slices={name}: the images have no {'groups' if name == GROUP else 'such field'}",
                f"one of {enumerate_words(known)}",
                f"slices=[{close[0] if close else SIZE}]",
            )
    return found


def _sizes(paths: Sequence[str]) -> list[str]:
    """Bin the sizes in the files' headers; whoever decodes a file that has none will name it."""

    def read(path: str) -> tuple[int, int] | None:
        try:
            return read_size(path)
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor(max_workers=2 * num_cores()) as pool:
        sizes = list(pool.map(read, paths, chunksize=64))
    bins = iter(size_bins([size for size in sizes if size is not None]))
    return ["(unreadable)" if size is None else next(bins) for size in sizes]
