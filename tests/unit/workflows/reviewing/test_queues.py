"""Which images are listed, and in what order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.conftest import draw_picture, read_csv
from tests.reviewed import CLASSES, NAMES, make_reviewed, open_review, row_of, write

from classifier_training.core.errors import UserError
from classifier_training.core.labels import write_mapping
from classifier_training.core.types import TEST, TRAIN
from classifier_training.data.formats.image_folder import AutoData, ImageFolder
from classifier_training.data.load import read_samples
from classifier_training.workflows.reviewing.collection import collect_data, collect_run, collect_unlabelled
from classifier_training.workflows.reviewing.decisions import Decisions, Request
from classifier_training.workflows.reviewing.queues import Filter, Queues, reasons

if TYPE_CHECKING:
    from pathlib import Path

NUM_TEST = len(NAMES) * len(CLASSES)


def test_mistakes_come_the_worst_first_and_cells_by_class(tmp_path: Path) -> None:
    session = open_review(make_reviewed(tmp_path, wrong=(1, 5, 6)))
    collection, queues = session.collection, session.queues
    tests = [row for row, split in enumerate(collection.splits) if split == TEST]
    manifest = read_csv(tmp_path / "run/splits.csv")
    by_path = {path: row for row, path in enumerate(collection.paths)}
    scored = [by_path[line["path"]] for line in manifest if line["split"] == TEST]
    assert queues.all["mistakes"].rows.tolist() == [scored[6], scored[5], scored[1]]
    assert len(queues.all["all"].rows) == len(collection) == NUM_TEST + 2 * len(CLASSES)
    counts = queues.confusion()
    assert counts is not None
    assert counts.sum() == len(tests)
    assert counts[0, 1] == 2
    cell = queues.select("all", Filter(true=CLASSES[0], predicted=CLASSES[1]))
    assert sorted(cell.tolist()) == sorted([scored[1], scored[5]])


def test_doubtful_labels_are_those_that_the_model_contradicts_more_than_usual(tmp_path: Path) -> None:
    session = open_review(make_reviewed(tmp_path, wrong=(23,)))
    (row,) = session.queues.all["doubtful"].rows.tolist()
    assert session.collection.labels[row] == CLASSES[3]
    assert session.collection.suggestion(row) == CLASSES[0]
    assert any("the model says" in line for line in reasons(session.collection, row))


def test_the_list_of_analyze_is_taken_where_it_is(tmp_path: Path) -> None:
    run = make_reviewed(tmp_path, wrong=())
    images = tmp_path / "images"
    run.label_issues.mkdir()
    header = (
        "path",
        "split",
        "label",
        "suggested",
        "confidence",
        "label_quality",
        "is_issue",
        "duplicate_of",
        "outlier",
    )
    one, two = f"{TRAIN}/cat/b.png", f"{TRAIN}/cat/a.png"
    other = f"{TEST}/{CLASSES[2]}/plain.png"
    write(
        run.label_issues / "label_issues.csv",
        header,
        [
            (images / one, "train", "cat", CLASSES[0], 0.97, 0.01, "true", "", 0.1),
            (images / two, "train", "cat", CLASSES[2], 0.9, 0.02, "true", images / other, 0.2),
            (images / other, "test", CLASSES[2], CLASSES[2], 0.9, 0.9, "false", "", 0.95),
        ],
    )
    session = open_review(run)
    collection, queues = session.collection, session.queues
    assert [collection.paths[row] for row in queues.all["doubtful"].rows.tolist()] == [one, two]
    assert [collection.paths[row] for row in queues.all["unlike"].rows.tolist()] == [other]
    queues.wait()
    assert [collection.paths[row] for row in queues.all["copies"].rows.tolist()] == [two, other]
    assert collection.suggestion(collection.paths.index(one)) == CLASSES[0]


def test_images_that_have_moved_are_found(tmp_path: Path) -> None:
    run = make_reviewed(tmp_path, wrong=(1,))
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="does not exist"):
        collect_run(run, moved_to=None, corrections="auto")
    collection = collect_run(run, moved_to=str(tmp_path / "moved"), corrections="auto")
    assert collection.predicted is not None
    assert len(collection.predicted.known) == NUM_TEST
    assert collection.places[0].file == tmp_path / "moved/corrections.csv"


def test_copies_that_disagree_follow_each_other(tmp_path: Path) -> None:
    make_reviewed(tmp_path)
    root = tmp_path / "images/train"
    for name in ("z.png", "y.png"):
        (root / "cat" / name).write_bytes((root / CLASSES[2] / "a.png").read_bytes())
    (root / "cat" / "copy of b.png").write_bytes((root / "cat" / "b.png").read_bytes())
    collection = collect_data(ImageFolder(root=str(root)))
    queues = Queues(collection, Decisions(collection, "ana"))
    queues.wait()
    found = [collection.paths[row] for row in queues.all["copies"].rows.tolist()]
    assert sorted(found) == sorted(["cat/y.png", "cat/z.png", f"{CLASSES[2]}/a.png"])
    assert set(queues.all) == {"copies", "all"}


def test_filters_narrow_a_list_and_keep_its_order(tmp_path: Path) -> None:
    session = open_review(make_reviewed(tmp_path))
    collection, queues, decisions = session.collection, session.queues, session.decisions
    row = row_of(collection, "plain.png")
    decisions.decide([Request(row, "relabel", new=CLASSES[0])])
    everything = queues.select("all", Filter())
    for wanted, number in (
        (Filter(split=TRAIN), 2 * len(CLASSES)),
        (Filter(label="cat"), 2 + len(NAMES) - 1),
        (Filter(label=CLASSES[0]), 2 + len(NAMES) + 1),
        (Filter(state="open"), len(collection) - 1),
        (Filter(state="relabel"), 1),
        (Filter(state="drop"), 0),
        (Filter(text="PLAIN"), len(CLASSES)),
        (Filter(text="PLAIN", label="cat"), 0),
    ):
        found = queues.select("all", wanted)
        assert len(found) == number, wanted
        assert np.array_equal(found, everything[np.isin(everything, found)])
    assert queues.num_decided(everything) == 1


def test_a_run_without_its_lists_and_data_without_a_place_are_refused(tmp_path: Path) -> None:
    run = make_reviewed(tmp_path)
    with pytest.raises(UserError, match=r"data\.corrections=null"):
        collect_run(run, moved_to=None, corrections=None)
    run.splits.unlink()
    with pytest.raises(UserError, match=r"splits\.csv"):
        collect_run(run, moved_to=None, corrections="auto")


def test_images_without_labels_get_some(tmp_path: Path) -> None:
    run = make_reviewed(tmp_path)
    run.labels_mapping.write_text(json.dumps(write_mapping(CLASSES)))
    folder = tmp_path / "new"
    for number in range(4):
        draw_picture(folder / f"{number}.png", (10, 20, 30), seed=number)
    write(folder / "labels.csv", ("path", "label"), [("3.png", "cat")])
    run.label_next.mkdir()
    (run.label_next / "label_next.json").write_text(json.dumps({"data": str(folder)}))
    rows = [("2.png", 0.5, "cat", 0.4, "unsure"), ("0.png", 0.4, CLASSES[0], 0.5, "new")]
    write(run.label_next / "label_next.csv", ("path", "score", "predicted", "confidence", "reason"), rows)
    collection = collect_unlabelled(run, str(folder))
    decisions = Decisions(collection, "ana")
    queues = Queues(collection, decisions)
    assert list(queues.all) == ["next", "all"]
    assert [collection.paths[row] for row in queues.all["next"].rows.tolist()] == ["2.png", "0.png"]
    assert reasons(collection, 2) == ["unsure"]
    assert collection.suggestion(2) == "cat"
    decisions.decide([Request(2, "relabel", new=CLASSES[2]), Request(0, "relabel", new="cat"), Request(1, "drop")])
    decisions.decide([Request(0, "undo", back=0)])
    found = read_csv(folder / "labels.csv")
    assert [(row["path"], row["label"]) for row in found] == [("3.png", "cat"), ("2.png", CLASSES[2])]
    samples = read_samples(AutoData(root=str(folder))).samples
    assert {sample.path: sample.label for sample in samples} == {"3.png": "cat", "2.png": CLASSES[2]}


def test_a_table_of_labels_keeps_its_columns_and_the_labels_that_others_gave(tmp_path: Path) -> None:
    run = make_reviewed(tmp_path)
    run.labels_mapping.write_text(json.dumps(write_mapping(CLASSES)))
    folder = tmp_path / "new"
    for number in range(3):
        draw_picture(folder / f"{number}.png", (10, 20, 30), seed=number)
    write(folder / "labels.csv", ("path", "label", "who took it"), [("1.png", "cat", "Ana, B."), ("2.png", "cat", "C")])
    decisions = Decisions(collect_unlabelled(run, str(folder)), "ana")
    decisions.decide([Request(1, "relabel", new=CLASSES[2]), Request(0, "relabel", new=CLASSES[2])])
    assert read_csv(folder / "labels.csv")[0] == {"path": "1.png", "label": CLASSES[2], "who took it": "Ana, B."}
    decisions.decide([Request(1, "undo", back=0), Request(0, "undo", back=0)])
    found = [tuple(row.values()) for row in read_csv(folder / "labels.csv")]
    assert found == [("1.png", "cat", "Ana, B."), ("2.png", "cat", "C")]
    write(folder / "labels.csv", ("filename", "label"), [("1.png", "cat")])
    with pytest.raises(UserError, match="columns path and label"):
        Decisions(collect_unlabelled(run, str(folder)), "ana")
