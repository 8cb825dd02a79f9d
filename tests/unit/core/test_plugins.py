from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from classifier_training.core import register as module
from classifier_training.core.plugins import load_plugins
from classifier_training.core.register import entries, entry, register
from classifier_training.core.runtime import versions

Install = Callable[[str, str, str], None]


@pytest.fixture(autouse=True)
def one_component(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_entries", "_by_target"):
        monkeypatch.setattr(module, name, {})
    monkeypatch.setattr(module, "_awaited", [])
    register(group="model", name="built_in")(built_in)


def built_in(num_classes: int, *, width: int = 1) -> int:
    """A component of this package."""
    return num_classes * width


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package of one module, as an installer leaves it: the module, and a folder of metadata."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def write(package: str, point: str, code: str) -> None:
        name = package.replace("-", "_")
        monkeypatch.delitem(sys.modules, name, raising=False)
        (folder / f"{name}.py").write_text(textwrap.dedent(code))
        metadata = folder / f"{name}-1.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text(f"[classifier_training.plugins]\n{name} = {point}\n")

    return write


MODEL = """
    from classifier_training.core.register import register

    @register(group="model", name="{name}")
    def build(num_classes: int, *, width: int = 2) -> int:
        return num_classes * width
"""


def test_a_module_adds_its_components_when_somebody_asks(install: Install) -> None:
    install("their-models", "their_models", MODEL.format(name="theirs"))
    module.when_asked(load_plugins)
    assert "their_models" not in sys.modules
    assert entry("model", "theirs").build({"width": 5})(3) == 15
    assert not entry("model", "theirs").is_built_in
    assert versions()["their-models"] == "1.2"


def test_a_function_adds_its_components(install: Install) -> None:
    code = textwrap.indent(textwrap.dedent(MODEL.format(name="theirs")), "    ")
    install("their-models", "their_models:add", f"def add():\n{code}")
    load_plugins()
    assert [item.name for item in entries("model")] == ["built_in", "theirs"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import a_library_that_is_missing", "ModuleNotFoundError: No module named 'a_library_that_is_missing'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (
            MODEL.format(name="theirs") + MODEL.format(name="built_in"),
            "model=built_in is registered twice: by tests.unit.core.test_plugins.built_in and by their_models.build",
        ),
        (
            MODEL.format(name="theirs").replace('"model"', '"models"'),
            "models=theirs: there is no such group, only model",
        ),
        (
            MODEL.format(name="theirs").replace(": int = 2", ': "Unknown" = 2'),
            "the types of its settings cannot be read",
        ),
    ],
    ids=["import", "exit", "taken", "group", "types"],
)
def test_a_package_that_fails_is_named_and_adds_nothing(
    code: str, said: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("their-models", "their_models", code)
    install("zz-others", "zz_others", MODEL.format(name="others"))
    with caplog.at_level(logging.WARNING):
        load_plugins()
    (record,) = caplog.records
    told = record.getMessage()
    assert told.startswith("the plug-in their-models (their_models) cannot be loaded, and adds nothing: ")
    assert said in told
    assert "pip uninstall their-models" in told
    assert record.exc_info is None
    assert [item.name for item in entries("model")] == ["built_in", "others"]


def test_two_packages_that_take_the_same_name_are_both_named(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("a-models", "a_models", MODEL.format(name="theirs"))
    install("b-models", "b_models", MODEL.format(name="theirs"))
    load_plugins()
    assert "the plug-in b-models" in caplog.text
    assert "by a_models.build and by b_models.build" in caplog.text
    assert entry("model", "theirs").target.__module__ == "a_models"
