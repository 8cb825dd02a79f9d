"""What the scripts in scripts/research show: images of models and of their runs, made by the verbs' own functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.conf.compose import compose
from classifier_training.core.register import entry
from classifier_training.core.run_dir import write_csv, write_text
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.figures.curves import RocFigure
from classifier_training.evaluation.figures.dataset import FlowFigure
from classifier_training.evaluation.figures.leaderboard import BarsFigure, TradeOffFigure
from classifier_training.evaluation.ranking import Ranking
from classifier_training.workflows.evaluating.evaluate import evaluate
from classifier_training.workflows.models import models
from classifier_training.workflows.training.train import TrainResult, train

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from classifier_training.core.types import SplitResult
    from classifier_training.workflows.many_runs.student_report import DistillResult

PIPELINE = (
    ("analyze", "broken files, copies,\nleaks, balance"),
    ("train", "splits, augmentation,\nbest weights kept"),
    ("evaluate", "metrics with intervals,\nerrors, comparison"),
    ("distill", "a small student\nof a large teacher"),
    ("export", "ONNX, checked against\nPyTorch, quantised"),
    ("predict", "labels, rejection,\nno torch needed"),
)
"""The verbs from data to product, and what each does."""


@dataclass(frozen=True)
class Comparison:
    """Models that were trained on the same data.

    Args:
        runs: by the words of the model.
        best: words of the one with the best balanced accuracy.
        verdict: the best against the second, one sentence; empty for one model.
    """

    runs: dict[str, TrainResult]
    best: str
    verdict: str

    def __str__(self) -> str:
        lines = [f"{name}: {result.evaluation}" for name, result in self.runs.items()]
        return "\n".join([*lines, f"best: {self.best}", *([self.verdict] if self.verdict else [])])


def draw_pipeline(path: Path) -> None:
    """Draw the way from data to product."""
    with Drawer() as drawer:
        drawer.submit(FlowFigure(steps=PIPELINE, title="From a folder of images to a product"), path)


def draw_requirements(path: Path, *, image_size: int) -> None:
    """Draw size, cost and training memory of the models that need no name, from shapes alone."""
    rows = [row for row in models(image_size=image_size).rows if row.parameters is not None]
    figure = BarsFigure(
        names=tuple(row.model for row in rows),
        panels={
            "million parameters": [(row.parameters or 0) / 1e6 for row in rows],
            "GFLOPs an image": [row.gflops or 0.0 for row in rows],
            "training memory, MiB": [row.training_mb or 0.0 for row in rows],
        },
        title=f"What models take at {image_size} px",
    )
    with Drawer() as drawer:
        drawer.submit(figure, path)


def compare_models(names: Sequence[str], words: Sequence[str], folder: Path) -> Comparison:
    """Train models on the same data and seed; draw them beside each other, and test the best against the second.

    Args:
        names: words of the models, such as model=student.
        words: further settings of `train`.
        folder: for model_comparison.png, precision_recall.png, roc.png and model_comparison.csv.
    """
    verb = entry("verb", "train")
    runs = {name: train(**compose(verb, [*words, name, f"output={folder / 'runs'}"])) for name in names}
    found = {name: result.evaluation.measures.overall for name, result in runs.items()}
    figures = ("balanced_accuracy", "acc_top1", "macro_f1", "macro_precision", "macro_recall")
    table = {name: [overall[figure].value for figure in figures] for name, overall in found.items()}
    with Drawer() as drawer:
        panels = {figure: [row[place] for row in table.values()] for place, figure in enumerate(figures[:3])}
        bars = BarsFigure(names=tuple(runs), panels=panels, title="Models on the held-out images")
        drawer.submit(bars, folder / "model_comparison.png")
        points = TradeOffFigure(
            names=tuple(table),
            x=tuple(row[4] for row in table.values()),
            y=tuple(row[3] for row in table.values()),
            from_zero=False,
            title="Precision against recall",
            x_label="macro recall",
            y_label="macro precision",
        )
        drawer.submit(points, folder / "precision_recall.png")
        pooled = {name: _pool(result.scored) for name, result in runs.items()}
        curves = {f"{name} ({ranking.auroc:.3f})": ranking.roc_curve for name, ranking in pooled.items()}
        roc = RocFigure(curves=curves, title="ROC, all classes pooled (area)", y_label="true positive rate")
        drawer.submit(roc, folder / "roc.png")
    rows = [(name, runs[name].run_dir.path, *(f"{value:.6f}" for value in row)) for name, row in table.items()]
    write_csv(folder / "model_comparison.csv", ("model", "run", *figures), rows)
    ranked = sorted(runs, key=lambda name: table[name][0], reverse=True)
    return Comparison(runs, ranked[0], _verdict([str(runs[name].run_dir.path) for name in ranked[:2]]))


def write_recommendations(path: Path, result: DistillResult) -> None:
    """Write which of teacher and student to serve where, with the figures that it follows from."""
    rows = [
        f"| {item.name} | {item.accuracy:.2%} | {item.size_mb:.2f} MB | {item.latency_ms:.2f} ms |"
        for item in (result.teacher, result.student)
    ]
    head = ["| network | accuracy | size | one image, CPU |", "|---|---|---|---|"]
    write_text(path, "\n".join(["# Deployment recommendations", "", result.words, "", *head, *rows, ""]))


def _pool(scored: SplitResult) -> Ranking:
    """Rank the probabilities of all classes together (micro-average)."""
    is_class = np.arange(scored.logits.shape[1]) == scored.targets[:, None]
    return Ranking.of(scored.probabilities.astype(np.float64).ravel(), is_class.ravel())


def _verdict(runs: Sequence[str]) -> str:
    if len(runs) < 2:
        return ""
    settings = compose(entry("verb", "evaluate"), [f"run={runs[0]}", f"against={runs[1]}", "intervals=false"])
    return evaluate(**settings).verdict
