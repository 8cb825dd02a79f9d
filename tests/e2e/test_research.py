"""The research scripts, small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts/research"

SMALL = ("data=digits", "data.image_size=16", "trainer.max_epochs=1", "trainer.precision=32", "transforms=none")

WRITTEN = {
    "data_analysis": ("pipeline_overview.png", "model_requirements.png", "data/report.html"),
    "model_comparison": ("model_comparison.png", "precision_recall.png", "roc.png", "model_comparison.csv"),
    "distillation_and_production": ("distillation_analysis.png", "deployment_recommendations.md"),
}
"""Files of each script below research/."""

WORDS = {"model_comparison": ["models=student,cnn_v1"], "distillation_and_production": ["teacher_model=cnn_v1"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_a_script_writes_its_pictures(name: str, tmp_path: Path) -> None:
    words = [*SMALL[:2], *(() if name == "data_analysis" else SMALL[2:]), *WORDS.get(name, [])]
    done = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for file in WRITTEN[name]:
        assert (tmp_path / "research" / file).stat().st_size > 200, file


def test_there_is_a_test_of_every_script() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(WRITTEN)
