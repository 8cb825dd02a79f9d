from __future__ import annotations

import numpy as np

from classifier_training.workflows.evaluating.maps import occlusion_map


def test_occlusion_finds_the_place_that_an_answer_rests_on() -> None:
    picture = np.zeros((3, 32, 32), dtype=np.float32)
    picture[:, 4:8, 20:24] = 1

    def run(inputs: np.ndarray) -> np.ndarray:
        bright = inputs[:, :, 4:8, 20:24].mean(axis=(1, 2, 3))
        return np.stack([4 * bright, np.ones(len(inputs))], axis=1).astype(np.float32)

    falls = occlusion_map(run, picture, 0)
    assert falls.shape == (8, 8)
    assert divmod(int(falls.argmax()), 8) == (1, 5)
    assert abs(falls[6, 1]) < 1e-6
