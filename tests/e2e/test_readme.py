"""Every command in README.md and CONTRIBUTING.md is run, on small data, as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.conftest import make_class_folders
from tests.server import Warm

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose_values
from classifier_training.conf.overrides import has_key
from classifier_training.conf.store import group_options
from classifier_training.core.register import entries, entry

ROOT = Path(__file__).parents[2]
PIXI = tomllib.loads((ROOT / "pixi.toml").read_text())["tasks"]
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]

SHORT = ["trainer.max_epochs=1", "data.image_size=32", "data.batch_size=16"]
"""Added to every training command, for the README's own length would take an hour."""

COVERED = {
    "uv run pytest": "is what runs this test",
    "uv run ruff check .": "CI's own step",
    "uv run mypy": "CI's own step",
    "uv run lint-imports": "CI's own step",
    "uv run pre-commit install": "writes into the repository",
    "pixi run test": "pytest",
}
"""Commands whose program is only looked up."""


def commands(document: str) -> list[str]:
    """The lines of all bash blocks of a document, chains taken apart."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [part.strip() for line in lines for part in line.split("&&")]


ALL = [line for name in ("README.md", "CONTRIBUTING.md") for line in commands(name)]


def local_form(line: str) -> list[str]:
    """What a line comes to without pixi, uv or Docker: the words of a program of this environment."""
    line = re.sub(r'^eval "\$\((.*)\)"$', r"\1", line)
    words = shlex.split(line)
    while "=" in words[0]:
        words = words[1:]
    if words[:2] == ["uv", "run"]:
        return words[2:]
    if words[:2] == ["pixi", "run"]:
        return [*shlex.split(PIXI[words[2]]["cmd"].partition("&&")[0]), *words[3:]]
    if words[:2] == ["docker", "compose"]:
        rest = [word for word in words[2:] if word not in ("run", "--rm", "up")]
        service = SERVICES[rest[0]]
        return [*service["entrypoint"], *(rest[1:] or service.get("command", []))]
    return words


def with_data(words: list[str], pictures: str, jerseys: str) -> list[str]:
    """Put real folders in place of those that the documents speak of."""
    for placeholder, real in {"/my/images": pictures, "/my/jerseys": jerseys, "/data": pictures}.items():
        words = [re.sub(rf"(?<=[=\"]){placeholder}(?=$|/)", real, word) for word in words]
    return words


DISTINCT = list({tuple(with_data(local_form(line), "P", "J")): line for line in reversed(ALL)}.values())[::-1]
"""The commands without those that come to the same words: pixi run train, uv run classifier-training train."""


def test_there_are_commands_to_run() -> None:
    assert len(DISTINCT) > 15


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, forked_commands: Warm) -> Path:
    """A folder with images, and the finished run that evaluate and predict speak of."""
    folder = tmp_path_factory.mktemp("readme")
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        make_class_folders(folder / "images" / split, dict.fromkeys(("blue", "green", "red"), count))
    ended = forked_commands.run(["train", "data.root=images", *SHORT], cwd=folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.mark.parametrize("line", DISTINCT)
def test_a_command_of_the_documents_runs(
    line: str, tmp_path: Path, trained: Path, jsonl_folder: Path, forked_commands: Warm
) -> None:
    words = local_form(line)
    if words[:3] == ["pip", "install", "uv"]:
        words = ["uv", "--version"]
    program = shutil.which(words[0], path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program, f"{words[0]} is not there"
    if line in COVERED or words[0] == "tensorboard":
        return
    words = with_data(words, str(trained / "images"), str(jsonl_folder))
    trains = words[:2] == ["classifier-training", "train"] and "--help" not in words
    if trains:
        words = [word for word in words if not word.startswith("trainer.max_epochs=")] + SHORT
        if "--multirun" in words:
            # What each run of many leaves is what a run by itself leaves.
            words.append("callbacks=[checkpoint]")
    folder = tmp_path if trains else trained
    if words[0] == "classifier-training":
        # In a process that has imported torch before, which would take longer than what is looked at here, as the
        # figures would; those of the run in `trained` are drawn.
        runs = forked_commands.without_figures() if trains else forked_commands
        ended = runs.run(words[1:], cwd=folder)
        assert ended.code == 0, ended.err
    else:
        done = subprocess.run([program, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_the_readme_names_exists() -> None:
    """Images and linked files are there; verbs, components and settings in its tables are the program's."""
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)) == {verb.name for verb in entries("verb")}
    train = entry("verb", "train")
    offered = group_options(train)
    for group, name in re.findall(r"`(model|transforms|optimizer|scheduler|loss|logging)=([a-z0-9_]+)`", text):
        assert name in offered[group], f"{group}={name}"
    settings = set(re.findall(r"`((?:data|model|trainer|optimizer|transforms|callbacks)\.[a-z_.]+)[=`]", text))
    for key in settings - {"model.onnx", "model.safetensors"}:
        chosen = ["model=timm", "model.name=x"] if key == "model.name" else []
        assert has_key(compose_values(train, ["data.root=/x", *chosen]), key), key


def test_the_python_of_the_readme_runs(trained: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    small = 'epochs=1, model="student", settings={"data.image_size": 32}'
    code = code.replace("/my/images", "images").replace("photo.jpg", "images/test/red/00.png")
    code = code.replace('epochs=5, settings={"data.image_size": 128}', small)
    assert small in code
    done = subprocess.run([sys.executable, "-c", code], cwd=trained, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metric, label, several = done.stdout.splitlines()
    assert metric.endswith("report.html")
    assert label in ("blue", "green", "red")
    assert several == str([label] * 2)
