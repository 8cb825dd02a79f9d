"""Columns give what lists of the same texts give, and are small where they are sent to another process."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from classifier_training.core import columns
from classifier_training.core.columns import Categories, Texts, number_by_first

WORDS = ["b/1.jpg", "", "ä/é.png", "b/1.jpg", "日本.png", "a"]


def test_texts_are_those_of_a_list() -> None:
    texts = Texts.of(WORDS)
    assert [*texts] == WORDS
    assert [texts[row] for row in range(len(WORDS))] == WORDS
    assert texts[-1] == "a"
    assert [*texts[1:4]] == WORDS[1:4]
    assert [*texts[np.array([4, 0, 4])]] == ["日本.png", "b/1.jpg", "日本.png"]
    assert [*texts[np.array([True, False, True, False, False, False])]] == ["b/1.jpg", "ä/é.png"]
    assert texts == WORDS
    assert texts != WORDS[::-1]
    assert "a" in texts
    with pytest.raises(IndexError):
        texts[len(WORDS)]


def test_a_prefix_is_joined_when_a_text_is_read() -> None:
    texts = Texts.of(WORDS).prefixed("/root/")
    assert [*texts] == [f"/root/{word}" for word in WORDS]
    assert texts[2] == "/root/ä/é.png"
    assert texts.find({"/root/a", "a", "/root/"}).tolist() == [1, 5]
    assert [*Texts.joined([texts, Texts.of(["x"])])] == [*texts, "x"]


def test_texts_are_joined_and_numbered() -> None:
    joined = Texts.joined([Texts.of(WORDS)[2:], Texts.of([]), Texts.of(WORDS)])
    assert [*joined] == [*WORDS[2:], *WORDS]
    codes, first = joined.numbers()
    assert codes.tolist() == [0, 1, 2, 3, 1, 4, 0, 1, 2, 3]
    assert first.tolist() == [0, 1, 2, 3, 5]
    assert not joined.is_distinct()
    assert joined[:4].is_distinct()
    assert joined.find(["a", "b/1.jpg", "no"]).tolist() == [1, 3, 4, 7, 9]
    assert [*Texts.joined([])] == []


def test_texts_of_the_same_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Texts, "hashes", lambda self: np.zeros(len(self), np.int64))
    texts = Texts.of(WORDS)
    assert not texts.is_distinct()
    assert Texts.of(["a", "b"]).is_distinct()
    assert texts.numbers()[0].tolist() == [0, 1, 2, 0, 3, 4]


def test_chunks_make_one_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "CHUNK", 4)
    assert [*Texts.of(WORDS)] == WORDS
    assert [*Categories.of(WORDS)] == WORDS


def test_names_that_are_not_utf8_are_found() -> None:
    assert Texts.of(["a", "ä"]).first_not_utf8() is None
    assert Texts.of(["a", "ä", "b\udcff"]).first_not_utf8() == "b\udcff"


def test_a_selection_is_sent_without_the_other_rows() -> None:
    texts = Texts.of(f"folder/{number:09d}.jpg" for number in range(20_000)).prefixed("/root/")
    one = texts[np.array([7, 5])]
    sent = pickle.dumps(one)
    assert len(sent) < 500
    assert pickle.loads(sent) == ["/root/folder/000000007.jpg", "/root/folder/000000005.jpg"]
    # Bytes and places, and no object for a row.
    assert len(pickle.dumps(texts)) < 1.1 * texts.nbytes + 500
    assert pickle.loads(pickle.dumps(texts)) == texts


def test_categories_are_those_of_a_list() -> None:
    column = Categories.of(WORDS)
    assert column == WORDS
    assert column.codes.dtype == np.int8
    assert column[4] == "日本.png"
    assert [*column[np.array([4, 0])]] == ["日本.png", "b/1.jpg"]
    assert column.where("b/1.jpg").tolist() == [True, False, False, True, False, False]
    assert column.where("a", "").tolist() == [False, True, False, False, False, True]
    assert not column.where("no").any()
    assert column[2:].counts() == {"b/1.jpg": 1, "ä/é.png": 1, "日本.png": 1, "a": 1}
    assert column.places_in(["a", "b/1.jpg"]).tolist() == [1, -1, -1, 1, -1, 0]
    assert [*column.mapped(len)] == [len(word) for word in WORDS]
    assert pickle.loads(pickle.dumps(column)) == column


def test_categories_are_joined_and_replaced() -> None:
    joined = Categories.joined([Categories.of(["a", "b"]), Categories.of(["b", "c"])])
    assert [*joined] == ["a", "b", "b", "c"]
    assert joined.values == ("a", "b", "c")
    assert [*joined.replaced(np.array([3, 0]), ["a", "d"])] == ["d", "b", "b", "a"]
    one: Categories[Any] = Categories(np.array([-1, 0]), (1,))
    missing = Categories.joined([one, Categories(np.array([0, 1]), (True, [1]))])
    assert [missing.values[code] if code >= 0 else None for code in missing.codes] == [None, 1, True, [1]]


def test_very_many_categories_are_no_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_OBJECTS", 2)
    column = Categories.of(["a", "b", "c", "a"])
    assert isinstance(column.values, Texts)
    assert column == ["a", "b", "c", "a"]
    assert column.where("c").tolist() == [False, False, True, False]
    assert Categories.joined([column, column]) == ["a", "b", "c", "a"] * 2


def test_numbers_go_by_the_first_row() -> None:
    codes, first = number_by_first(np.array([5, 2, 5, 9, 2]))
    assert codes.tolist() == [0, 1, 0, 2, 1]
    assert first.tolist() == [0, 1, 3]


def test_rows_find_their_places_in_a_column() -> None:
    table = Texts.of(["a", "bé", "", "long"])
    rows = np.array([3, 0, 3, 1])
    assert table[rows].places_in(table).tolist() == [3, 0, 3, 1]
    assert Texts.of(["long", "x", "", "y"]).places_in(table).tolist() == [3, 4, 2, 4]
    assert table.places_in(table[np.array([1, 3])]).tolist() == [2, 0, 2, 1]
    assert table.places_in(table[:0]).tolist() == [0] * 4
