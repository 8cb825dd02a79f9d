"""`evaluate`: a finished run's metrics on labelled images."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from classifier_training.core.errors import UserError, plural
from classifier_training.core.register import Choice, Word, changed_options, register
from classifier_training.core.run_dir import RunDir, make_folder
from classifier_training.core.run_reader import RunReader
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.core.types import TEST, TRAIN, VAL, SplitResult
from classifier_training.data.formats.image_folder import AutoData
from classifier_training.data.formats.source import DataSource
from classifier_training.data.load import read_samples
from classifier_training.data.splitting.manifest import read_manifest
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.results import Evaluation, class_table
from classifier_training.evaluation.slices import slice_columns
from classifier_training.evaluation.verdict import NO_TARGETS, Targets
from classifier_training.registry.runs import find_model
from classifier_training.workflows.evaluating.against import compare_runs, trained_on
from classifier_training.workflows.evaluating.maps import draw_maps, forget_maps
from classifier_training.workflows.evaluating.run_model import RunModel, open_model
from classifier_training.workflows.evaluating.run_page import write_run_page
from classifier_training.workflows.evaluating.samples import (
    known_samples,
    own_source,
    tabulate,
    train_counts,
    unknown_labels,
    with_metadata,
)
from classifier_training.workflows.evaluating.scores import at_temperature, score_table, write_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.core.types import SplitTable
    from classifier_training.data.samples import Sample

log = logging.getLogger(__name__)

MAX_OF_ONE_NAME = 99
"""Data folders of one name whose results are kept apart in a run; the last replaces those of the last."""

CAUTIONS = {
    VAL: "optimistic: these images chose the weights",
    TRAIN: "optimistic: the model was trained on these images",
}


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation gave.

    Args:
        folder: where the result files are.
        result: the predictions.
        evaluation: their metrics.
        class_names: [K].
        verdict: on the comparison with another run, in one sentence; empty without one.
        must_be_ready: whether a verdict other than ready is a failed check.
        caution: why the metrics are too good; empty where they are not.
    """

    folder: Path
    result: SplitResult
    evaluation: Evaluation
    class_names: tuple[str, ...]
    verdict: str = ""
    must_be_ready: bool = False
    caution: str = ""

    @property
    def exit_code(self) -> int:
        """0, or 1 where the model must be ready and is not."""
        found = self.evaluation.verdict
        return int(self.must_be_ready and found is not None and found.status != "ready")

    def __str__(self) -> str:
        lines = [str(self.evaluation), *filter(None, (self.caution, self.verdict))]
        lines += ["", *class_table(self.evaluation.measures, self.class_names), ""]
        lines.append(f"written to {self.folder}; the page to open: {self.folder / 'report.html'}")
        if self.exit_code:
            lines.append("failed: the verdict is not ready, and fail_below_target=true makes that exit code 1")
        return "\n".join(lines)


@register(
    group="verb",
    name="evaluate",
    examples=(
        "evaluate",
        "evaluate best --split val",
        "evaluate latest data.root=/other/images against=best",
    ),
)
def evaluate(
    *,
    run: Annotated[RunText | list[RunText], Word()] = "latest",
    data: Annotated[DataSource, Choice("auto")],
    split: Literal["train", "val", "test"] | None = None,
    against: RunText | None = None,
    slices: str | list[str] | None = None,
    intervals: bool = True,
    maps: bool = False,
    output: TypedPath | None = None,
    csv_safe: bool = False,
    target: Annotated[Targets, Choice("default", group="evaluation_target")] = NO_TARGETS,
    fail_below_target: bool = False,
) -> EvaluateResult:
    """Score a finished run's model on its own held-out images, or on other labelled data.

    data.root names other data, and data.on_error=skip leaves out images that cannot be read, as do the own images of a
    run that was trained so. The other settings of data are for training.

    Args:
        run: run folder, latest, best, NAME, NAME:v2, an alias such as production, or a file to score: model_int8.onnx,
            checkpoints/best.ckpt; of several in a list, the mean of their probabilities on the images of the first.
        split: which part of the data; test when left out, or all of data that is not split.
        against: another run, named in the same way, to compare with on the same images.
        slices: what to give metrics of parts by: group, size (of the image) or a field of the metadata; one or
            several.
        intervals: find the 95 % interval of every metric.
        maps: also draw embedding.png, a map of the images by what the network sees in them, and occlusion.png, the
            places that the worst mistakes were decided by; it takes a minute or so more.
        output: folder for the result files; a folder inside the run when left out.
        csv_safe: write the tables so that no label or path is a formula to a spreadsheet; needs output.
        target: what the verdict is about; the run's own targets when left out.
        fail_below_target: exit with code 1 unless the verdict is ready.
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
    targets = Targets.of(RunReader(run_dir).config) if target.is_default else target
    target.check_names(predictor.class_names)
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
    table = tabulate(rows, index.root, chosen, predictor.class_names)
    default = _own_folder(opened, chosen) if own_data else _folder_of_others(opened, index.root, table)
    folder = Path(output).expanduser() if output else default
    make_folder(folder)
    names = [slices] if isinstance(slices, str) else slices or []
    metadata = [sample.metadata for sample in known_samples(rows, chosen, predictor.class_names)]
    columns = slice_columns(names, metadata, table)
    if own_data:
        trained = set(table.paths) if chosen == TRAIN else set()
        if not isinstance(run, str):
            warn_of_trained(run, rows, chosen)
    else:
        trained = _trained_images(run, opened, table)
    result = score_table(predictor, table, skips="skip" in (data.on_error, source.on_error), folder=folder)
    calibration = predictor.calibration
    with Drawer() as drawer:
        evaluation = write_scores(
            folder,
            result,
            table,
            predictor.class_names,
            drawer,
            calibration=calibration,
            source=opened.path.name,
            slices=columns,
            unknown_labels=unknown_labels(rows, chosen, predictor.class_names),
            intervals=intervals,
            csv_safe=csv_safe,
            targets=targets,
            train_counts=train_counts(run_dir),
            num_trained_on=0 if own_data else len(trained),
        )
        verdict = ""
        if other:
            given = result if calibration is None else at_temperature(result, calibration.temperature)
            verdict = compare_runs(folder, given, table, opened, other, trained=trained, csv_safe=csv_safe)
        if maps:
            draw_maps(folder, opened, result, table, drawer)
        else:
            forget_maps(folder)
    write_run_page(
        folder / run_dir.report.name, run_dir, folder, result, table, predictor.class_names, evaluation,
        temperature=None if calibration is None else calibration.temperature,
    )  # fmt: skip
    caution = CAUTIONS.get(chosen, "") if own_data else ""
    if trained and not own_data:
        caution = f"optimistic: the model was trained on {len(trained):,} of these images, or on copies of them"
    return EvaluateResult(
        folder, result, evaluation, predictor.class_names, verdict, must_be_ready=fail_below_target, caution=caution
    )


def _trained_images(run: str | Sequence[str], opened: RunModel, table: SplitTable) -> set[str]:
    """The images of other data that the model, or one of several, was trained on."""
    folders = [opened.run_dir]
    if not isinstance(run, str):
        folders = [RunDir(path if path.is_dir() else path.parent) for path in map(find_model, run)]
    return set[str]().union(*(trained_on(folder, table.paths) for folder in folders if folder.splits.exists()))


def warn_of_trained(runs: Sequence[str], rows: Sequence[Sample], split: str) -> None:
    """Say it when one of several runs was trained on images that all of them are scored on.

    Args:
        runs: as they are named.
        rows: the samples, by their paths in the data folder.
        split: that is scored.
    """
    scored = {sample.path for sample in rows if sample.split == split}
    for path in map(find_model, runs):
        splits = RunDir(path if path.is_dir() else path.parent).splits
        trained = {sample.path for sample in read_manifest(splits) if sample.split == TRAIN} if splits.exists() else ()
        if number := len(scored & set(trained)):
            log.warning("%s was trained on %s that are scored here: too good", path, plural(number, "image"))


def _refuse_idle(data: DataSource) -> None:
    """Refuse what would change nothing: an evaluation splits nothing, and the model says how it wants its images."""
    for option in changed_options(data):
        if not option.acts_in("evaluate") or (option.name not in ("root", "on_error") and not data.is_named):
            raise UserError(
                f"data.{option.name}={getattr(data, option.name)} has no effect on an evaluation",
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


def _own_folder(opened: RunModel, split: str) -> Path:
    return _folder(opened, *([] if split == TEST else [split]))


def _folder_of_others(opened: RunModel, root: Path, table: SplitTable) -> Path:
    """The folder of results for other data; one that holds those of another data folder of this name is left alone."""
    first = _folder(opened, root.name, *filter(None, [table.name]))
    numbered = [first, *(first.with_name(f"{first.name}_{number}") for number in range(2, MAX_OF_ONE_NAME + 1))]
    return next((folder for folder in numbered if not _is_of_another(folder, root, table)), numbered[-1])


def _folder(opened: RunModel, *parts: str) -> Path:
    # The predictions of another file of the run do not replace those of model.onnx.
    file = [] if opened.is_main else [opened.path.stem]
    return opened.run_dir.path / "_".join([opened.run_dir.evaluation.name, *file, *parts])


def _is_of_another(folder: Path, root: Path, table: SplitTable) -> bool:
    """Whether a folder holds predictions, the first of which is for an image that is not of this data."""
    path = folder / "predictions.csv"
    if not path.exists():
        return False
    with path.open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file), {}).get("path")
    return first is not None and not Path(first).is_relative_to(root) and first not in table.paths
