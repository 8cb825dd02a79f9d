"""The documentation site, built as CI builds it."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.store import group_options
from classifier_training.core.register import entries

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def words_of(page: Path) -> str:
    """The text of a page without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def plain(text: str) -> str:
    """A sentence of help as a page shows it."""
    return text.replace("`", "")


def test_the_reference_has_every_verb_with_its_settings(site: Path) -> None:
    for verb in entries("verb"):
        text = words_of(site / f"reference/verbs/{verb.name}/index.html")
        for command in (verb, *entries(verb.name)):
            assert f"classifier-training {command.command}" in text
            for option in command.options.values():
                assert option.choice or (option.name in text and plain(option.help) in text), (
                    command.command,
                    option.name,
                )


def test_the_reference_has_every_component_and_preset_of_every_group(site: Path) -> None:
    offered: dict[str, set[str]] = {}
    for verb in entries("verb"):
        for command in (verb, *entries(verb.name)):
            for group, names in group_options(command).items():
                offered.setdefault(group, set()).update(names)
    for group, choices in offered.items():
        text = words_of(site / f"reference/groups/{group}/index.html")
        for name in choices - {item.name for item in entries(group)}:
            assert f"{group}={name}" in text, "a preset"
        for item in entries(group):
            assert f"{group}={item.name}" in text
            for option in item.options.values():
                assert f".{option.name}" in text, (group, item.name, option.name)
                assert plain(option.help) in text, (group, item.name, option.name)


def test_the_pages_are_those_of_the_repository(site: Path) -> None:
    for path in (ROOT / "docs").glob("*.md"):
        assert (site / path.stem / "index.html").is_file()
    first = (site / "index.html").read_text()
    assert 'href="first-run/"' in first, "links between files become links between pages"
    assert re.search(r'<a href="\.\./data/">Data</a>', (site / "first-run/index.html").read_text()), "by their titles"
    assert "ct.train(" in words_of(site / "notebook/index.html")
    assert "load_run" in words_of(site / "reference/python/index.html")
