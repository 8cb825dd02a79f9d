from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.conftest import read_csv

from classifier_training.core.errors import UserError
from classifier_training.inference.rows import Row
from classifier_training.inference.submission import read_form

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("cat", "dog")
PATHS = ("/t/a/1.jpg", "/t/b/2.jpg")


def row(path: str, label: str | None = "dog") -> Row:
    shares = None if label is None else {"cat": 0.25, "dog": 0.75}
    error = "broken" if label is None else None
    return Row(
        path=path, label=label, confidence=None if label is None else 0.75, top_k=[], rejected=None, reject_reason=None,
        error=error, probabilities=shares,
    )  # fmt: skip


def written(tmp_path: Path, columns: list[str] | str, *rows: Row) -> list[dict[str, str]]:
    form = read_form(columns, CLASSES, [one["path"] for one in rows])
    form.write(rows, tmp_path / "out.csv")
    return read_csv(tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["id", "label"], {"id": "1", "label": "dog"}),
        (["image_id:name", "diagnosis"], {"image_id": "1.jpg", "diagnosis": "dog"}),
        (["image:path", "dog"], {"image": "/t/a/1.jpg", "dog": "0.75"}),
        (["id", "label:dog"], {"id": "1", "label": "0.75"}),
        (["id", "prob_cat", "DOG"], {"id": "1", "prob_cat": "0.25", "DOG": "0.75"}),
        (["id", "label", "confidence"], {"id": "1", "label": "dog", "confidence": "0.75"}),
    ],
)
def test_columns_by_name(tmp_path: Path, columns: list[str], expected: dict[str, str]) -> None:
    assert written(tmp_path, columns, row(PATHS[0])) == [expected]


@pytest.mark.parametrize(
    ("names", "found"), [(("2", "1"), "stem"), (("2.jpg", "1.jpg"), "name"), (("b/2.jpg", "a/1.jpg"), "path")]
)
def test_a_sample_says_what_images_are_called_and_in_which_order(
    tmp_path: Path, names: tuple[str, str], found: str
) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("id,label\n" + "".join(f"{name},cat\n" for name in names))
    form = read_form(str(sample), CLASSES, PATHS)
    assert form.name == found
    assert [one["id"] for one in written(tmp_path, str(sample), *map(row, PATHS))] == list(names)


def test_what_cannot_be_read_keeps_the_values_of_the_sample(tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("id,label\n1,cat\n2,cat\n")
    rows = [row(PATHS[0]), row(PATHS[1], None), row("/t/3.jpg")]
    assert [one["label"] for one in written(tmp_path, str(sample), *rows)] == ["dog", "cat"]
    form = read_form(str(sample), CLASSES, [one["path"] for one in rows])
    words = str(form.write(rows, tmp_path / "out.csv"))
    assert words == (
        "2 rows written; 1 image left out, which the sample does not have; 1 that cannot be read keep the values of "
        "the sample: 2"
    )
    assert written(tmp_path, ["id", "label"], rows[1]) == [{"id": "2", "label": ""}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,label\n1,cat\n7,cat\n", "1 row of 2 without an image in the source: 7"),
        ("id,label\n1,0.5\n2,0.5\n", "its column label holds numbers such as 0.5"),
        ("id,cat,bird\n1,0,0\n", "'bird' is no class of the model"),
        ("id,label\n1,cat\n1,cat\n", "'1' is in two rows"),
        ("id\n1\n", "no table with a row for each image"),
        ("", "no table with a row for each image"),
    ],
)
def test_a_sample_that_cannot_be_filled_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "sample.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_form(str(tmp_path / "sample.csv"), CLASSES, PATHS)


def test_columns_may_be_classes_beside_the_label(tmp_path: Path) -> None:
    found = written(tmp_path, ["id", "label", "confidence", "dog"], row(PATHS[0]))[0]
    assert list(found) == ["id", "label", "confidence", "dog"]
    assert found["label"] == "dog"
    assert float(found["dog"]) == float(found["confidence"])


def test_two_images_of_one_name_are_an_error() -> None:
    with pytest.raises(UserError, match="are both '1' in the column id"):
        read_form(["id", "label"], CLASSES, ["/t/a/1.jpg", "/t/b/1.jpg"])
    read_form(["id:path", "label"], CLASSES, ["/t/a/1.jpg", "/t/b/1.jpg"])
