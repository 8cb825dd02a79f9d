"""The observer that counts answers in sketches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.predictions import NAMES, answer, make_images, make_reference, sketch_of

from classifier_training.core.types import Prediction
from classifier_training.monitoring.sketch import SketchWriter, read_sketches
from classifier_training.service.observing import Answer
from classifier_training.service.sketches import SketchObserver

REFERENCE = make_reference()


def test_answers_are_counted_by_the_model_that_gave_them(tmp_path: Path) -> None:
    opened: list[str] = []

    def open_writer(model: str) -> SketchWriter:
        opened.append(model)
        return SketchWriter(tmp_path, model, NAMES, REFERENCE.novelty)

    observer = SketchObserver(open_writer)
    pixels = make_images(30, seed=9).pixels
    shares, novelty = answer(pixels)
    for place in range(30):
        observer.seen(
            f"request {place}",
            "production",
            Answer(
                prediction=Prediction("", label="red", rejected=bool(shares[place].max() < 0.6)),
                place=0,
                logits=np.zeros(2, np.float32),
                probabilities=shares[place],
                class_names=NAMES,
                novelty=float(novelty[place]),
                # The last ones came as tensors.
                pixels=pixels[place] if place < 25 else None,
                model="before" if place < 20 else "after",
            ),
        )
    observer.close()
    assert opened == ["before", "after"]
    (first,) = read_sketches(tmp_path, {"before"}).days.values()
    expected = sketch_of(REFERENCE, pixels[:20])
    assert first.number == 20
    assert first.rejected == expected.rejected
    np.testing.assert_allclose(first.means, expected.means, rtol=1e-4)
    (second,) = read_sketches(tmp_path, {"after"}).days.values()
    assert (second.number, int(second.known[0])) == (10, 5)
