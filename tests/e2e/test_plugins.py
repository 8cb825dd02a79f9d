"""A package with components of its own, as CONTRIBUTING.md shows it, on the real command line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SETTINGS
from tests.server import Ended

from classifier_training import plugins

pytestmark = pytest.mark.usefixtures("quick_runs")

CONTRIBUTING = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
SECTION = CONTRIBUTING.partition("## In a package of your own\n")[2].partition("\n## ")[0]


def block(language: str) -> str:
    """The one block of code in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The package as an installer leaves it, and the environment in which it is found."""
    folder = tmp_path / "site-packages"
    project = tomllib.loads(block("toml"))["project"]
    ((group, points),) = project["entry-points"].items()
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    listed = "".join(f"{name} = {value}\n" for name, value in points.items())
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{listed}")
    (folder / "my_parts.py").write_text(block("python"))
    return {"PYTHONPATH": str(folder)}


@pytest.mark.slow
def test_a_model_a_callback_and_an_export_format_of_another_package(
    command: Callable[..., Ended], installed: dict[str, str], split_folder: Path, tmp_path: Path
) -> None:
    words = ["model=three_layers", "model.width=8", "callbacks=[checkpoint,onnx_export,worst_class]", *SETTINGS]
    words += ["monitor=val/macro_jaccard"]
    trained = command("train", f"data.root={split_folder}", *words, env=installed)
    assert trained.code == 0, trained.err
    (run,) = tmp_path.glob("outputs/*/*")
    assert "model:\n  type: three_layers\n  width: 8\n" in (run / "config.yaml").read_text()
    assert re.search(r"worst: acc_class_(blue|green|red)$", trained.err, re.MULTILINE)
    assert re.search(r"my_parts: worst: acc_class_(blue|green|red)$", (run / "train.log").read_text(), re.MULTILINE)
    assert json.loads((run / "versions.json").read_text())["my-parts"] == "0.1.0"
    assert "val/macro_jaccard" in (run / "metrics.csv").read_text().partition("\n")[0]
    report = json.loads((run / "evaluation/classification_report.json").read_text())
    assert 0 <= report["metrics"]["macro_jaccard"]["value"] <= 1
    assert "warning" not in trained.err.lower()

    exported = command("export", "format=npz", env=installed)
    assert exported.code == 0, exported.err
    assert "model.npz: agrees with PyTorch on 9 of 9 images" in exported.out
    info = json.loads((run / "model_info.json").read_text())
    assert info["model_architecture"] == "three_layers"
    assert info["files"]["model.npz"]["format"] == "npz"
    assert info["files"]["model.npz"]["parity"]["passed"]
    assert (run / "model.npz").is_file()


def test_its_components_are_in_the_help(command: Callable[..., Ended], installed: dict[str, str]) -> None:
    shown = command("train", "--help", "all", env=installed).out
    for line in ("model=three_layers: A convolution, a mean", "callbacks=worst_class: Logs the class with"):
        assert line in shown


def test_a_package_that_fails_is_a_warning(command: Callable[..., Ended], installed: dict[str, str]) -> None:
    module = Path(installed["PYTHONPATH"]) / "my_parts.py"
    module.write_text(module.read_text().replace('name="three_layers"', 'name="resnet18"'))
    done = command("train", "model=three_layers", env=installed)
    assert done.code == 2
    warning, _, error = done.err.partition("error: ")
    assert warning.startswith("warning: the plug-in my-parts (my_parts) cannot be loaded, and adds nothing: ValueError")
    assert "is registered twice: by classifier_training." in warning
    assert "and by my_parts.three_layers" in warning
    assert "model=three_layers: there is no model of that name" in error
    assert "Traceback" not in done.err


def test_every_name_for_packages_can_be_imported() -> None:
    assert not [name for name in plugins.__all__ if getattr(plugins, name, None) is None]
