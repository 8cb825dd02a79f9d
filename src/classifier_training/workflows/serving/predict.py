"""`predict`: labels for new images."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.display import progress
from classifier_training.core.errors import InterruptedRunError, UserError
from classifier_training.core.register import Choice, Word, register
from classifier_training.core.run_dir import RunDir
from classifier_training.core.run_reader import RunReader
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.core.storage.places import is_remote
from classifier_training.evaluation.intervals import Estimate
from classifier_training.inference.outputs import Output
from classifier_training.inference.parts import PartFolder
from classifier_training.inference.rejection import LabelSetSettings, PredictData, PredictTrainer, RejectSettings
from classifier_training.inference.rows import RowSettings, Summary
from classifier_training.inference.sorting import SortBy, Sorter
from classifier_training.inference.sources import Source, find_source
from classifier_training.inference.submission import read_form
from classifier_training.registry.record import read_record
from classifier_training.workflows.evaluating.run_model import open_runs, paths_of
from classifier_training.workflows.many_runs.launch.base import Launcher
from classifier_training.workflows.many_runs.launch.local import LOCAL
from classifier_training.workflows.serving.predict_ray import label_on_ray, ray_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictResult:
    """Result of `predict`.

    Args:
        summary: counts, and the rows for the screen.
        lines: what to show.
    """

    summary: Summary
    lines: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 3 when some images could not be read."""
        return 3 if self.summary.errors else 0

    def __str__(self) -> str:
        return "\n".join(self.lines)


@register(
    group="verb",
    name="predict",
    examples=(
        "predict photo.jpg",
        "predict /my/images output=predictions.csv",
        "predict a.jpg b.jpg run=best --top_k 5",
        "predict /my/test output=submission.csv columns=sample_submission.csv",
    ),
)
def predict(
    *,
    run: RunText | list[RunText] = "latest",
    source: Annotated[TypedPath | list[TypedPath], Word()],
    output: TypedPath | None = None,
    columns: TypedPath | list[str] | None = None,
    data: Annotated[PredictData, Choice("default", group="predict_data")],
    trainer: Annotated[PredictTrainer, Choice("default", group="predict_trainer")],
    reject: Annotated[RejectSettings, Choice("default", group="predict_reject")],
    label_set: Annotated[LabelSetSettings, Choice("default", group="predict_label_set")],
    top_k: Annotated[int, Field(ge=1)] = 3,
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5,
    unknown: bool = False,
    probabilities: bool = False,
    csv_safe: bool = False,
    launcher: Annotated[Launcher, Choice("local")] = LOCAL,
    max_display: Annotated[int, Field(ge=0)] = 20,
    quiet: bool = False,
    every_s: Annotated[float, Field(gt=0)] | None = None,
    follow_links: bool = False,
    sort_into: TypedPath | None = None,
    sort_by: SortBy | None = None,
    sketches: TypedPath | None = None,
) -> PredictResult:
    """Label images with a finished run: a file, a folder, a glob, a list of files or a video.

    An interrupted run resumes where it stopped when the same command is given again.

    Args:
        run: run folder, latest, best, NAME, NAME:v2, an alias such as production, or an .onnx file; of several in a
            list, the mean of their probabilities is taken.
        source: image, folder (searched recursively), glob in quotes, .txt file with a path a line, or video; one or
            several.
        output: file to write, ending in .json, .jsonl, .csv or .parquet, or a folder for a JSON file an image.
        columns: of a .csv output, such as a competition asks for: [id,label], where the first names the image and
            another is the label or the probability of the class that it is called after; COLUMN:FIELD says what a
            column holds (path, name or stem of the image; label, confidence or a class); or a sample_submission.csv,
            whose header, names and order of rows are taken.
        top_k: top predictions to list for each image.
        threshold: confidence below which a prediction is marked as rejected.
        unknown: label rejected images `unknown`; the predicted class is still the first of top_k.
        probabilities: write the probability of every class into the output.
        csv_safe: write a .csv output so that a spreadsheet runs no label or path as a formula.
        launcher: what computes: this machine, or with ray the processes of a Ray cluster, which write the predictions
            in parts; a job that was killed resumes from the parts that are there.
        max_display: rows shown on the screen; 0 shows all.
        quiet: show only the summary.
        every_s: seconds between the frames of a video that are labelled; every frame when left out.
        follow_links: follow links to folders, and links that lead out of the folder, in a folder or glob.
        sort_into: folder that the images are sorted into, by label.
        sort_by: copy the sorted images, or link to them; copy when left out.
        sketches: folder that counts of the predictions are added to, by the hour and without images, for `watch`.
    """
    _refuse_unused(output=output, probabilities=probabilities, sort_into=sort_into, sort_by=sort_by)
    ray = ray_of(launcher, output=output, sort_into=sort_into)
    if ray is not None and sketches is not None:
        raise UserError(
            "sketches with launcher=ray",
            "predictions of this machine; those of a cluster are not sketched",
            "leave one of them out",
        )
    items = find_source(source, every_s=every_s, follow_links=follow_links)
    predictor = open_runs(run, accelerator=trainer.accelerator)
    form = None if columns is None else read_form(columns, predictor.class_names, (item.path for item in items))
    row_settings = RowSettings(
        top_k=top_k,
        rule=predictor.rule(threshold, reject, unknown=unknown),
        unknown=unknown,
        probabilities=probabilities or (form is not None and form.needs_probabilities),
        set_thresholds=predictor.set_thresholds(label_set),
    )
    writer = None if sketches is None else predictor.sketch_writer(Path(sketches).expanduser())
    sorter = None if sort_into is None else Sorter(sort_into, sort_by or "copy", items)
    settings = {
        "model": predictor.model_sha256,
        "source": _absolute(source) if isinstance(source, str) else [_absolute(one) for one in source],
        "every_s": every_s,
        "follow_links": follow_links,
        "top_k": top_k,
        "threshold": threshold,
        "reject": asdict(reject),
        "label_set": asdict(label_set),
        "unknown": unknown,
        "probabilities": probabilities,
        "columns": columns,
        "sort_into": sort_into,
        "sort_by": sort_by,
    }
    summary = Summary(
        threshold, None if max_display == 0 else 0 if quiet else max_display, rule=row_settings.rule.words
    )
    if label_set.coverage is not None:
        summary.set_words = f"label sets (coverage {label_set.coverage:g} on images like the validation ones)"
    shares, has_sets = predictor.class_names if row_settings.probabilities else None, label_set.coverage is not None
    parts = None if ray is None or output is None else PartFolder(output)
    with (
        Output(
            output,
            settings=settings,
            probabilities=shares,
            label_set=has_sets,
            csv_safe=csv_safe,
            form=form,
            part=parts,
        ) as target,
        nullcontext() if writer is None else closing(writer),
    ):
        log.info("%s on %s%s", predictor.model_path, predictor.device, run_words(predictor.model_path))
        with interrupts_as_errors(lambda: _remedy(target, summary)):
            if ray is not None and parts is not None:
                started = time.monotonic()
                done = label_on_ray(
                    ray,
                    parts,
                    items,
                    open_predictor=partial(open_runs, paths_of(run), accelerator=trainer.accelerator),
                    settings=settings,
                    row_settings=row_settings,
                    batch_size=data.batch_size,
                    summary=summary,
                )
            else:
                done = _resume(target, items, summary, batch_size=data.batch_size)
                started = time.monotonic()
                with progress("labelling", total=items.count, done=done) as advance:
                    for batch, rows in predictor.row_batches(
                        islice(items, done, None), row_settings, batch_size=data.batch_size, sketches=writer
                    ):
                        if sorter is not None:
                            for item, row in zip(batch, rows, strict=True):
                                sorter.place(item, row["label"])
                        target.add(batch, rows)
                        for row in rows:
                            summary.add(row)
                        advance(len(rows))
            seconds = time.monotonic() - started
            target.finish()
    new = summary.images - done
    lines = [*([] if quiet else summary.table()), *summary.words(new / seconds if new else None)]
    filled = "" if target.filled is None else f": {target.filled}"
    lines += [f"written to {target.path}{filled}"] if target.path is not None else []
    lines += [f"sorted into {sorter.folder}"] if sorter is not None else []
    lines += [f"sketches: {writer.folder}"] if writer is not None else []
    return PredictResult(summary, tuple(lines))


def _absolute(source: str) -> str:
    return source if is_remote(source) else os.path.abspath(os.path.expanduser(source))  # noqa: PTH100, PTH111 - may be a glob


def run_words(model: Path) -> str:
    """Say of which run a model is, when that was trained and how good it is; empty for a model that lies alone.

    Args:
        model: model.onnx or another file of a finished run; the score is that of model.onnx.
    """
    run = RunDir(model.parent if model.parent.name != "checkpoints" else model.parents[1])
    if not run.result.is_file():
        return ""
    record = read_record(run.path, run.path.name, [path.name for path in run.path.iterdir()])
    words = f"; {record.title}, trained {datetime.fromtimestamp(record.started).astimezone():%Y-%m-%d %H:%M}"
    try:
        scores = RunReader(run).scores
        found = scores["metrics"]["balanced_accuracy"]
        value, low, high = (math.nan if found[name] is None else found[name] for name in ("value", "low", "high"))
        estimate = Estimate(value, low, high)
        number = int(scores["num_images"])
    except (OSError, KeyError, TypeError, UserError):
        # It was not evaluated, or its report is damaged; that keeps nobody from predicting.
        return words
    return f"{words}; {scores['split']} balanced accuracy {estimate} on {number:,} images"


def _resume(target: Output, items: Source, summary: Summary, *, batch_size: int) -> int:
    """Take over the rows of an interrupted run; returns how many images that are."""
    done = target.resume(items, batch_size=batch_size)
    for row in target.rows():
        summary.add(row)
    if done:
        log.info("resuming after the %d images in %s", done, target.part)
    return done


def _remedy(target: Output, summary: Summary) -> str:
    if target.part is None:
        return "give the command again; with output=… it could resume where it stopped"
    return f"give the same command again; it resumes after the {summary.images:,} images in {target.part}"


def _refuse_unused(*, output: str | None, probabilities: bool, sort_into: str | None, sort_by: SortBy | None) -> None:
    """Refuse settings that have no effect."""
    if probabilities and output is None:
        raise UserError("probabilities=true without an output", "a file to write them to", "output=predictions.json")
    if sort_by is not None and sort_into is None:
        raise UserError(f"sort_by={sort_by} without sort_into", "a folder to sort into", "sort_into=/some/folder")


@contextmanager
def interrupts_as_errors(remedy: Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an error that says how to resume.

    Args:
        remedy: returns what to do; called when the signal arrives.

    Raises:
        InterruptedRunError: with exit code 130 for Ctrl-C and 143 for SIGTERM.
    """

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise InterruptedRunError(number, remedy())

    # Python delivers signals to the main thread only; in another thread they are left as they are.
    handled = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
