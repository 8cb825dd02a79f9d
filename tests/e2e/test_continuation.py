"""A run that is made longer, goes on with other settings, or starts from another's weights."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from tests import quick
from tests.conftest import NETWORK, SMALL, make_class_folders
from tests.e2e.test_resume import exact, timeless

from classifier_training.callbacks.observer import EpochEnd, RunContext
from classifier_training.callbacks.plots import TrainingHistory
from classifier_training.core.errors import InterruptedRunError, UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.training import batch_size, trial
from classifier_training.training.checkpoints import RunCheckpoints
from classifier_training.training.optim import warmup_cosine
from classifier_training.workflows.training import resolve

pytestmark = pytest.mark.usefixtures("quick_runs")

Train = Callable[[list[str]], Path]
SETTINGS = (*SMALL, "recipe=none", "callbacks=[checkpoint,ema]", "callbacks.checkpoint.every_seconds=0")
STEPS = 5
"""Batches of at most four in an epoch of the eighteen images."""


@pytest.fixture
def finished(split_folder: Path, train_here: Train) -> Path:
    """A run of two epochs."""
    return train_here([f"data.root={split_folder}", *SETTINGS, "trainer.max_epochs=2"]).absolute()


def rates(run: Path) -> list[float]:
    """Learning rate after each epoch."""
    with (run / "metrics.csv").open() as file:
        return [float(row["lr"]) for row in csv.DictReader(file)]


def shape(step: int, epochs: int) -> float:
    factor = warmup_cosine(step, epochs * STEPS, warmup_fraction=0.1, final_lr_ratio=0.01)
    return float(f"{1e-3 * factor:.6g}")


def saved(run: Path) -> dict[str, object]:
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    state["rows"] = timeless(state["callbacks"]["EpochRecorder"].pop("rows"))
    del state["callbacks"]["EpochRecorder"]["train_seconds"]
    parts = ("state_dict", "averaging_state", "optimizer_states", "lr_schedulers", "callbacks", "rows", "global_step")
    return {name: exact(state[name]) for name in parts}


def interrupt_after(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    def end(self: RunCheckpoints, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        ended(self, trainer, module)
        if trainer.current_epoch == epoch:
            signal.raise_signal(signal.SIGINT)

    ended = RunCheckpoints.on_train_epoch_end
    monkeypatch.setattr(RunCheckpoints, "on_train_epoch_end", end)


class KilledError(BaseException):
    """Ends a run without a chance to save anything."""


def end_at_once(*_: object) -> None:
    raise KilledError


EXTENDED: dict[str, Callable[[int], float]] = {
    "stretch": lambda step: shape(step, 4),
    "restart": lambda step: shape(step - 2 * STEPS, 2),
    "constant": lambda step: shape(2 * STEPS, 2),
}


@pytest.mark.parametrize(
    "extend", ["stretch", *(pytest.param(word, marks=pytest.mark.nightly) for word in ("restart", "constant"))]
)
def test_a_longer_run_does_with_its_schedule_what_was_asked_for(
    extend: str,
    finished: Path,
    train_here: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cut = Path(shutil.copytree(finished, tmp_path / "cut"))
    caplog.set_level("INFO")
    words = ["trainer.max_epochs=4", f"extend={extend}"]
    train_here([f"resume={finished}", *words])
    expected = EXTENDED[extend]
    assert rates(finished) == [shape(STEPS, 2), shape(2 * STEPS, 2), expected(3 * STEPS), expected(4 * STEPS)]
    assert "resume: trainer.max_epochs: 4, before 2" in caplog.text
    assert f"extend={extend}: " in caplog.text
    assert "is not what it would have been without these changes: trainer.max_epochs" in caplog.text

    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(InterruptedRunError):
            train_here([f"resume={cut}", *words])
    with pytest.raises(UserError, match=f"extend={extend} has no effect: the run is planned for 4 epochs"):
        train_here([f"resume={cut}", *words])
    train_here([f"resume={cut}"])
    assert saved(cut) == saved(finished)


def test_a_run_that_was_cut_short_before_its_first_new_checkpoint_still_changes(
    finished: Path, train_here: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Path(shutil.copytree(finished, tmp_path / "cut"))
    words = ["trainer.max_epochs=3", "extend=restart", "optimizer.lr=0.01", "optimizer.weight_decay=0.2"]
    train_here([f"resume={finished}", *words])
    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "on_train_start", end_at_once)
        with pytest.raises(KilledError):
            train_here([f"resume={cut}", *words])
    train_here([f"resume={cut}"])
    assert saved(cut) == saved(finished)
    groups = torch.load(cut / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups] == [(0.01, 0.2), (0.01, 0.0)]


def test_changed_settings_take_effect_and_each_is_listed(
    finished: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    changes = ["optimizer.lr=0.01", "data.batch_size=6", "transforms.hflip=0.5", "data.num_workers=0"]
    train_here([f"resume={finished}", "trainer.max_epochs=4", *changes])
    # Three batches of six an epoch, and the schedule as far along as if it had always been so.
    factors = [warmup_cosine(3 * epoch, 12, warmup_fraction=0.1, final_lr_ratio=0.01) for epoch in (3, 4)]
    assert rates(finished)[2:] == pytest.approx([0.01 * factor for factor in factors], rel=1e-5)
    for line in (
        "optimizer.lr: 0.01, before 0.001",
        "data.batch_size: 6, before 4",
        "data.num_workers: 0, before auto",
    ):
        assert f"resume: {line}" in caplog.text
    listed = "without these changes: data.batch_size, transforms.hflip, optimizer.lr, trainer.max_epochs"
    assert listed in caplog.text
    with pytest.raises(UserError, match=r"another model\.dropout"):
        train_here([f"resume={finished}", "model.dropout=0.5"])


@pytest.mark.nightly
def test_a_run_that_was_stopped_early_gets_its_whole_patience_again(split_folder: Path, train_here: Train) -> None:
    stopping = ["callbacks=[checkpoint,early_stopping]", "callbacks.early_stopping.patience=2"]
    words = [*SMALL, *stopping, "callbacks.early_stopping.min_delta=1", "trainer.max_epochs=6"]
    run = train_here([f"data.root={split_folder}", *words])
    assert len(rates(run)) == 3
    train_here([f"resume={run}", "trainer.max_epochs=12", "extend=constant"])
    assert len(rates(run)) == 5


def test_a_learning_rate_is_not_looked_for_in_the_middle_of_a_run(finished: Path, train_here: Train) -> None:
    with pytest.raises(UserError, match="belongs to the start of a run"):
        train_here([f"resume={finished}", "trainer.max_epochs=3", "optimizer.lr=auto"])


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_what_a_run_found_out_is_kept_and_used_again(
    split_folder: Path,
    train_here: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    words = [f"data.root={split_folder}", *SETTINGS, "data.batch_size=auto", "optimizer.lr=auto"]
    words += ["trainer.max_epochs=3", "model.dropout=0.3"]
    monkeypatch.setattr(trial, "NUM_STEPS", 20)
    monkeypatch.setattr(batch_size, "available_memory_bytes", lambda: 20 * 2**20)
    whole = train_here([*words, "output=whole"])
    quick.leave_out(monkeypatch.setattr)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(InterruptedRunError):
            train_here([*words, "output=cut"])
    (cut,) = (path.parent for path in Path("cut").glob("*/*/config.yaml"))
    decided = json.loads((cut / "decisions.json").read_text())
    number = decided["batch_size"]
    assert number < 18
    assert number * decided["accumulate_grad_batches"] == 64
    assert (
        f"data.batch_size=auto: {number}, gradients of {64 // number} batches make a step of 64 images" in caplog.text
    )
    assert f"optimizer.lr=auto: {decided['lr']:g}" in caplog.text
    assert (whole / "lr_range.png").stat().st_size > 5000
    assert "batch_size: auto" in (cut / "config.yaml").read_text()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("found out again")

    monkeypatch.setattr(trial, "sweep", fail)
    monkeypatch.setattr(batch_size, "find_batch_size", fail)
    train_here([f"resume={cut}"])
    assert saved(cut) == saved(whole)
    assert json.loads((cut / "decisions.json").read_text()) == decided


def test_a_run_starts_from_the_weights_of_another(
    finished: Path, train_here: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    root = make_class_folders(tmp_path / "others", {"green": 10, "red": 10})
    made = [f"data.root={root}", *SETTINGS]
    run = train_here([*made, f"init_from={finished}", "transfer=full", "optimizer.lr=1e-12"])
    assert "the head is kept for 2 of 2 classes; left out: 'blue'" in caplog.text
    theirs = torch.load(finished / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    own = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert torch.allclose(own["network.conv1.0.weight"], theirs["network.conv1.0.weight"], atol=1e-6)
    assert torch.allclose(own["network.fc.weight"], theirs["network.fc.weight"][1:], atol=1e-6)
    assert f"init_from: {finished}" in (run / "config.yaml").read_text()
    # The source may be gone when the run goes on.
    shutil.rmtree(finished)
    train_here([f"resume={run}", "trainer.max_epochs=2"])


def test_a_run_from_anothers_weights_goes_on_with_them_before_and_after_its_first_checkpoint(
    finished: Path, split_folder: Path, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"data.root={split_folder}", *SETTINGS, f"init_from={finished}",
             "transfer=progressive_unfreezing", "optimizer=sgd", "trainer.max_epochs=3"]  # fmt: skip
    whole = train_here(words)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 0)
        with pytest.raises(InterruptedRunError):
            train_here(words)
    cut = max(whole.parent.iterdir(), key=lambda run: run.stat().st_mtime_ns)
    assert cut != whole
    unsaved = shutil.copytree(cut, cut.with_name("unsaved"))
    shutil.rmtree(unsaved / "checkpoints")
    for run in (cut, unsaved):
        assert saved(train_here([f"resume={run}"])) == saved(whole)


DEFAULT_PACE = (*SMALL, "recipe=none", "callbacks=[checkpoint,ema]", "trainer.max_epochs=2")
"""Checkpoints as often as they come by themselves: a run of seconds has none between its first and its last."""


def test_a_short_run_that_is_cut_in_its_first_epoch_goes_on_from_its_first_step(
    split_folder: Path,
    train_here: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    words = [f"data.root={split_folder}", *DEFAULT_PACE]
    whole = train_here(words)
    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "on_validation_start", end_at_once)
        with pytest.raises(KilledError):
            train_here(words)
    (cut,) = (path.parent for path in whole.parent.glob("*/config.yaml") if path.parent != whole)
    assert [path.name for path in (cut / "checkpoints").glob("*.ckpt")] == ["step.ckpt"]
    changed = Path(shutil.copytree(cut, tmp_path / "changed"))
    assert train_here(["resume=latest"]).absolute() == cut.absolute()
    assert "training continues after step 1" in caplog.text
    assert saved(cut) == saved(whole)
    # Other settings need the end of an epoch: where there is none yet, nothing is lost by another beginning.
    train_here([f"resume={changed}", "data.batch_size=6"])
    assert "with other settings the run begins again" in caplog.text
    assert len(rates(changed)) == 2


STOPPED = (
    *SMALL, "recipe=none", "callbacks=[checkpoint,ema,early_stopping,onnx_export]", "trainer.max_epochs=6",
    "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1",
)  # fmt: skip


def test_a_run_that_was_stopped_early_and_cut_at_its_end_is_trained_no_more(
    split_folder: Path, train_here: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = [f"data.root={split_folder}", *STOPPED]
    whole = train_here(words)
    assert len(rates(whole)) == 2
    with monkeypatch.context() as patch:
        patch.setattr("classifier_training.workflows.training.end.record_result", end_at_once)
        with pytest.raises(KilledError):
            train_here(words)
    (cut,) = (path.parent for path in whole.parent.glob("*/config.yaml") if path.parent != whole)
    longer = shutil.copytree(cut, cut.with_name("longer"))
    rows = (cut / "metrics.csv").read_bytes()
    train_here([f"resume={cut}"])
    assert "its training has ended" in caplog.text
    assert (cut / "metrics.csv").read_bytes() == rows
    assert saved(cut) == saved(whole)
    results = [json.loads((run / "result.json").read_text()) for run in (cut, whole)]
    assert {**results[0], "seconds": None} == {**results[1], "seconds": None}
    # Made longer it trains on, and so it does when it was cut before its first new checkpoint.
    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "on_train_start", end_at_once)
        with pytest.raises(KilledError):
            train_here([f"resume={longer}", "trainer.max_epochs=9"])
    train_here([f"resume={longer}"])
    assert len(rates(longer)) > 2


ASKED = (*SMALL, "recipe=none", "callbacks=[checkpoint,ema,history,onnx_export]", "trainer.max_epochs=5")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ask runs to stop after they have trained so many epochs."""

    def ask(after: int) -> None:
        def touch(_: object, run: RunContext, end: EpochEnd) -> None:
            # Observers are called when the epoch's own decision has been made.
            if end.epoch + 2 == after:
                run.run_dir.stop_request.touch()

        monkeypatch.setattr(TrainingHistory, "epoch_ended", touch, raising=False)

    return ask


def test_a_run_that_is_asked_to_stop_ends_with_all_its_files_and_trains_the_rest_when_it_is_resumed(
    split_folder: Path, train_here: Train, asked: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    words = [f"data.root={split_folder}", *ASKED]
    whole = train_here(words)
    asked(2)
    run = RunDir(train_here(words))
    assert len(rates(run.path)) == 2
    assert run.onnx.exists()
    assert json.loads(run.result.read_text())["ended"] == "stopped on request after 2 of 5 epochs"
    assert "stopped on request after 2 of 5 epochs" in run.report.read_text()
    assert not run.stop_request.exists()
    train_here([f"resume={run.path}"])
    assert "its training has ended" not in caplog.text
    assert saved(run.path) == saved(whole)
    assert json.loads(run.result.read_text())["ended"] == "all 5 epochs are done"


@pytest.mark.nightly
def test_a_run_that_was_asked_to_stop_and_cut_at_its_end_is_trained_no_more(
    split_folder: Path,
    train_here: Train,
    asked: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    words = [f"data.root={split_folder}", *ASKED, "retrain_head=true"]
    asked(2)
    with monkeypatch.context() as patch:
        patch.setattr("classifier_training.workflows.training.end.record_result", end_at_once)
        with pytest.raises(KilledError):
            train_here(words)
    (cut,) = (RunDir(path.parent) for path in split_folder.parent.glob("outputs/*/*/config.yaml"))
    assert cut.stop_request.exists()
    longer = RunDir(shutil.copytree(cut.path, cut.path.with_name("longer")))
    train_here([f"resume={cut.path}"])
    assert "its training has ended" in caplog.text
    assert json.loads(cut.result.read_text())["ended"] == "stopped on request after 2 of 5 epochs"
    assert len(rates(cut.path)) == 2
    assert not cut.stop_request.exists()
    # With other settings it trains on, and is told that the request still holds.
    train_here([f"resume={longer.path}", "trainer.max_epochs=6"])
    assert f"{longer.stop_request}: training ends after its next epoch" in caplog.text
    assert len(rates(longer.path)) == 3


def test_a_finished_run_whose_checkpoint_is_gone_stays_as_it_is(finished: Path, train_here: Train) -> None:
    shutil.rmtree(finished / "checkpoints")
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"the run is finished, and .* is gone") as caught:
        train_here([f"resume={finished}", "trainer.max_epochs=4"])
    assert f"init_from={finished}" in caught.value.remedy
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_what_cannot_be_started_from_is_said(finished: Path, split_folder: Path, train_here: Train) -> None:
    made = [f"data.root={split_folder}", *SETTINGS]
    with pytest.raises(UserError, match="trained test_resnet, and this one trains student") as caught:
        train_here([*made[:1], *SETTINGS[len(NETWORK) :], f"init_from={finished}", "model=student"])
    assert "model=timm model.name=test_resnet" in caught.value.remedy
    with pytest.raises(UserError, match="init_from=nowhere: there is no such folder"):
        train_here([*made, "init_from=nowhere"])
    with pytest.raises(UserError, match="no run is resumed"):
        train_here([*made, "extend=stretch"])


def test_an_unfinished_run_of_the_same_settings_is_named_and_a_new_one_starts(
    split_folder: Path, train_here: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = [f"data.root={split_folder}", *SETTINGS, "trainer.max_epochs=2"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 0)
        with pytest.raises(InterruptedRunError):
            train_here(words)
    assert "an unfinished run" not in caplog.text
    (cut,) = (path.parent for path in Path("outputs").glob("*/*/config.yaml"))
    run = train_here(words)
    assert f"to resume it instead: classifier-training train resume={cut}" in caplog.text
    assert run != cut
    caplog.clear()
    train_here([*words, "seed=5"])
    assert "an unfinished run" not in caplog.text


@pytest.mark.usefixtures("exported")
@pytest.mark.nightly
def test_a_compiled_network_trains_resumes_and_exports(split_folder: Path, train_here: Train) -> None:
    words = [f"data.root={split_folder}", *SMALL, "trainer.compile=true", "callbacks=[checkpoint,ema,onnx_export]"]
    run = train_here(words)
    train_here([f"resume={run}", "trainer.max_epochs=2"])
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    assert (run / "model.onnx").is_file()


@pytest.mark.parametrize("preset", ["cpu", "gpu", "mps"])
def test_a_trainer_preset_trains_on_what_there_is(preset: str, split_folder: Path, train_here: Train) -> None:
    words = [word for word in SETTINGS if not word.startswith("trainer.acc")]
    words = [f"data.root={split_folder}", *words, f"trainer={preset}"]
    mps = torch.backends.mps.is_available()
    if not {"cpu": True, "gpu": torch.cuda.is_available() or mps, "mps": mps}[preset]:
        with pytest.raises(UserError, match=f"trainer.accelerator={preset}: PyTorch .* sees no such device here"):
            train_here(words)
        return
    assert f"accelerator: {preset}" in (train_here(words) / "config.yaml").read_text()


def plan(run: Path) -> list[dict[str, int]]:
    found: list[dict[str, int]] = json.loads((run / "decisions.json").read_text())["parts"]
    return found


def test_a_run_with_time_for_all_epochs_is_the_run_without_a_time(
    finished: Path, split_folder: Path, train_here: Train
) -> None:
    timed = train_here([f"data.root={split_folder}", *SETTINGS, "trainer.max_epochs=2", "time=1h"])
    assert plan(timed) == [{"from_epoch": 0, "max_epochs": 2, "num_batches": STEPS, "batch_size": 4}]
    assert {**saved(timed), "rows": None} == {**saved(finished), "rows": None}
    assert rates(timed) == rates(finished)


def test_a_run_ends_in_its_time_with_its_schedule_and_goes_on_by_its_plan(
    split_folder: Path, train_here: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resolve, "END_SECONDS", 0.0)
    words = [f"data.root={split_folder}", *SETTINGS, "trainer.max_epochs=5000", "time=5s"]
    caplog.set_level("INFO")
    run = train_here(words).absolute()
    parts = plan(run)
    assert parts[0]["from_epoch"] == 0
    assert 1 <= parts[0]["max_epochs"] < 5000
    assert len(rates(run)) == parts[-1]["max_epochs"]
    assert rates(run)[-1] < 0.1 * max(rates(run))
    assert f"all {parts[-1]['max_epochs']} epochs are done" in caplog.text
    assert json.loads((run / "result.json").read_text())["seconds"]["training"] < 60
    # One that was interrupted follows its plan, whatever the clock says.
    with monkeypatch.context() as patch:
        interrupt_after(patch, epoch=1)
        with pytest.raises(InterruptedRunError):
            train_here([*words, "name=left"])
    (left,) = (path.parent for path in Path().glob("outputs/left/*/*/config.yaml"))
    planned = plan(left)
    train_here([f"resume={left}"])
    assert plan(left) == planned
    assert len(rates(left)) == planned[-1]["max_epochs"]


def test_a_time_that_is_over_before_a_step_is_refused(split_folder: Path, train_here: Train) -> None:
    with pytest.raises(UserError, match=r"time=1 s: \d+ s have passed, the end takes about \d+ s, and a step"):
        train_here([f"data.root={split_folder}", *SETTINGS, "trainer.max_epochs=2", "time=1s"])
