"""A run as `review` reads it, without training: images with hostile names, splits and predictions."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import yaml
from tests.conftest import draw_picture

from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import TEST, TRAIN
from classifier_training.workflows.reviewing.collection import Collection, collect_run
from classifier_training.workflows.reviewing.decisions import Decisions
from classifier_training.workflows.reviewing.routes import Review

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CLASSES = ("<script>alert(1)<", "cat", 'it\'s "a" dog', "ünï%20&amp;")

NAMES = (
    "plain.png", "'quote\".png", "<img src=x onerror=alert(1)>.png", "line\nbreak.png", "per%2fcent.png", "日本 🐈.png",
)  # fmt: skip

COLOURS = ((200, 40, 40), (40, 160, 60), (30, 60, 200), (200, 180, 30))


def make_reviewed(folder: Path, *, wrong: Sequence[int] = (1, 5), names: Sequence[str] = NAMES) -> RunDir:
    """Write a data folder and a run on it; returns the run.

    Args:
        folder: of both.
        wrong: numbers of test images, in their order, that the model takes for the next class; the later, the surer.
        names: of the test images of each class, each made different by a number.
    """
    images, run = folder / "images", RunDir(folder / "run")
    rows: list[tuple[str, str, str]] = []
    for number, label in enumerate(CLASSES):
        for split, kinds in ((TRAIN, ("a.png", "b.png")), (TEST, names)):
            for place, name in enumerate(kinds):
                path = images / split / label / name
                draw_picture(path, COLOURS[number], seed=100 * number + 10 * place + (split == TEST))
                rows.append((path.relative_to(images).as_posix(), label, split))
    run.evaluation.mkdir(parents=True)
    node = {"type": "image_folder", "root": str(images)}
    node |= {option.name: option.default for option in entry("data", "image_folder").options.values()} | node
    run.config.write_text(yaml.safe_dump({"data": node}))
    write(run.splits, ("path", "label", "split", "group"), [(*row, "") for row in rows])
    scored = []
    for place, (name, label, _) in enumerate(row for row in rows if row[2] == TEST):
        true = CLASSES.index(label)
        best = (true + 1) % len(CLASSES) if place in wrong else true
        confidence = 0.9 + 0.002 * place
        shares = [round((1 - confidence) / 3, 6)] * len(CLASSES)
        shares[best] = confidence
        scored.append((str(images / name), label, CLASSES[best], confidence, 1.5 + place, "", *shares))
    header = ("path", "true", "predicted", "confidence", "loss", "group", *(f"prob_{name}" for name in CLASSES))
    write(run.predictions, header, scored)
    run.result.write_text("{}")
    return run


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def open_review(run: RunDir, *, who: str = "ana") -> Review:
    """Open a session on a run."""
    collection = collect_run(run, moved_to=None, corrections="auto")
    return Review(collection, Decisions(collection, who))


def row_of(collection: Collection, name: str, label: str = "cat") -> int:
    """Place of the test image of a class by its file name."""
    return collection.paths.index(f"{TEST}/{label}/{name}")
