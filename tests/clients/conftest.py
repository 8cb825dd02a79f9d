"""Runs of the kinds that the clients must all answer as Python does."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from tests.bundles import PREPROCESSING, with_preprocessing, with_temperature, write_small_bundle

from classifier_training.core.run_dir import RunDir

if TYPE_CHECKING:
    from pathlib import Path

COMBINATIONS = [
    (backend, kernel, policy)
    for (backend, kernel), policy in itertools.product(
        (("pillow", "bilinear"), ("pillow", "bicubic"), ("pillow", "area"), ("opencv", "area")),
        ("squash", "crop", "letterbox"),
    )
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return write_small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def run_dir_of_every_kind(
    request: pytest.FixtureRequest, run_dir: RunDir, tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    backend, kernel, policy = request.param
    preprocessing = dataclasses.replace(PREPROCESSING, backend=backend, kernel=kernel, policy=policy)
    return with_preprocessing(run_dir, preprocessing, tmp_path_factory.mktemp("bundle"))


@pytest.fixture(params=[(0.4, False), (3.0, False), (3.0, True)], ids=["surer", "less_sure", "baked"])
def calibrated_run_dir(request: pytest.FixtureRequest, run_dir: RunDir, tmp_path: Path) -> RunDir:
    """A run whose answers are to be divided by a temperature, by the client or in the graph."""
    temperature, baked = request.param
    return with_temperature(run_dir, temperature, tmp_path, baked=baked)


@pytest.fixture
def changed_run_dir(run_dir: RunDir, tmp_path: Path) -> RunDir:
    """A run that expects other probabilities of its second picture than its model gives."""
    changed = RunDir(tmp_path / "changed")
    shutil.copytree(run_dir.path, changed.path)
    description = changed.golden / "golden.json"
    golden = json.loads(description.read_text())
    golden["images"][1]["probabilities"][0] += 0.002
    description.write_text(json.dumps(golden))
    return changed
