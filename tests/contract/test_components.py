"""Every name of the register does what its group promises. The register is walked, so a new name is tested too."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SMALL
from tests.unit.export.test_export import INFO, examples, job_of

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.conf.idle import is_fitted_at_once
from classifier_training.core.errors import UserError
from classifier_training.core.register import Entry, describe, entries, entry
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.export.job import ExportJob

COMPONENTS = [item for item in entries() if item.group in entry("verb", "train").options]

REQUIRED = {
    ("model", "timm"): ["model.name=test_resnet"],
    ("sampler", "manual"): ["sampler.weights={red: 3}"],
    ("data", "torchvision"): ["data.name=MNIST"],
    ("data", "huggingface"): ["data.name=some/set"],
}
"""Settings that a component cannot do without."""

FAMILY_MEMBERS = {"resnet18", "timm"}
"""One model of each family; the others are walked at night, those without epochs in test_shallow.py."""

ALONE = ["checkpoint"]
"""What every run must have among its callbacks."""


def identify(item: Entry) -> str:
    return f"{item.group}={item.name}"


def chosen(item: Entry) -> list[str]:
    many = item.group in ("callbacks", "logging")
    names = sorted({item.name, *(ALONE if item.group == "callbacks" else [])})
    value = f"[{','.join(names)}]" if many else item.name
    return [f"{item.group}={value}", *REQUIRED.get((item.group, item.name), [])]


def of_group(*groups: str) -> list[object]:
    return [pytest.param(item, id=identify(item)) for item in COMPONENTS if item.group in groups]


def models() -> list[object]:
    return [
        pytest.param(item, id=identify(item), marks=() if item.name in FAMILY_MEMBERS else pytest.mark.nightly)
        for item in entries("model")
        if not is_fitted_at_once(item.name)
    ]


@pytest.mark.parametrize("item", COMPONENTS, ids=identify)
def test_it_composes_and_describes_itself(item: Entry) -> None:
    root = [] if item.group == "data" else ["data.root=/x"]
    arguments = compose(entry("verb", "train"), [*root, *chosen(item)])
    built = arguments[item.group]
    described = describe(built)
    if item.group in ("callbacks", "logging"):
        described = described[item.name]
    assert described["type"] == item.name
    assert described.keys() == {"type", *item.options}


@pytest.mark.parametrize("item", [item for item in entries() if item.group != "verb"], ids=identify)
def test_its_defaults_are_within_its_own_bounds_and_every_setting_is_explained(item: Entry) -> None:
    assert item.summary.endswith("."), "the first line of the docstring is its line in the help"
    for option in item.options.values():
        assert option.help, f"{identify(item)}: {option.name} is missing from Args"
        assert not isinstance(option.default, (list, dict)), "a mutable default is shared by all"


@pytest.mark.parametrize("item", models())
def test_a_model_fits_exports_and_the_export_agrees(
    item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL[2:], *chosen(item)])
    parity = json.loads((run / "model_info.json").read_text())["files"]["model.onnx"]["parity"]
    assert parity["top1_agreement"] == 1.0
    assert parity["max_probability_difference"] < 1e-3
    assert len((run / "metrics.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("item", of_group("loss", "optimizer", "scheduler", "sampler", "transforms", "trainer"))
def test_a_part_of_training_fits(item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path]) -> None:
    parts = ["callbacks=[checkpoint]", "trainer.max_epochs=2"]
    run = train_here([f"data.root={split_folder}", *SMALL, *parts, *chosen(item)])
    assert (run / "checkpoints/best.ckpt").is_file()
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("item", of_group("callbacks"))
def test_a_callback_works_without_the_others(
    item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, *chosen(item)])
    assert (run / "evaluation/predictions.csv").is_file()


SMALL_DATA = {"slides": ["data.num_images=60", "data.width=64"], "jerseys": ["data.num_images=100"]}
"""What makes the rendered data sets small."""

ELSEWHERE = {"torchvision", "huggingface"}
"""Forms of other libraries; tests/unit/data/test_downloaded.py reads local copies of theirs."""


@pytest.mark.parametrize(
    "item", [item for item in COMPONENTS if item.group == "data" and item.name not in ELSEWHERE], ids=identify
)
def test_a_form_of_data_is_read(item: Entry, split_folder: Path, jsonl_folder: Path) -> None:
    pictures = sorted(path.relative_to(split_folder).as_posix() for path in split_folder.rglob("*.png"))
    for split in ("train", "val", "test"):
        own = [path for path in pictures if path.startswith(f"{split}/")]
        (split_folder / f"{split}.txt").write_text("".join(f"{path}\n" for path in own))
    rows = [f"{path},{path.split('/')[1]},{path.split('/')[0]}\n" for path in pictures]
    (split_folder / "table.csv").write_text("path,label,split\n" + "".join(rows))
    roots = {"jsonl": jsonl_folder, **dict.fromkeys(("image_folder", "auto", "csv", "files"), split_folder)}
    overrides = [f"data={item.name}", *SMALL_DATA.get(item.name, [])]
    if item.name in roots:
        overrides.append(f"data.root={roots[item.name]}")
    index = compose(entry("verb", "train"), overrides)["data"].read()
    assert index.present_splits() == (set() if item.name == "slides" else {"train", "val", "test"})
    assert all((index.root / sample.path).is_file() for sample in index.samples)


@pytest.mark.parametrize("item", of_group("logging"))
def test_a_logger_gets_the_figures_without_an_account(
    item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint]", *chosen(item)])
    written = {
        "tensorboard": run.glob("tensorboard/events*"),
        "wandb": run.glob("wandb/offline-run-*/*.wandb"),
        "mlflow": Path().glob("mlflow.db"),
    }
    assert any(path.stat().st_size > 500 for path in written[item.name])


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> ExportJob:
    folder = tmp_path_factory.mktemp("pictures")
    model = entry("model", "timm").build({"name": "test_resnet"})(3)
    return job_of(model, INFO, examples(folder), tmp_path_factory.mktemp("scratch"))


RUNTIMES = {"coreml": "coremltools", "litert": "litert_torch", "openvino": "openvino"}
"""Formats whose converter is an extra, and its module."""


def formats() -> list[object]:
    return [
        pytest.param(item, id=identify(item), marks=pytest.mark.gpu if item.name == "tensorrt" else ())
        for item in entries("format")
    ]


@pytest.mark.parametrize("item", formats())
def test_a_format_writes_a_file_that_agrees(item: Entry, job: ExportJob, tmp_path: Path) -> None:
    if item.name in RUNTIMES:
        pytest.importorskip(RUNTIMES[item.name])
    files = item.build({})(dataclasses.replace(job, target=RunDir(tmp_path)))
    assert files
    for file in files:
        assert file.path.exists()
        described = json.loads(json.dumps(file.describe()))
        assert described["sha256"] == sha256(file.path)
        if item.name == "coreml" and sys.platform != "darwin":
            assert "macOS" in str(file)
        else:
            assert described["parity"]["top1_agreement"] == 1.0, item.name


@pytest.mark.parametrize(("name", "module"), RUNTIMES.items())
def test_a_converter_that_is_not_installed_is_named_with_its_extra(
    name: str, module: str, job: ExportJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"optional extra '{name}'"):
        entry("format", name).build({})(job)
