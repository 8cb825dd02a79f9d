"""The clients, and runs of the kinds that they must all answer as Python does."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.bundles import PREPROCESSING, with_preprocessing, with_temperature, write_small_bundle
from tests.unit.inference.test_rejection import write

from classifier_training.core.run_dir import RunDir

CLIENTS = Path(__file__).parents[2] / "clients"

COMBINATIONS = [
    (backend, kernel, policy)
    for (backend, kernel), policy in itertools.product(
        (("pillow", "bilinear"), ("pillow", "bicubic"), ("pillow", "area"), ("opencv", "area")),
        ("squash", "crop", "letterbox"),
    )
]

BY_DAY = {
    ("pillow", "bilinear", "squash"), ("pillow", "bicubic", "crop"), ("pillow", "area", "letterbox"),
    ("opencv", "area", "crop"),
}  # fmt: skip
"""Every backend, kernel and policy once; the other combinations are tested at night."""


@dataclass(frozen=True)
class Client:
    """What answers the golden images of a run.

    Args:
        folder: where it is run.
        command: what is run, before the run's folder.
        cut_short: what it says of half a pipeline.
    """

    folder: Path
    command: tuple[str, ...]
    cut_short: str

    def check(self, run: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, run], cwd=self.folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def cpp_client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Build check_golden with the ONNX Runtime of $ONNXRUNTIME_ROOT, else the system's."""
    for name in ("cmake", "c++"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp("build")
    root = os.environ.get("ONNXRUNTIME_ROOT", "")
    made = subprocess.run(
        ["cmake", "-S", ".", "-B", folder, f"-DONNXRUNTIME_ROOT={root}", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"],
        cwd=CLIENTS / "cpp", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode and not root and "Could not find" in made.stderr:
        pytest.skip("ONNX Runtime's or nlohmann-json's C++ headers are not installed; see clients/cpp/README.md")
    assert made.returncode == 0, made.stderr
    built = subprocess.run(["cmake", "--build", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning" not in built.stdout + built.stderr
    return Client(folder, ("./check_golden",), cut_short="failed")


@pytest.fixture(scope="session")
def javascript_client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """The client with its packages: the checkout's own if it has them, else a copy that npm fills."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = CLIENTS / "js"
    if not (folder / "node_modules").is_dir():
        folder = shutil.copytree(folder, tmp_path_factory.mktemp("client") / "js")
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True)
    return Client(folder, ("node", "check_golden.js"), cut_short="cut short")


@pytest.fixture(scope="session", params=["cpp", "javascript"])
def client(request: pytest.FixtureRequest) -> Client:
    found: Client = request.getfixturevalue(f"{request.param}_client")
    return found


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return write_small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, id="-".join(kind), marks=() if kind in BY_DAY else pytest.mark.nightly)
        for kind in COMBINATIONS
    ],
)
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


@pytest.fixture(params=["baked", "left_to_the_client"])
def weak_run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> RunDir:
    """A run whose temperature was fitted, far from 1, to a network that is much too sure."""
    return write(tmp_path, bake=request.param == "baked")


@pytest.fixture
def changed_run_dir(run_dir: RunDir, tmp_path: Path) -> RunDir:
    """A run that expects other probabilities of its second image than its model gives."""
    changed = RunDir(tmp_path / "changed")
    shutil.copytree(run_dir.path, changed.path)
    description = changed.golden / "golden.json"
    golden = json.loads(description.read_text())
    golden["images"][1]["probabilities"][0] += 0.002
    description.write_text(json.dumps(golden))
    return changed
