from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.bundles import write_small_bundle

from classifier_training.core.errors import CheckFailedError
from classifier_training.export.benchmark import (
    Candidate,
    CandidateResult,
    Form,
    Quality,
    Timing,
    compare_predictions,
    measure_candidates,
)
from classifier_training.export.recommend import Setting, write_recommendations
from classifier_training.export.session import onnx_runner

SETTING = Setting(
    run="outputs/x", processor="a CPU", num_cores=2, threads=2, split="test", num_images=200, reference="eager",
    preprocessing_ms=0.5, pipeline_bytes=2**20,
)  # fmt: skip


def result(form: Form, *, ms: float, change: float = 0.0, mb: float = 100, spread: float = 0.1) -> CandidateResult:
    timing = Timing(
        batch_size=1, median_ms=ms, p10_ms=ms * (1 - spread), p90_ms=ms * (1 + spread), num_runs=20,
        images_per_second=1e3 / ms,
    )  # fmt: skip
    quality = Quality(
        num_images=200, accuracy=0.9 + change / 100, change_points=change, num_won=0, num_lost=2, agreement=0.99,
        max_probability_difference=0.01,
    )  # fmt: skip
    return CandidateResult(
        form=form, size_bytes=int(mb * 2**20), start_seconds=1.0, peak_memory_mb=mb, timings=[timing], quality=quality
    )


def test_forms_run_in_processes_of_their_own_and_one_that_fails_leaves_the_others(tmp_path: Path) -> None:
    run = write_small_bundle(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"x")
    inputs = np.random.default_rng(0).normal(size=(5, 3, 48, 48)).astype(np.float32)
    np.save(tmp_path / "inputs.npy", inputs)
    forms: list[tuple[Form, Path]] = [("onnx", run.onnx), ("int8", tmp_path / "broken.onnx")]
    good, broken = measure_candidates(
        [Candidate(form=form, path=path, file=path, kept=True) for form, path in forms],
        tmp_path / "inputs.npy",
        batch_sizes=[1, 3],
        threads=1,
        num_runs=12,
        scratch=tmp_path,
    )
    assert "broken.onnx" in broken.problem
    assert not broken.timings
    assert [(timing.batch_size, timing.num_runs) for timing in good.timings] == [(1, 12), (3, 12)]
    for timing in good.timings:
        assert 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms
        assert timing.images_per_second == pytest.approx(timing.batch_size / timing.median_ms * 1e3)
    assert good.logits is not None
    # Five images in batches of three: the last one is filled up, and what fills it is not among the answers.
    assert np.allclose(good.logits, onnx_runner(run.onnx)(inputs), atol=1e-4)
    # Python, NumPy and ONNX Runtime, without torch.
    assert good.peak_memory_mb is not None
    assert 20 < good.peak_memory_mb < 200
    assert good.size_bytes == run.onnx.stat().st_size


def test_answers_are_held_against_the_first_that_answered() -> None:
    silent = CandidateResult(form="eager", problem="no room")
    reference, other = CandidateResult(form="onnx"), CandidateResult(form="int8")
    reference.logits = np.array([[2, 0], [2, 0], [0, 2], [0, 2]], np.float32)
    other.logits = np.array([[2, 0], [0, 2], [2, 0], [0, 2]], np.float32)
    assert compare_predictions([silent, reference, other], np.array([0, 0, 0, 1])) == "onnx"
    assert other.quality is not None
    assert (other.quality.accuracy, other.quality.change_points) == (0.75, 0.0)
    assert (other.quality.num_won, other.quality.num_lost, other.quality.agreement) == (1, 1, 0.5)
    with pytest.raises(CheckFailedError, match="eager: no room"):
        compare_predictions([silent], np.array([0]))


def test_recommendations_are_the_figures_and_say_what_was_not_measured() -> None:
    text = write_recommendations(
        SETTING,
        [result("eager", ms=10, mb=500), result("onnx", ms=4), result("int8", ms=1, change=-5, mb=30)],
        [1],
    )
    assert "Use ONNX float32: the highest throughput of what was measured, 250.0 images a second" in text
    assert "PyTorch eager is 2.50 times as slow" in text
    assert "ONNX int8 loses 5.00 points of accuracy" in text
    assert "No browser was measured" in text
    assert "No GPU was measured" in text
    assert "No edge device was measured" in text
    assert "overlap" not in text
    assert "| ONNX int8 | 0.30x | 4.00x | -5.00 |" in text
    fewer = result("int8", ms=1, change=-5)
    assert fewer.quality is not None
    for num_lost, said in ((5, True), (60, False)):
        few = replace(fewer.quality, num_won=0, num_lost=num_lost)
        page = write_recommendations(SETTING, [result("onnx", ms=4), replace(fewer, quality=few)], [1])
        assert ("images do not tell from none" in page) == said
    close = write_recommendations(SETTING, [result("eager", ms=4.1), result("onnx", ms=4)], [1])
    assert "their spreads overlap" in close
    lost = write_recommendations(
        SETTING, [result("onnx", ms=4), CandidateResult(form="compiled", problem="no compiler")], [1]
    )
    assert "PyTorch compiled: no compiler" in lost
