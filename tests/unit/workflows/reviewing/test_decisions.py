"""Decisions are in the file when they are answered, whoever else writes to it."""

from __future__ import annotations

import csv
import multiprocessing
from typing import TYPE_CHECKING

import pytest
from tests.reviewed import CLASSES, make_reviewed, open_review, row_of

from classifier_training.core.run_dir import sha256
from classifier_training.data.corrections import read_corrections
from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.load import read_samples
from classifier_training.workflows.reviewing.collection import collect_data
from classifier_training.workflows.reviewing.decisions import Decisions, Request

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.workflows.reviewing.routes import Review


@pytest.fixture
def session(tmp_path: Path) -> Review:
    return open_review(make_reviewed(tmp_path))


def labels_of(session: Review) -> dict[str, str]:
    """The labels that a training would read."""
    return {
        sample.path: sample.label for sample in read_samples(ImageFolder(root=str(session.collection.root))).samples
    }


def test_decisions_are_lines_that_training_reads(session: Review) -> None:
    collection, decisions = session.collection, session.decisions
    first, second, third = (row_of(collection, name) for name in ("plain.png", "line\nbreak.png", "'quote\".png"))
    requests = [Request(first, "relabel", new=CLASSES[0]), Request(second, "keep"), Request(third, "drop")]
    assert decisions.decide(requests) == []
    lines = read_corrections(collection.places[0].file)
    assert [(line.path, line.action, line.new, line.who) for line in lines] == [
        (collection.paths[first], "relabel", CLASSES[0], "ana"),
        (collection.paths[second], "keep", "", "ana"),
        (collection.paths[third], "drop", "", "ana"),
    ]
    assert lines[0].sha256 == sha256(collection.root / collection.paths[first])
    found = labels_of(session)
    assert found[collection.paths[first]] == CLASSES[0]
    assert found[collection.paths[second]] == "cat"
    assert collection.paths[third] not in found
    assert decisions.is_decided.sum() == 3


def test_the_label_of_the_data_is_no_other_label(session: Review) -> None:
    row = row_of(session.collection, "plain.png")
    session.decisions.decide([Request(row, "relabel", new="cat")])
    standing = session.decisions.standing(row)
    assert standing is not None
    assert standing.action == "keep"


def test_undo_restores_what_was_before_step_by_step(session: Review) -> None:
    decisions, row = session.decisions, row_of(session.collection, "plain.png")
    path = session.collection.paths[row]
    decisions.decide([Request(row, "relabel", new=CLASSES[0])])
    decisions.decide([Request(row, "relabel", new=CLASSES[2])])
    decisions.decide([Request(row, "undo", back=1)])
    assert labels_of(session)[path] == decisions.label(row) == CLASSES[0]
    decisions.decide([Request(row, "undo", back=0)])
    assert labels_of(session)[path] == decisions.label(row) == "cat"
    assert decisions.standing(row) is None
    assert not decisions.is_decided.any()
    reopened = Decisions(session.collection, "ben")
    assert reopened.standing(row) is None
    assert reopened.number(row) == 4


def test_a_page_that_did_not_know_is_told_and_may_overrule(session: Review) -> None:
    row = row_of(session.collection, "plain.png")
    other = Decisions(session.collection, "ben")
    assert other.decide([Request(row, "drop", seen=0)]) == []
    assert session.decisions.decide([Request(row, "keep", seen=0)]) == [row]
    standing = session.decisions.standing(row)
    assert standing is not None
    assert (standing.who, standing.action) == ("ben", "drop")
    assert session.decisions.decide([Request(row, "keep", seen=1)]) == []
    other.refresh()
    standing = other.standing(row)
    assert standing is not None
    assert standing.who == "ana"


def test_a_file_of_another_version_is_read_anew(session: Review) -> None:
    decisions, row = session.decisions, row_of(session.collection, "plain.png")
    decisions.decide([Request(row, "drop")])
    file = session.collection.places[0].file
    kept = file.read_text()
    file.unlink()
    decisions.refresh()
    assert decisions.standing(row) is None
    file.write_text(kept)
    decisions.refresh()
    assert decisions.standing(row) is not None
    file.write_text(kept.splitlines(keepends=True)[0])
    decisions.refresh()
    assert decisions.standing(row) is None


def test_a_part_of_a_line_of_a_writer_that_was_killed_loses_nothing(session: Review) -> None:
    decisions = session.decisions
    rows = [row_of(session.collection, name) for name in ("plain.png", "per%2fcent.png")]
    decisions.decide([Request(rows[0], "keep")])
    file = session.collection.places[0].file
    with file.open("a") as opened:
        opened.write(f"{session.collection.paths[rows[1]]},,cat,,drop,kim,,")
    decisions.decide([Request(rows[0], "drop")])
    assert [line.action for line in read_corrections(file)] == ["keep", "drop", "drop"]
    assert decisions.is_decided.sum() == 2


def keep_all(session: Review, who: str) -> None:
    decisions = Decisions(session.collection, who)
    for row in range(20):
        decisions.decide([Request(row, "keep")])


def test_writers_at_once_lose_no_decision(session: Review) -> None:
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=keep_all, args=(session, who)) for who in ("ben", "kim")]
    for process in started:
        process.start()
    for row in range(20):
        session.decisions.decide([Request(row, "drop")])
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    lines = read_corrections(session.collection.places[0].file)
    assert len(lines) == 60
    session.decisions.refresh()
    assert all(session.decisions.number(row) == 3 for row in range(20))


def test_decisions_on_several_folders_are_beside_each(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_reviewed(tmp_path / name)
    roots = [str(tmp_path / name / "images/train") for name in ("one", "two")]
    collection = collect_data(ImageFolder(root=roots))
    decisions = Decisions(collection, "ana")
    decisions.decide([Request(0, "keep"), Request(len(collection) - 1, "drop")])
    for root in roots:
        (line,) = read_corrections(tmp_path / root / "corrections.csv")
        assert (tmp_path / root / line.path).is_file()
    assert Decisions(collection, "ben").is_decided.sum() == 2


def test_the_summary_counts(session: Review) -> None:
    assert "nothing was decided" in session.decisions.words()
    session.decisions.decide([Request(0, "keep"), Request(1, "keep"), Request(2, "drop")])
    assert session.decisions.words().startswith("2 right, 1 dropped: ")
    with session.collection.places[0].file.open(newline="") as file:
        assert len(list(csv.reader(file))) == 4
