"""Sketches: added in parts or at once, through JSON, and through a folder."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from tests.predictions import NAMES, answer, make_images, make_reference, sketch_of

from classifier_training.core.errors import UserError
from classifier_training.monitoring import sketch
from classifier_training.monitoring.reference import Reference
from classifier_training.monitoring.sketch import Sketch, SketchWriter, read_sketches
from classifier_training.monitoring.statistics import NAMES as STATISTICS

REFERENCE = make_reference()
PIXELS = make_images(60, seed=5).pixels
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


def test_parts_that_are_merged_are_the_whole() -> None:
    whole = sketch_of(REFERENCE, PIXELS)
    merged = sketch_of(REFERENCE, PIXELS[:20]).merge(sketch_of(REFERENCE, PIXELS[20:]))
    assert merged.number == whole.number == 60
    assert merged.rejected == whole.rejected
    for name in ("predicted", "known", "histograms"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    np.testing.assert_allclose(merged.means, whole.means)
    np.testing.assert_allclose(merged.probabilities, whole.probabilities)


def test_sketches_of_different_models_are_not_merged() -> None:
    with pytest.raises(ValueError, match="different models"):
        Sketch("a", NAMES).merge(Sketch("b", NAMES))


def test_json_keeps_it_in_a_few_kilobytes() -> None:
    sketch = sketch_of(REFERENCE, PIXELS)
    text = sketch.to_json()
    assert len(text) < 4000
    again = Sketch.from_json(text)
    np.testing.assert_allclose(again.means, sketch.means, rtol=1e-4)
    np.testing.assert_array_equal(again.histograms, sketch.histograms)
    assert again.to_json() == text


@pytest.mark.parametrize("change", [{"version": 2}, {"predicted": [1]}, {"statistics": {}}])
def test_what_is_no_sketch_is_refused(change: dict[str, object]) -> None:
    found = sketch_of(REFERENCE, PIXELS).to_dict() | change
    with pytest.raises((ValueError, KeyError)):
        Sketch.from_dict(found)


def test_a_statistic_that_is_not_known_is_not_counted() -> None:
    sketch = Sketch("", NAMES)
    values = np.full((2, len(STATISTICS)), 0.5)
    values[0, 0] = np.nan
    sketch.add(np.array([[0.2, 0.8], [0.6, 0.4]]), values, np.array([True, False]))
    assert sketch.known[:2].tolist() == [1, 2]
    assert sketch.means[0] == 0.5
    assert sketch.predicted.tolist() == [1, 1]
    assert sketch.rejected == 1


def test_a_reference_is_the_same_after_json() -> None:
    again = Reference.from_dict(json.loads(json.dumps(REFERENCE.to_dict())))
    assert again.accuracy == REFERENCE.accuracy
    assert again.novelty == REFERENCE.novelty
    np.testing.assert_allclose(again.deviations, REFERENCE.deviations, rtol=1e-4)
    assert [one.kind for one in again.responses] == [one.kind for one in REFERENCE.responses]
    assert len(json.dumps(REFERENCE.to_dict())) < 10_000


class Clock:
    """A clock that is set by hand."""

    now = NOON

    def __call__(self) -> float:
        return self.now


def write(writer: SketchWriter, pixels: np.ndarray) -> None:
    """Have predictions counted."""
    probabilities, novelty = answer(pixels)
    writer.add(probabilities, probabilities.max(axis=1) < 0.6, pixels=pixels, novelty=novelty)


def test_a_writer_has_a_file_an_hour_and_days_are_read_back(tmp_path: Path) -> None:
    clock = Clock()
    writer = SketchWriter(tmp_path, "sha", NAMES, REFERENCE.novelty, clock=clock)
    other = SketchWriter(tmp_path, "sha", NAMES, REFERENCE.novelty, clock=clock)
    write(writer, PIXELS[:10])
    write(other, PIXELS[10:20])
    assert not list(tmp_path.glob("*.json")), "nothing is written for each prediction"
    clock.now += 3600
    write(writer, PIXELS[20:30])
    clock.now += 11 * 3600
    write(writer, PIXELS[30:])
    writer.close()
    other.close()
    hours = sorted(path.name.partition(".")[0] for path in tmp_path.glob("*.json"))
    assert hours == ["2026-03-01T12", "2026-03-01T12", "2026-03-01T13", "2026-03-02T00"]
    read = read_sketches(tmp_path, {"sha"})
    assert {day: sketch.number for day, sketch in read.days.items()} == {"2026-03-01": 30, "2026-03-02": 30}
    whole = read.days["2026-03-01"].merge(read.days["2026-03-02"])
    np.testing.assert_allclose(whole.means, sketch_of(REFERENCE, PIXELS).means, rtol=1e-4)


def test_a_file_is_written_again_within_the_hour(tmp_path: Path) -> None:
    clock = Clock()
    writer = SketchWriter(tmp_path, "sha", NAMES, REFERENCE.novelty, clock=clock)
    write(writer, PIXELS[:10])
    clock.now += 20
    write(writer, PIXELS[10:20])
    (file,) = tmp_path.glob("*.json")
    assert Sketch.from_json(file.read_text()).number == 20
    write(writer, PIXELS[20:])
    writer.close()
    assert Sketch.from_json(file.read_text()).number == 60


def test_the_last_prediction_is_written_without_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "FLUSH_S", 0.05)
    writer = SketchWriter(tmp_path, "sha", NAMES, REFERENCE.novelty)
    write(writer, PIXELS[:10])
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    (file,) = tmp_path.glob("*.json")
    assert Sketch.from_json(file.read_text()).number == 10
    writer.close()


def test_threads_lose_nothing(tmp_path: Path) -> None:
    writer = SketchWriter(tmp_path, "sha", NAMES, REFERENCE.novelty)
    threads = [threading.Thread(target=write, args=(writer, PIXELS)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert sum(sketch.number for sketch in read_sketches(tmp_path, {"sha"}).days.values()) == 480


def test_a_tensor_without_pixels_is_counted(tmp_path: Path) -> None:
    writer = SketchWriter(tmp_path, "sha", NAMES, None)
    writer.add(np.array([[0.3, 0.7]], np.float32), np.array([False]))
    writer.close()
    (sketch,) = read_sketches(tmp_path, {"sha"}).days.values()
    assert dict(zip(STATISTICS, sketch.known.tolist(), strict=True)) == {
        name: int(name == "confidence") for name in STATISTICS
    }


def test_other_models_and_damaged_files_are_told(tmp_path: Path) -> None:
    for model in ("sha", "other"):
        writer = SketchWriter(tmp_path, model, NAMES, REFERENCE.novelty)
        write(writer, PIXELS)
        writer.close()
    (tmp_path / "2026-03-01T12.cut.json").write_text('{"version": 1')
    (tmp_path / "notes.json").write_text("{}")
    read = read_sketches(tmp_path, {"sha"})
    assert [sketch.number for sketch in read.days.values()] == [60]
    assert read.others == {"other": 60}
    assert set(read.damaged) == {"2026-03-01T12.cut.json", "notes.json"}


def test_a_folder_without_sketches_is_an_error_that_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"predict .* sketches="):
        read_sketches(tmp_path, {"sha"})
