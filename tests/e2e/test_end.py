"""What follows training: whatever fails there is named, and costs neither the score nor another file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tests.conftest import SMALL, make_class_folders, read_csv
from tests.server import Ended

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.callbacks.observer import FitEnd, Observer, RunContext
from classifier_training.cli import perform
from classifier_training.conf.compose import compose
from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.files import size_bytes
from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir
from classifier_training.export.verify import verify, verify_pipeline
from classifier_training.inference.predictor import Predictor
from classifier_training.workflows.training.end import record_result
from classifier_training.workflows.training.settings import TrainSettings
from classifier_training.workflows.training.train import TrainResult
from classifier_training.workflows.training.train import train_here as train_with

pytestmark = pytest.mark.usefixtures("quick_runs")

CALLBACKS = "callbacks=[checkpoint,history,onnx_export]"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three classes, split, with enough validation images to calibrate on."""
    root = tmp_path / "images"
    make_class_folders(root / "train", {"blue": 6, "green": 6, "red": 6})
    make_class_folders(root / "val", {"blue": 10, "green": 10, "red": 10})
    make_class_folders(root / "test", {"blue": 3, "green": 3, "red": 3})
    return root


def train(root: Path, *words: str) -> TrainResult:
    return perform("train", [f"data.root={root}", *SMALL, CALLBACKS, *words])  # type: ignore[no-any-return]


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def refuse(*_: object, **__: object) -> None:
    raise CheckFailedError("answers otherwise", "the same answers", "report it")


def crash(*_: object, **__: object) -> None:
    raise RuntimeError("out of luck\nand a second line")


def fill(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device", "somewhere")


@dataclass(frozen=True, kw_only=True)
class Careless(Observer):
    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        crash()


BUNDLE = {"model.safetensors", "model.onnx", "pipeline.onnx", "golden"}

PIECES: dict[str, tuple[str, Callable[..., None], dict[str, str]]] = {
    "pipeline": (
        "classifier_training.export.verify.verify_pipeline", refuse, {"pipeline.onnx": "answers otherwise"},
    ),
    "calibration": (
        "classifier_training.export.calibrate.calibrate", crash,
        {"model.onnx": "RuntimeError: out of luck", "pipeline.onnx": "model.onnx is missing"},
    ),
    "weights": (
        "classifier_training.export.write.SafeTensors", fill,
        {"model.safetensors": "somewhere: No space left on device"},
    ),
    "golden": ("classifier_training.export.examples.write_golden", crash, {"golden": "RuntimeError: out of luck"}),
    "plots": (
        "classifier_training.workflows.evaluating.scores.draw_results", crash,
        {"the plots of evaluation/": "RuntimeError: out of luck"},
    ),
    "tables": (
        "classifier_training.workflows.evaluating.scores.write_results", fill,
        {"the tables of evaluation/": "somewhere: No space left on device"},
    ),
    "report": (
        "classifier_training.workflows.training.end.write_run_page", crash,
        {"report.html": "RuntimeError: out of luck"},
    ),
    "card": (
        "classifier_training.workflows.training.end.write_model_card", crash,
        {"MODEL_CARD.md": "RuntimeError: out of luck"},
    ),
}  # fmt: skip


NIGHTLY = ("weights", "golden", "tables", "card")


@pytest.mark.parametrize(
    "piece", [pytest.param(name, marks=[pytest.mark.nightly] if name in NIGHTLY else []) for name in PIECES]
)
def test_what_fails_after_training_is_named_and_the_rest_is_done(
    piece: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, failing, expected = PIECES[piece]
    with monkeypatch.context() as patch:
        patch.setattr(place, failing)
        result = train(pictures)
    run = result.run_dir.path
    assert result.exit_code == 1
    assert result.ended.failures.keys() == expected.keys()
    said = str(result)
    log = (run / "train.log").read_text()
    for name, reason in expected.items():
        assert reason in result.ended.failures[name]
        assert f"FAILED: {name}: " in said
        assert name in log
        assert "ERROR" in log
    # The score is there, and the run has come to its end.
    assert f"test: balanced accuracy {result.evaluation.measures.overall['balanced_accuracy']}" in said
    ended = read_json(run / "result.json")
    assert ended["failures"] == dict(result.ended.failures)
    assert ended["metrics"]["acc_top1"] == result.scored.metrics["acc_top1"]
    withheld = BUNDLE & expected.keys()
    info = read_json(run / "model_info.json")
    assert info.get("withheld", {}).keys() == withheld
    for name in BUNDLE:
        assert (run / name).exists() == (name not in withheld), name
        assert name not in withheld or name not in info["files"]
    if piece != "report":
        page = (run / "report.html").read_text()
        for name in withheld:
            assert f"{name} is withheld" in page
    if piece != "tables":
        assert len(read_csv(run / "evaluation/predictions.csv")) == 9
    # The same command does what was left out, and trains no more.
    rows = (run / "metrics.csv").read_bytes()
    again = perform("train", [f"resume={run}"])
    assert again.exit_code == 0
    assert {path.name for path in run.iterdir()} >= BUNDLE
    assert (run / "metrics.csv").read_bytes() == rows
    assert read_json(run / "result.json")["failures"] == {}


def test_an_observer_and_a_logger_that_fail_cost_nothing(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flaky(TensorBoardLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if any(name.startswith("test/") for name in metrics):
                raise ConnectionError("the server has gone")

        def finalize(self, status: str) -> None:
            raise ConnectionError(f"cannot say {status}")

    monkeypatch.setattr("pytorch_lightning.loggers.TensorBoardLogger", Flaky)
    arguments = compose(entry("verb", "train"), [f"data.root={pictures}", *SMALL, CALLBACKS, "logging=tensorboard"])
    result = train_with(TrainSettings(**arguments), observers=[Careless()])
    assert result.ended.failures == {
        "the end of training": "ConnectionError: cannot say failed",
        "Careless": "RuntimeError: out of luck",
        "test metrics for Flaky": "ConnectionError: the server has gone",
        "closing Flaky": "ConnectionError: cannot say success",
    }
    assert result.exit_code == 1
    run = result.run_dir.path
    assert {path.name for path in run.iterdir()} >= BUNDLE
    assert read_json(run / "result.json")["failures"] == dict(result.ended.failures)
    assert "failed: Careless" in (run / "report.html").read_text()


def test_the_score_and_the_report_come_before_the_pipeline_and_the_result_last(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    reports: list[bytes] = []

    def names(run: Path) -> set[str]:
        return {path.relative_to(run).as_posix() for path in run.rglob("*")}

    def check(path: Path, *rest: Any, **more: Any) -> Any:
        seen["pipeline"] = names(path.parent)
        reports.append((path.parent / "report.html").read_bytes())
        return verify_pipeline(path, *rest, **more)

    def record(run_dir: RunDir, *rest: Any) -> None:
        seen["result"] = names(run_dir.path)
        reports.append(run_dir.report.read_bytes())
        record_result(run_dir, *rest)

    monkeypatch.setattr("classifier_training.export.verify.verify_pipeline", check)
    monkeypatch.setattr("classifier_training.workflows.training.end.record_result", record)
    result = train(pictures)
    before = {"model.onnx", "model_info.json", "evaluation/classification_report.json", "evaluation/calibration.json"}
    assert before | {"report.html", "MODEL_CARD.md"} <= seen["pipeline"]
    assert not {"golden", "result.json"} & seen["pipeline"]
    assert "golden/golden.json" in seen["result"]
    assert names(result.run_dir.path) - seen["result"] == {"result.json"}
    assert b"pipeline.onnx" not in reports[0]
    assert b"pipeline.onnx" in reports[1]


@pytest.fixture
def withheld(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A finished run whose model.onnx was withheld."""

    def check(path: Path, *rest: Any, **more: Any) -> Any:
        return refuse() if path.suffix == ".onnx" else verify(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr("classifier_training.export.verify.verify", check)
        result = train(pictures)
    assert result.ended.failures.keys() == {"model.onnx", "pipeline.onnx"}
    return result.run_dir


def test_the_other_verbs_cope_with_a_withheld_model(
    withheld: RunDir, command: Callable[..., Ended], pictures: Path, tmp_path: Path
) -> None:
    run = withheld.path
    known = {row["path"]: row["predicted"] for row in read_csv(run / "evaluation/predictions.csv")}
    done = command("predict", f"run={run}", f"source={pictures}/test", "output=found.json", "trainer.accelerator=cpu")
    assert done.code == 0, done.err
    assert "model.onnx was withheld when the run ended (answers otherwise); PyTorch predicts" in done.err
    found = {row["path"]: row["label"] for row in json.loads((tmp_path / "found.json").read_text())}
    assert found == known

    scored = read_json(withheld.classification_report)["metrics"]["acc_top1"]
    done = command("evaluate", f"run={run}")
    assert done.code == 0, done.err
    report = read_json(withheld.classification_report)
    assert report["source"] == "model.safetensors"
    assert report["metrics"]["acc_top1"] == scored
    assert "model.onnx is withheld" in withheld.report.read_text()

    done = command("registry", "show", str(run))
    assert "WITHHELD: answers otherwise" in done.out
    done = command("registry", "promote", str(run), "alias=production")
    assert done.code == 1
    assert "model.onnx (withheld: answers otherwise)" in done.err
    done = command("benchmark", f"run={run}", "forms=[eager,onnx]", "num_images=4")
    assert done.code in (0, 2), done.err
    assert "Traceback" not in done.err

    # An export that passes its check is withheld no longer.
    done = command("export", f"run={run}")
    assert done.code == 0, done.err
    assert "withheld" not in read_json(withheld.model_info)
    done = command("predict", f"run={run}", f"source={pictures}/test/red/00.png")
    assert done.code == 0, done.err
    assert "PyTorch predicts" not in done.err


def test_students_have_a_teacher_and_comparisons_a_run_whose_model_was_withheld(
    withheld: RunDir, tmp_path: Path
) -> None:
    compared = perform("compare", ["report_only=true", f"output={withheld.path.parents[1]}"])
    assert compared.exit_code == 1
    assert "model.onnx: answers otherwise" in str(compared)
    (standing,) = compared.boards[0].standings
    assert standing.candidate.latency_ms is None
    words = [f"teacher={withheld.path}", "model=student", "data.image_size=32", "data.batch_size=8"]
    words += ["trainer.max_epochs=1", "trainer.accelerator=cpu", "recipe=none", f"output={tmp_path}/students"]
    taught = perform("distill", words)
    assert "teacher" in str(taught)
    with pytest.raises(UserError, match="withheld when the run ended"):
        Predictor(withheld.path)


@pytest.mark.slow
def test_a_finished_run_is_slim_and_says_what_to_share(
    pictures: Path, command: Callable[..., Ended], tmp_path: Path
) -> None:
    # Photos larger than what golden/ keeps, and more than one write of the checkpoints.
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    for path in (pictures / "val").rglob("*.png"):
        Image.fromarray(noise).save(path)
        noise = np.roll(noise, 7, axis=0)
    done = command(
        "train", f"data.root={pictures}", "model=resnet18", "model.pretrained=false", "data.image_size=64",
        "trainer.max_epochs=2", "trainer.accelerator=cpu", "callbacks.checkpoint.every_seconds=0", "data.batch_size=18",
    )  # fmt: skip
    assert done.code == 0, done.err
    (run,) = (RunDir(path.parent) for path in tmp_path.glob("outputs/*/*/result.json"))
    checkpoints = {path.name for path in run.last_checkpoint.parent.iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt", "manifest.json"}
    weights, last = size_bytes(run.weights), size_bytes(run.last_checkpoint)
    assert weights > 40e6
    assert size_bytes(run.path) - last <= 4.2 * weights + 10e6
    assert last <= 4 * size_bytes(run.best_checkpoint)
    assert f"({size_bytes(run.path) / 1e6:,.1f} MB; {last / 1e6:,.1f} MB of it are last.ckpt" in done.out
    assert "disk: " in run.log.read_text()

    # What is said to suffice does.
    (line,) = (line for line in done.out.splitlines() if line.startswith("to share: "))
    names = line.removeprefix("to share: ").partition(" (")[0].split(", ")
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in names:
        shutil.copyfile(run.path / name, shared / name)
    answered = command("predict", "run=shared", f"source={pictures}/test/red/00.png")
    assert answered.code == 0, answered.err

    done = command("train", f"resume={run.path}", "callbacks.checkpoint.keep_last=false")
    assert done.code == 0, done.err
    assert not run.last_checkpoint.exists()
    assert "last.ckpt" not in done.out
    config, result = run.config.read_bytes(), run.result.read_bytes()
    refused = command("train", f"resume={run.path}", "trainer.max_epochs=3")
    assert refused.code == 2
    assert "the run is finished" in refused.err
    assert "init_from=" in refused.err
    assert (run.config.read_bytes(), run.result.read_bytes()) == (config, result)
    for words in (["evaluate"], ["predict", f"source={pictures}/test/red/00.png"], ["export"]):
        done = command(*words, f"run={run.path}")
        assert done.code == 0, done.err


@pytest.mark.usefixtures("exported")
def test_a_shallow_run_ends_alike(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier_training.export.verify.verify_pipeline", refuse)
    words = [f"data.root={pictures}", "model=random_forest", "model.num_trees=4", "data.image_size=32"]
    words += ["model.hog_orientations=4", "model.lbp_points=4", "model.color_bins=4"]
    result = perform("train", [*words, "callbacks=[onnx_export]"])
    assert result.exit_code == 1
    assert result.ended.failures.keys() == {"pipeline.onnx"}
    assert result.run_dir.onnx.exists()
