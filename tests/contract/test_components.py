"""Every name of the register does what its group promises. The register is walked, so a new name is tested too."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import SETTINGS, SMALL
from tests.unit.export.test_export import INFO, examples, job_of

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.conf.unused_settings import is_fitted_at_once
from classifier_training.core.errors import EXTRAS, UserError
from classifier_training.core.register import Entry, describe, entries, entry
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.core.storage.places import read_many
from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.formats.lance_write import write_set
from classifier_training.export.job import ExportJob
from classifier_training.workflows.training.network import build_network
from classifier_training.workflows.training.settings import TrainSettings
from classifier_training.workflows.training.start import Start

pytestmark = pytest.mark.usefixtures("quick_runs")

COMPONENTS = [item for item in entries() if item.group in entry("verb", "train").options]

REQUIRED = {
    ("model", "timm"): ["model.name=test_resnet"],
    ("model", "torchvision"): ["model.name=squeezenet1_1"],
    ("model", "huggingface"): ["model.name=vit-tiny"],
    ("optimizer", "timm"): ["optimizer.name=nadamuon"],
    ("sampler", "manual"): ["sampler.weights={red: 3}"],
    ("data", "torchvision"): ["data.name=MNIST"],
    ("data", "huggingface"): ["data.name=some/set"],
    ("distillation", "soft_labels"): ["distillation.teacher=x"],
}
"""Settings that a component cannot do without."""

FAMILY_MEMBERS = {"resnet18", "timm", "student"}
"""One model of each family; the others are walked at night, those without epochs in test_shallow.py."""

ALL_THE_WAY = {"huggingface"}
"""The model that goes through every verb by day; at night all do."""

VARIANTS = [
    ["model=cnn_v1", "model.residual=true"],
    ["model=cnn_v2", "model.kind=dense", "model.separable=true"],
    ["model=cnn_v2", "model.kind=hybrid"],
    ["model=cnn_v2", "model.kind=hybrid", "model.attention=self_attention"],
    ["model=torchvision", "model.name=vit_b_32", "model.pretrained=false", "data.image_size=224"],
    ["model=torchvision", "model.name=inception_v3", "model.pretrained=false", "data.image_size=96"],
]
"""Forms of a model that its defaults do not show."""

ALONE = ["checkpoint"]
"""What every run must have among its callbacks."""


def identify(item: Entry) -> str:
    return f"{item.group}={item.name}"


def chosen(item: Entry) -> list[str]:
    many = item.group in ("callbacks", "logging")
    names = sorted({item.name, *(ALONE if item.group == "callbacks" else [])})
    value = f"[{','.join(names)}]" if many else item.name
    return [f"{item.group}={value}", *REQUIRED.get((item.group, item.name), [])]


def random_start(item: Entry) -> list[str]:
    """What keeps a network from asking for trained weights."""
    return ["model.pretrained=false"] if "pretrained" in item.options else []


DRAW_NOTHING = {"checkpoint", "early_stopping", "ema", "model_info", "onnx_export", "progress"}
"""Callbacks that are tried without figures, which take longer than the run; a new one is tried with them."""


def of_group(*groups: str) -> list[object]:
    return [pytest.param(item, id=identify(item)) for item in COMPONENTS if item.group in groups]


NETWORKS = [item for item in entries("model") if not is_fitted_at_once(item.name)]


def models(by_day: set[str]) -> list[object]:
    return [
        pytest.param(item, id=identify(item), marks=() if item.name in by_day else pytest.mark.nightly)
        for item in NETWORKS
    ]


@pytest.fixture
def tiny_vit() -> None:
    """A folder in the hub's form, in the working folder, without weights."""
    config = {
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 16, "patch_size": 8,
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    }  # fmt: skip
    Path("vit-tiny").mkdir()
    Path("vit-tiny/config.json").write_text(json.dumps(config))


def check_export(run: Path) -> None:
    parity = json.loads((run / "model_info.json").read_text())["files"]["model.onnx"]["parity"]
    assert parity["top1_agreement"] == 1.0
    assert parity["max_probability_difference"] < 1e-3


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


@pytest.mark.usefixtures("tiny_vit", "exported")
@pytest.mark.parametrize("item", models(FAMILY_MEMBERS))
def test_a_model_fits_exports_and_the_export_agrees(
    item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *SETTINGS, *chosen(item), *random_start(item)])
    check_export(run)
    assert len((run / "metrics.csv").read_text().splitlines()) == 2


@pytest.mark.usefixtures("tiny_vit")
@pytest.mark.parametrize(
    "words",
    [
        *(pytest.param([*chosen(item), *random_start(item)], id=identify(item)) for item in NETWORKS),
        pytest.param(["model=tf_efficientnet_lite0"], id="trained weights"),
    ],
)
def test_a_new_head_answers_all_classes_nearly_alike(words: list[str]) -> None:
    arguments = compose(entry("verb", "train"), ["data.root=/x", "data.image_size=64", *words])
    names = [f"class {number}" for number in range(10)]
    built = build_network(TrainSettings(**arguments), names, np.full((10, 2), 64), None, Start()).built
    network = built.network.train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 64, 64, generator=generator)
    targets = torch.randint(10, (8,), generator=generator)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(network(images), targets).item()
    assert loss == pytest.approx(math.log(10), rel=0.1)


@pytest.mark.usefixtures("exported")
@pytest.mark.nightly
@pytest.mark.parametrize("words", VARIANTS, ids=" ".join)
def test_a_variant_of_a_model_fits_exports_and_the_export_agrees(
    words: list[str], split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    check_export(train_here([f"data.root={split_folder}", *SETTINGS, *words]))


@pytest.mark.usefixtures("tiny_vit")
@pytest.mark.parametrize("item", models(ALL_THE_WAY))
def test_a_model_goes_on_is_exported_again_scored_and_asked(
    item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    parts = ["callbacks=[checkpoint]", *chosen(item), *random_start(item)]
    first = train_here([f"data.root={split_folder}", *SETTINGS, *parts])
    run = train_here([f"resume={first}", "trainer.max_epochs=2"])
    assert run == first
    assert len((run / "metrics.csv").read_text().splitlines()) == 3

    def do(verb: str, *words: str) -> Any:
        return entry("verb", verb).run(compose(entry("verb", verb), [f"run={run}", *words]))

    do("export")
    check_export(run)
    assert do("evaluate").result.metrics.keys() >= {"balanced_accuracy", "loss"}
    picture = next((split_folder / "test").rglob("*.png"))
    do("predict", f"source={picture}", f"output={tmp_path}/answer.json")
    (row,) = json.loads((tmp_path / "answer.json").read_text())
    assert row["label"] in {"blue", "green", "red"}


@pytest.mark.parametrize("item", of_group("transfer"))
def test_a_way_to_move_a_trained_network_fits(
    item: Entry, split_folder: Path, tiny_weights: Path, train_here: Callable[[list[str]], Path]
) -> None:
    parts = ["callbacks=[checkpoint]", "trainer.max_epochs=2", f"model.weights={tiny_weights}"]
    run = train_here([f"data.root={split_folder}", *SMALL, *parts, *chosen(item)])
    rows = 1 if item.name == "linear_probe" else 2
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + rows


@pytest.mark.parametrize(
    "item", of_group("loss", "optimizer", "scheduler", "sampler", "imbalance", "transforms", "trainer")
)
def test_a_part_of_training_fits(item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path]) -> None:
    parts = ["callbacks=[checkpoint]", "trainer.max_epochs=2"]
    run = train_here([f"data.root={split_folder}", *SMALL, *parts, *chosen(item)])
    assert (run / "checkpoints/best.ckpt").is_file()
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("item", of_group("callbacks"))
def test_a_callback_works_without_the_others(
    item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path], request: pytest.FixtureRequest
) -> None:
    if item.name not in DRAW_NOTHING:
        request.getfixturevalue("drawn")
    run = train_here([f"data.root={split_folder}", *SMALL, *chosen(item)])
    assert (run / "evaluation/predictions.csv").is_file()


SMALL_DATA = {"slides": ["data.num_images=60", "data.width=64"], "jerseys": ["data.num_images=100"]}
"""What makes the rendered data sets small."""

ELSEWHERE = {"torchvision", "huggingface"}
"""Forms of other libraries; tests/unit/data/formats/test_downloads.py reads local copies of theirs."""


@pytest.mark.parametrize(
    "item", [item for item in COMPONENTS if item.group == "data" and item.name not in ELSEWHERE], ids=identify
)
def test_a_form_of_data_is_read(item: Entry, split_folder: Path, jsonl_folder: Path, tmp_path: Path) -> None:
    pictures = sorted(path.relative_to(split_folder).as_posix() for path in split_folder.rglob("*.png"))
    for split in ("train", "val", "test"):
        own = [path for path in pictures if path.startswith(f"{split}/")]
        (split_folder / f"{split}.txt").write_text("".join(f"{path}\n" for path in own))
    rows = [f"{path},{path.split('/')[1]},{path.split('/')[0]}\n" for path in pictures]
    (split_folder / "table.csv").write_text("path,label,split\n" + "".join(rows))
    roots = {"jsonl": jsonl_folder, **dict.fromkeys(("image_folder", "auto", "csv", "files"), split_folder)}
    if item.name == "lance":
        roots["lance"] = tmp_path / "set.lance"
        write_set(str(roots["lance"]), ImageFolder(root=str(split_folder)).read(), on_error="raise")
    if item.name == "webdataset":
        roots["webdataset"] = tmp_path / "shards"
        roots["webdataset"].mkdir()
        for split in ("train", "val", "test"):
            with tarfile.open(roots["webdataset"] / f"{split}-000000.tar", "w") as shard:
                for number, path in enumerate(sorted((split_folder / split).rglob("*.png"))):
                    shard.add(path, f"{number}.png")
                    label = path.parent.name.encode()
                    info = tarfile.TarInfo(f"{number}.cls")
                    info.size = len(label)
                    shard.addfile(info, io.BytesIO(label))
    overrides = [f"data={item.name}", *SMALL_DATA.get(item.name, [])]
    if item.name in roots:
        overrides.append(f"data.root={roots[item.name]}")
    index = compose(entry("verb", "train"), overrides)["data"].read()
    assert index.present_splits() == (set() if item.name == "slides" else {"train", "val", "test"})
    contents = read_many(list(index.absolute_paths()))
    assert contents
    assert all(isinstance(content, bytes) and content for content in contents)


@pytest.mark.parametrize("item", of_group("logging"))
def test_a_logger_gets_the_figures_without_an_account(
    item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint]", *chosen(item)])
    folder, pattern = {
        "tensorboard": (run, "tensorboard/events*"),
        "wandb": (run, "wandb/offline-run-*/*.wandb"),
        "mlflow": (Path(), "mlflow.db"),
    }[item.name]
    # The process of wandb may write on when the run has ended.
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 500 for path in folder.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("item", of_group("logging"))
def test_a_logger_that_is_not_installed_is_named_before_anything_is_made(
    item: Entry, split_folder: Path, train_here: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in EXTRAS[item.name]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"(?s)logging={item.name} needs {item.name}.*extra '{item.name}'"):
        train_here([f"data.root={split_folder}", *SMALL, *chosen(item)])
    assert not Path("outputs").exists()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> ExportJob:
    folder = tmp_path_factory.mktemp("images")
    model = entry("model", "timm").build({"name": "test_resnet", "pretrained": False})(3)
    return job_of(model, INFO, examples(folder), tmp_path_factory.mktemp("scratch"))


RUNTIMES = {"coreml": "coremltools", "litert": "litert_torch", "openvino": "openvino"}
"""Formats whose converter is an extra, and its module."""


MARKS = {"tensorrt": [pytest.mark.gpu], "saved_model": [pytest.mark.network, pytest.mark.nightly]}
"""What running a format takes: saved_model has uv install TensorFlow; its own test does so by day."""


def formats() -> list[object]:
    return [pytest.param(item, id=identify(item), marks=MARKS.get(item.name, ())) for item in entries("format")]


@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize("item", formats())
def test_a_format_writes_a_file_that_agrees(item: Entry, job: ExportJob, tmp_path: Path) -> None:
    if item.name in RUNTIMES:
        pytest.importorskip(RUNTIMES[item.name])
    files = item.build({}).export(dataclasses.replace(job, target=RunDir(tmp_path)))
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
        entry("format", name).build({}).export(job)
