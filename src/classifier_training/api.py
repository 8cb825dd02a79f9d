"""The main job from Python: train on a folder, look at the run, predict, export.

    import classifier_training as ct

    run = ct.train("/my/images", epochs=5)
    run.predict("/some/image.jpg").label

Every setting of the command line can be given: `settings={"data.image_size": 128, "model": "resnet18"}`.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, cast, get_args, overload

import classifier_training.workflows.serving.export
import classifier_training.workflows.training.train  # noqa: F401 - each registers its verb
from classifier_training.conf import aliases
from classifier_training.conf.command_line import read_words
from classifier_training.conf.compose import compose
from classifier_training.conf.foreign_values import foreign_words
from classifier_training.conf.overrides import written
from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir
from classifier_training.core.run_reader import read_rows, read_values
from classifier_training.core.runtime import command, log_to_screen, main_hidden
from classifier_training.export.bundle import read_info
from classifier_training.inference.predictor import Predictor as BasePredictor
from classifier_training.registry.runs import find_model, find_run

if TYPE_CHECKING:
    from classifier_training.core.register import Entry
    from classifier_training.core.types import Prediction
    from classifier_training.evaluation.verdict import Status
    from classifier_training.export.session import Accelerator
    from classifier_training.inference.predictor import ImageLike

P = ParamSpec("P")

Settings = Mapping[str, object]

NUM_SHOWN = 12
"""Mistakes that a notebook shows of a run."""

EMPTY = "(empty)"


@dataclass(frozen=True)
class Metric:
    """A metric on the scored split.

    Attributes:
        value: of the metric.
        low: lower end of its 95 % interval; None where there are too few images for one.
        high: upper end.
    """

    value: float
    low: float | None
    high: float | None

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.value:.4f}{interval}"


class UnknownMetricError(UserError, KeyError):
    """A run has no metric of a name."""


class Metrics(dict[str, Metric]):
    """Metrics by name. One that a run does not have is an error that names the nearest."""

    def __missing__(self, name: str) -> Metric:
        known = foreign_words()["metrics"]
        meant = [item.removeprefix("val/") for item, words in known.items() if str(name).casefold() in words]
        close = [item for item in meant if item in self] or nearest(str(name), self)
        remedy = f'run.metrics["{close[0]}"]' if close else "list(run.metrics)   lists them"
        raise UnknownMetricError(
            f"{name}: the run has no metric of that name", f"one of {enumerate_words(self, limit=len(self))}", remedy
        )


@dataclass(frozen=True)
class Verdict:
    """Whether a model is ready for use, as far as its targets and test images say.

    Attributes:
        status: ready, not ready, or too few test images.
        words: why, in one line.
    """

    status: Status
    words: str

    def __str__(self) -> str:
        return f"{self.status}: {self.words}"


class Mistake(TypedDict):
    """A row of errors.csv. At runtime it has prob_<class>, the probability of each class, too.

    Attributes:
        path: of the image.
        true: its label.
        predicted: the class with the highest probability.
        confidence: probability of that class.
        loss: cross-entropy of the true class.
        group: of the image; empty without groups.
    """

    path: str
    true: str
    predicted: str
    confidence: float
    loss: float
    group: str


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: with all that the run left.
    """

    folder: Path

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by index."""
        return read_info(RunDir(self.folder)).class_names

    @cached_property
    def metrics(self) -> Metrics:
        """Metrics on the test split, or on validation where there is no test split, by name."""
        found = read_values(RunDir(self.folder).classification_report)
        return Metrics(
            (name, Metric(given["value"], given.get("low"), given.get("high")))
            for name, given in found["metrics"].items()
            if given["value"] is not None
        )

    @cached_property
    def verdict(self) -> Verdict | None:
        """Whether the model is ready for use; None for a run from before there were verdicts."""
        found = read_values(RunDir(self.folder).classification_report).get("verdict")
        return None if found is None else Verdict(found["status"], found["words"])

    @cached_property
    def predictor(self) -> Predictor:
        """The run's model.onnx, opened."""
        return Predictor(self.folder)

    @overload
    def predict(self, images: ImageLike) -> Prediction: ...

    @overload
    def predict(self, images: list[ImageLike]) -> list[Prediction]: ...

    def predict(self, images: ImageLike | list[ImageLike]) -> Prediction | list[Prediction]:
        """Classify an image, or several; see `Predictor`."""
        return self.predictor(images)

    def report(self) -> Path:
        """Return the path of the report, a page for the browser."""
        return RunDir(self.folder).report

    def export(self, *what: str, settings: Settings | None = None) -> list[Path]:
        """Write the model in other formats, each compared with PyTorch.

        Args:
            what: formats (onnx, torchscript, openvino, ...) or quantizations (int8, uint8, fp16).
            settings: of `export` besides.

        Returns:
            The files that were written or replaced.

        Raises:
            UserError: for a format that does not exist, or a file that does not agree with PyTorch.
        """
        from classifier_training.export.job import Quantization

        quantizations = [name for name in what if name in get_args(Quantization)]
        formats = [name for name in what if name not in quantizations]
        before = self._times()
        # It is the ONNX files that are quantized, whatever other formats are asked for besides.
        exports: list[Settings] = [{"quantization": quantization} for quantization in quantizations]
        if formats or not exports:
            exports.insert(0, {"format": formats} if formats else {})
        for words in exports:
            _perform("export", {"run": self.folder, **words, **(settings or {})})
        return sorted(path for path, time in self._times().items() if before.get(path) != time)

    def _times(self) -> dict[Path, int]:
        """When each file of the run was last written; the lock is no result."""
        lock = RunDir(self.folder).lock
        return {path: path.stat().st_mtime_ns for path in self.folder.iterdir() if path != lock}

    def mistakes(self) -> list[Mistake]:
        """Return the rows of errors.csv: images that were not classified correctly, the worst first."""
        return [
            cast("Mistake", {key: float(text or math.nan) if _is_number(key) else text for key, text in row.items()})
            for row in read_rows(RunDir(self.folder).errors)
        ]

    def __repr__(self) -> str:
        score = self.metrics.get("balanced_accuracy")
        said = [f", balanced accuracy {score}"] if score is not None else []
        said += [f", {self.verdict.status}"] if self.verdict is not None else []
        return f"Run({str(self.folder)!r}{''.join(said)})"

    def _repr_html_(self) -> str:
        """Show metrics and the worst mistakes in a notebook."""
        from html import escape

        from classifier_training.evaluation.leaderboard import metric_columns
        from classifier_training.evaluation.report import thumbnail
        from classifier_training.evaluation.results import CLASS_COLUMNS, class_rows

        names = [metric.main_column for metric in metric_columns().values()]
        rows = "".join(
            f"<tr><th>{name}</th><td>{self.metrics[name]}</td></tr>" for name in names if name in self.metrics
        )
        head = "<tr><th>metric</th><th>value [95 % interval]</th></tr>"
        found = read_values(RunDir(self.folder).classification_report)["classes"]
        precisions, recalls = (
            [_number(row[name]["value"]) for row in found.values()] for name in ("precision", "recall")
        )
        classes, left = class_rows(list(found), precisions, recalls, [row["support"] for row in found.values()])
        class_lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in classes)
        class_head = "".join(f"<th>{name}</th>" for name in CLASS_COLUMNS)
        mistakes = self.mistakes()
        title = f"{len(mistakes)} misclassified image{'' if len(mistakes) == 1 else 's'}"
        title += f", the {NUM_SHOWN} with the highest loss" if len(mistakes) > NUM_SHOWN else ""
        verdict = "" if self.verdict is None else f"<p><b>Verdict: {escape(str(self.verdict))}</b></p>"
        pieces = [
            f"<p>{escape(str(self.folder))}</p>{verdict}<table>{head}{rows}</table>",
            f"<table><tr>{class_head}</tr>{class_lines}</table>{f'<p>{left}</p>' if left else ''}<p>{title}</p>",
        ]
        for row in mistakes[:NUM_SHOWN]:
            words = f"predicted: {row['predicted'] or EMPTY} ({row['confidence']:.2f})"
            shown = thumbnail(Path(row["path"]), row["true"] or EMPTY, words)
            image = f'<img src="{shown.uri}" alt="">' if shown.uri else ""
            pieces.append(
                '<figure style="display:inline-block;vertical-align:top;width:140px;margin:4px;text-align:center;'
                'overflow-wrap:anywhere">'
                f"{image}<figcaption><b>{escape(shown.title)}</b><br>{escape(shown.words)}</figcaption></figure>"
            )
        return "".join(pieces)


class Predictor(BasePredictor):
    """Classifies images with a finished run.

    Args:
        run: a run folder, an ONNX file that `export` wrote, latest, best, a name, or an alias such as production.
        accelerator: where to compute: auto takes CUDA where it is there, else the CPU.

    Raises:
        UserError: when there is no such run, or one of its files is missing or damaged.
    """

    def __init__(self, run: Path | str = "latest", *, accelerator: Accelerator = "auto") -> None:
        super().__init__(find_model(str(run)), accelerator=accelerator)


class UnknownArgumentError(UserError, TypeError):
    """A function has no argument of a name."""


def _told_of_settings(function: Callable[P, Run]) -> Callable[P, Run]:
    """Answer an argument that a function does not have with the setting that it may mean."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Run:
        for name, value in kwargs.items():
            if name not in known:
                verb = entry("verb", "train")
                meant = aliases.resolve(verb, name, None) or []
                written = (
                    json.dumps(value) if isinstance(value, str) else f"{value}" if isinstance(value, Real) else "…"
                )
                remedy = "classifier-training train --help all   lists the settings"
                if meant or verb.settings_at(name):
                    remedy = f'settings={{"{meant[0][0] if meant else name}": {written}}}'
                elif close := nearest(name, known):
                    remedy = f"{close[0]}=…"
                raise UnknownArgumentError(
                    f"{name}=: train has no such argument",
                    f"one of {enumerate_words(known)}; all other settings go into settings=",
                    remedy,
                )
        return function(*args, **kwargs)

    return wrapped


@_told_of_settings
def train(
    data: Path | str | None = None,
    *,
    epochs: int | None = None,
    time: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    output: Path | str | None = None,
    settings: Settings | None = None,
) -> Run:
    """Train a classifier on a folder of images.

    Args:
        data: the folder, or a file that lists images; a built-in sample when left out.
        epochs: `trainer.max_epochs`.
        time: how long training and all that follows may take, such as 10m.
        model: name of the network, see `classifier-training models`.
        seed: everything random follows from it.
        output: folder for run folders.
        settings: any other settings of `train`, by the names of the command line.

    Raises:
        UserError: for settings or data that are wrong; the message says what to do. One for an argument that there is
            not is a TypeError, too.
    """
    if data is not None and not isinstance(data, str | Path):
        raise UserError(
            f"data is of the type {type(data).__name__}",
            "the path of a folder of images, or of a table (CSV) with the columns path and label",
            'write a table to a file, as table.to_csv("images.csv", index=False), and train on data="images.csv"',
        )
    given = {
        "data.root": data,
        "trainer.max_epochs": epochs,
        "time": time,
        "model": model,
        "seed": seed,
        "output": output,
    }
    _show_log()
    result = _perform(
        "train", {**{key: value for key, value in given.items() if value is not None}, **(settings or {})}
    )
    return Run(Path(result.run_dir.path).absolute())


def load_run(run: Path | str = "latest", *, output: Path | str = "outputs") -> Run:
    """Return a finished run.

    Args:
        run: a run folder, latest, best, a name, or an alias such as production.
        output: folder of all runs.

    Raises:
        UserError: when there is no such run, or it is not finished.
    """
    found = find_run(str(run), output=str(output))
    if not found.result.exists() and not found.model_info.exists():
        raise UserError(
            f"run={run}: {found.path} is not finished", "a finished run", f"{command('train')} resume={found.path}"
        )
    return Run(found.path.absolute())


def _perform(verb: str, settings: Settings) -> Any:
    known = entry("verb", verb)
    with main_hidden():
        return known.run(compose(known, _words(known, settings)))


def _is_number(column: str) -> bool:
    return column in ("confidence", "loss") or column.startswith("prob_")


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _words(verb: Entry, settings: Settings, above: str = "") -> list[str]:
    """Write settings in Hydra's grammar; texts are read as they are on the command line."""
    found: list[str] = []
    for name, value in settings.items():
        key = f"{above}{name}"
        options = verb.settings_at(key)
        if isinstance(value, Mapping) and (not options or options[0].choice is not None):
            found += _words(verb, value, f"{key}.")
        elif isinstance(value, str | Path) and not (value == "null" and any(item.accepts(str) for item in options)):
            found += read_words(verb, [f"{key}={value}"])
        else:
            text = written(key, value)
            for meant, changed in aliases.resolve(verb, key, text) or [(key, text)]:
                found.append(f"{meant}={text if changed is None else changed}")
    return found


@functools.cache
def _show_log() -> None:
    log_to_screen()
