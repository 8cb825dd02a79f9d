"""The commands of the documents: those of a first reading are run on small data, the others are read by the program."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import make_class_folders
from tests.server import Warm

from classifier_training import cli
from classifier_training.conf.command_line import read_words
from classifier_training.conf.compose import compose, compose_values
from classifier_training.conf.overrides import has_key
from classifier_training.conf.store import group_options
from classifier_training.core.errors import UserError
from classifier_training.core.register import Entry, entries, entry

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
    "uv run mkdocs build --strict": "CI's own step",
    "uv run pre-commit install": "writes into the repository",
    "pixi run test": "pytest",
}
"""Commands whose program is only looked up."""


def commands(document: str) -> list[str]:
    """The lines of all bash blocks of a document, chains taken apart."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return [part.strip() for line in lines for part in line.split("&&")]


RUN = ("README.md", "CONTRIBUTING.md", "docs/first-run.md", "docs/deployment.md")
"""Documents whose commands are run."""

READ = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in RUN)
"""Documents whose commands are read by the program, for many of them train for long."""

EXAMPLES = ("mine", "tiny")
"""Names that the documents give to components of the reader's."""

FILES = (".onnx", ".safetensors", ".torchscript", ".engine", ".py")

ALL = [line for name in RUN for line in commands(name)]


def local_form(line: str) -> list[str]:
    """What a line comes to without pixi, uv or Docker: the words of a program of this environment."""
    line = re.sub(r'^eval "\$\((.*)\)"$', r"\1", line)
    words = shlex.split(line)
    while "=" in words[0]:
        words = words[1:]
    if words[:2] == ["uv", "run"]:
        return words[2:]
    if words[0] == "torchrun":
        return ["classifier-training", *words[words.index("classifier_training") + 1 :]]
    if words[:2] == ["pixi", "run"]:
        return [*shlex.split(PIXI[words[2]]["cmd"].partition("&&")[0]), *words[3:]]
    if words[:2] == ["docker", "compose"]:
        rest = [word for word in words[3:] if word not in ("--rm", "-d")]
        if words[2] == "exec":
            assert "profiles" not in SERVICES[rest[0]]
            return rest[1:]
        name = rest[0] if rest else next(name for name, one in SERVICES.items() if "profiles" not in one)
        service = SERVICES[name]
        return [*service["entrypoint"], *(rest[1:] or service["command"])]
    return words


def with_data(words: list[str], pictures: str, jerseys: str) -> list[str]:
    """Put real folders in place of those that the documents mention."""
    for placeholder, real in {"/my/images": pictures, "/my/jerseys": jerseys, "/data": pictures}.items():
        words = [re.sub(rf"(?<![^=\"\[,]){placeholder}(?=$|[/,\]])", real, word) for word in words]
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
    if line in COVERED or words[0] in ("tensorboard", "sleep"):
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
        # figures would, and an export beside training; the run in `trained` has them.
        ended = forked_commands.quick(exporter=words[1] != "export").run(words[1:], cwd=folder)
        assert ended.code == 0, ended.err
    else:
        done = subprocess.run([program, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", sorted({line for name in READ for line in commands(name)}))
def test_a_command_of_the_other_documents_is_understood(line: str, images: Path, jsonl_folder: Path) -> None:
    words = local_form(line)
    if words[0] in ("python", "jupytext"):
        # Of which tests/e2e/test_research.py runs what is there.
        assert any((ROOT / word).is_file() for word in words), line
        return
    assert words[0] == "classifier-training", line
    words = with_data(words[1:], str(images), str(jsonl_folder))
    verb, settings = cli.find_verb([word for word in words if word not in ("--multirun", "--help")])
    settings = read_words(verb, settings, multirun="--multirun" in words)
    if "--multirun" in words:
        settings = [word if "[" in word else word.partition(",")[0] for word in settings]
    # There is no run to take settings from.
    others = [word for word in settings if not word.startswith(("resume=", "init_from=", "replay="))]
    assert compose(verb, others), line


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images."""
    folder = tmp_path_factory.mktemp("images")
    make_class_folders(folder, dict.fromkeys(("blue", "green"), 2))
    return folder


@pytest.mark.parametrize("document", [*RUN, *READ])
def test_what_a_document_names_exists(document: str) -> None:
    """Images and linked files are there; components and settings are those of the program."""
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", text):
        assert ((ROOT / document).parent / target).exists(), target
    train = entry("verb", "train")
    offered = group_options(train)
    named = (
        r"`(model|transforms|optimizer|scheduler|loss|logging|transfer|imbalance|recipe|experiment|data)=([a-z0-9_]+)"
    )
    for group, name in re.findall(named, text):
        assert name in [*offered[group], *EXAMPLES], f"{group}={name}"
    groups = "data|model|trainer|optimizer|transforms|callbacks|transfer|imbalance|loss|scheduler"
    for key in re.findall(rf"`((?:{groups})\.[a-z_.]+)[=`]", text):
        if key.endswith(FILES):
            continue
        group = key.partition(".")[0]
        chosen = [f"{group}={name}" for name in offered[group]]
        assert any(has_key(_values(train, choice), key) for choice in chosen), key


def test_the_experiment_of_the_documents_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/plugins.md").read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path / "conf/experiment/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    monkeypatch.chdir(tmp_path)
    values = compose_values(entry("verb", "train"), ["experiment=mine"])
    assert values["model"]["type"] == "student"
    assert values["data"]["image_size"] == 96
    assert values["optimizer"]["lr"] == 0.001


@functools.cache
def _values(verb: Entry, choice: str) -> Mapping[str, Any]:
    """The settings that a verb has with a component."""
    try:
        return compose_values(verb, ["data.root=/x", choice] if not choice.startswith("data=") else [choice])
    except UserError:
        return compose_values(verb, [choice])


def test_the_readme_lists_all_verbs() -> None:
    text = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)) == {verb.name for verb in entries("verb")}


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_the_python_of_a_document_runs(document: str, trained: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    code = "".join(blocks).replace("/my/images", "images").replace("photo.jpg", "images/test/red/00.png")
    small = 'epochs=1, model="student", settings={"data.image_size": 32}'
    code, count = re.subn(r"epochs=5(, settings=\{.*?\})?", small, code)
    assert count == 1
    # A script as a reader writes it, without a guard.
    (trained / "script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], cwd=trained, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ended early" not in done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split()[0] in ("blue", "green", "red") for line in lines), lines
