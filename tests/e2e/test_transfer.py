"""A trained network moves to new data: what learns, what stands still, and what the run folder then holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.conftest import SMALL, read_csv
from tests.e2e.test_resume import exact, timeless

from classifier_training.core.errors import UserError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.types import PROBE_EPOCH
from classifier_training.training import speed
from classifier_training.training.checkpoint_files import AtomicCheckpointIO
from classifier_training.workflows.training import resolve

pytestmark = pytest.mark.usefixtures("quick_runs")

Train = Callable[[list[str]], Path]
State = dict[str, torch.Tensor]

BELOW = ("layer1", "layer2", "layer3")


@pytest.fixture
def words(split_folder: Path, tiny_weights: Path) -> list[str]:
    return [f"data.root={split_folder}", *SMALL, f"model.weights={tiny_weights}", "callbacks=[checkpoint,ema]"]


def checkpoint(run: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
    return found


def network(run: Path, name: str = "best") -> State:
    state = checkpoint(run, name)["state_dict"]
    assert isinstance(state, dict)
    return {key.removeprefix("network."): value for key, value in state.items()}


def changed(before: State, after: State) -> set[str]:
    """Outermost modules of which anything moved."""
    return {name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}


def test_a_linear_probe_changes_the_head_alone_and_is_a_whole_run(
    words: list[str], tiny_weights: Path, train_here: Train
) -> None:
    run = train_here([*words[:-1], "callbacks=[checkpoint,ema,onnx_export,history,progress]", "transfer=linear_probe"])
    before = load_file(tiny_weights)
    after = network(run)
    assert changed({**before, "fc.weight": before["fc.weight"][:3], "fc.bias": before["fc.bias"][:3]}, after) == {"fc"}
    result = json.loads((run / "result.json").read_text())
    assert (result["best_epoch"], result["failures"]) == (PROBE_EPOCH, {})
    (row,) = read_csv(run / "metrics.csv")
    assert float(row["val/balanced_accuracy"]) == pytest.approx(float(str(checkpoint(run, "best")["score"])), rel=1e-5)
    assert (run / "pipeline.onnx").exists()
    with pytest.raises(UserError, match="finished"):
        train_here([f"resume={run}"])


def test_a_run_does_not_end_below_its_linear_probe(
    words: list[str], train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    # Steps so large that nothing is left of what the probe knew.
    words = [*words[:-1], "callbacks=[checkpoint,ema,onnx_export]", "transfer=lp_ft", "transfer.interpolation=1"]
    run = train_here([*words, "optimizer=sgd", "optimizer.lr=1000", "trainer.gradient_clip_val=1e-3"])
    assert checkpoint(run, "best")["epoch"] == PROBE_EPOCH
    probed = network(run)
    assert not torch.equal(probed["fc.weight"], network(run, "last")["fc.weight"])
    assert "weights kept: those of the linear probe (the mean has" in caplog.text
    assert json.loads((run / "result.json").read_text())["best_epoch"] == PROBE_EPOCH
    page = (run / "report.html").read_text()
    assert "Fine-tuning made it worse" in page
    assert "optimizer.lr=100" in page


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_mean_of_the_weights_before_and_after_fine_tuning_is_kept(
    words: list[str], train_here: Train, share: float
) -> None:
    words = [*words, "transfer=lp_ft", f"transfer.interpolation={share}", "optimizer.lr=1e-4", "trainer.max_epochs=2"]
    run = train_here([*words, "callbacks=[checkpoint,onnx_export]"])
    before, best, last = network(run, "probe"), checkpoint(run, "best"), network(run, "last")
    assert best["interpolation"] == {"share": share, "step": checkpoint(run, "last")["global_step"]}
    assert best["epoch"] == 1
    for name, value in ((name, value) for name, value in network(run).items() if value.is_floating_point()):
        torch.testing.assert_close(value, before[name] + share * (last[name] - before[name]), msg=name)
    assert changed(load_file(run / "model.safetensors"), network(run)) == set()
    info = json.loads((run / "model_info.json").read_text())["training_info"]
    assert (info["epoch"], info["share"]) == (1, share)
    # What came after the mean is done again; the mean is not taken twice.
    kept = (run / "checkpoints/best.ckpt").read_bytes()
    (run / "result.json").unlink()
    train_here([f"resume={run}"])
    assert (run / "checkpoints/best.ckpt").read_bytes() == kept
    # Killed after the last epoch, before the mean was taken.
    AtomicCheckpointIO().save_checkpoint(checkpoint(run, "probe"), run / "checkpoints/best.ckpt")
    (run / "result.json").unlink()
    train_here([f"resume={run}"])
    again = checkpoint(run, "best")
    assert (again["interpolation"], again["epoch"], again["score"]) == (best["interpolation"], 1, best["score"])
    assert exact(again["state_dict"]) == exact(best["state_dict"])
    train_here([f"resume={run}", "trainer.max_epochs=3"])
    assert checkpoint(run, "best")["interpolation"] == {"share": share, "step": checkpoint(run, "last")["global_step"]}


def test_where_there_is_no_time_for_a_step_the_linear_probe_is_the_result(
    words: list[str], train_here: Train, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(resolve, "CALIBRATION_SHARE", 0)
    monkeypatch.setattr(resolve, "MIN_CALIBRATED", 5)
    run = train_here([*words, "callbacks=[checkpoint,onnx_export,progress]", "transfer=lp_ft", "time=1s"])
    said = "the linear probe is all that there is time for, and the command takes longer than that (time=1 s: "
    assert said in caplog.text
    assert checkpoint(run, "best")["epoch"] == PROBE_EPOCH
    assert json.loads((run / "result.json").read_text())["failures"] == {}
    decided = json.loads((run / "decisions.json").read_text())
    assert (decided["parts"], decided["num_probe_images"], decided["num_calibrated"]) == ([], 18, 5)


def test_a_linear_probe_alone_times_no_step(
    words: list[str], train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "MIN_PIXELS", 0)
    monkeypatch.setattr(speed, "seconds_of", lambda *_, **__: pytest.fail("a step was timed"))
    run = train_here([*words, "transfer=linear_probe", "trainer.max_epochs=10000"])
    assert json.loads((run / "decisions.json").read_text())["is_compiled"] is None


@pytest.mark.parametrize(("time", "tried"), [([], True), (["time=10m"], False), (["trainer.max_time=10m"], False)])
def test_compilation_is_tried_after_the_linear_probe_where_the_time_allows_it(
    words: list[str],
    time: list[str],
    tried: bool,
    train_here: Train,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    known: list[bool] = []

    def compiling_pays(*_: object) -> bool:
        known.append("linear probe: val/" in caplog.text)
        return False

    monkeypatch.setattr(speed, "probe_device", lambda make, device, **_: (device, 1e6))
    monkeypatch.setattr(speed, "missing_compiler", lambda _: None)
    monkeypatch.setattr(speed, "compiling_pays", compiling_pays)
    run = train_here([*words, "transfer=lp_ft", "trainer.max_epochs=1", *time])
    assert known == ([True] if tried else [])
    assert json.loads((run / "decisions.json").read_text())["is_compiled"] is False


def test_batch_norms_and_the_first_third_of_the_stages_stay_as_they_are(
    words: list[str], tiny_weights: Path, train_here: Train
) -> None:
    run = train_here([*words, "transfer=lp_ft", "optimizer.lr=0.01"])
    before, after = load_file(tiny_weights), network(run, "last")
    assert {name for name in after if "running" in name and not torch.equal(after[name], before[name])} == set()
    moved = changed({**before, "fc.weight": before["fc.weight"][:3], "fc.bias": before["fc.bias"][:3]}, after)
    assert moved == {"layer2", "layer3", "layer4", "fc"}


def test_progressive_unfreezing_goes_on_as_if_it_had_not_stopped(
    words: list[str], tiny_weights: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = [*words, "transfer=progressive_unfreezing", "scheduler=constant", "optimizer.layer_decay=0.7"]
    whole = train_here([*words, "trainer.max_epochs=3"])
    said = [record.getMessage() for record in caplog.records if "stages are frozen" in record.getMessage()]
    assert said == [
        "epoch 1: 5 of 6 stages are frozen; fc is trained",
        "epoch 2: 4 of 6 stages are frozen; the stages from layer4 to fc are trained",
        "epoch 3: 3 of 6 stages are frozen; the stages from layer3 to fc are trained",
    ]
    cut = train_here([*words, "trainer.max_epochs=2"])
    before = load_file(tiny_weights)
    after = network(cut, "last")
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith(BELOW))
    assert not torch.equal(after["layer4.0.conv1.weight"], before["layer4.0.conv1.weight"])
    train_here([f"resume={cut}", "trainer.max_epochs=3"])
    first, second = checkpoint(whole, "last"), checkpoint(cut, "last")
    recorded = [state["callbacks"]["EpochRecorder"] for state in (first, second)]  # type: ignore[index]
    for found in recorded:
        del found["train_seconds"]
    rows = [found.pop("rows") for found in recorded]
    assert timeless(rows[0]) == timeless(rows[1])
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "callbacks"):
        assert exact(first[part]) == exact(second[part]), part


def test_the_probe_gives_the_head_its_start_once(
    words: list[str], split_folder: Path, tiny_weights: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = [*words, "transfer=lp_ft", "scheduler=constant", "imbalance=sampler"]
    run = train_here([*words, "optimizer.lr=1e-12", "optimizer.weight_decay=0"])
    said = next(record.getMessage() for record in caplog.records if "linear probe" in record.getMessage())
    assert "linear probe: val/balanced_accuracy" in said
    assert "fitted to the features of 18 images" in said
    # At a learning rate of almost 0 the head is still the probe's, fitted to the network as it came.
    head = {name: value for name, value in network(run, "last").items() if name.startswith("fc.")}
    probed = timm.create_model("test_resnet", num_classes=3)
    probed.load_state_dict({**load_file(tiny_weights), **head})
    fit = Preprocessing.from_dict(checkpoint(run, "best")["preprocessing"])  # type: ignore[arg-type]
    pictures = sorted(split_folder.glob("val/*/*.png"))
    pixels = np.stack([fit.normalize(fit.pixels(Image.open(path))[None])[0] for path in pictures])
    answers = probed.eval()(torch.from_numpy(pixels)).argmax(1).tolist()
    assert answers == [["blue", "green", "red"].index(path.parent.name) for path in pictures]
    caplog.clear()
    train_here([f"resume={run}", "trainer.max_epochs=2"])
    assert "linear probe: val/" not in caplog.text


@pytest.mark.nightly
def test_a_head_that_is_trained_again_is_what_all_files_hold(
    words: list[str], train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = [*words[:-1], "callbacks=[checkpoint,ema,onnx_export]", "retrain_head=true", "optimizer.lr=1e-12"]
    # Without the linear probe, whose head is as good.
    run = train_here([*words, "monitor=val/loss", "transfer=full"])
    said = next(record.getMessage() for record in caplog.records if "head re-trained" in record.getMessage())
    assert said.endswith("the new head is kept")
    best, last, exported = network(run), network(run, "last"), load_file(run / "model.safetensors")
    assert changed(last, best) == {"fc"}
    assert changed(exported, best) == set()
    info = json.loads((run / "model_info.json").read_text())
    score = checkpoint(run, "best")["score"]
    assert info["training_info"]["best_metric"] == {"name": "val/loss", "value": score}
    row = checkpoint(run, "last")["callbacks"]["EpochRecorder"]["rows"][0]  # type: ignore[index]
    assert score < row["val/loss"]


@pytest.mark.nightly
def test_a_head_that_would_score_lower_is_not_kept(
    words: list[str], train_here: Train, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    # So strong a penalty leaves nothing of the weights.
    monkeypatch.setattr("classifier_training.training.linear_head.PENALTIES", (1e9,))
    run = train_here([*words, "transfer=lp_ft", "retrain_head=true", "trainer.max_epochs=8", "optimizer.lr=0.003"])
    assert "the old head is kept" in caplog.text
    assert network(run)["fc.weight"].abs().max() > 1e-6


@pytest.mark.nightly
def test_gradient_checkpointing_gives_the_same_run(words: list[str], train_here: Train) -> None:
    plain, saving = (train_here([*words, f"trainer.gradient_checkpointing={word}"]) for word in ("false", "true"))
    assert exact(checkpoint(plain, "last")["state_dict"]) == exact(checkpoint(saving, "last")["state_dict"])


def test_random_weights_and_networks_without_a_plain_head_are_refused_before_there_is_a_run(
    words: list[str], train_here: Train, tmp_path: Path
) -> None:
    fresh = [word for word in words if not word.startswith("model.weights")]
    with pytest.raises(UserError, match="transfer=lp_ft: test_resnet starts from random weights"):
        train_here([*fresh, "transfer=lp_ft"])
    with pytest.raises(UserError, match="retrain_head=true: the logits of this network come from head, head_dist"):
        train_here([*fresh, "retrain_head=true", "model.name=efficientformerv2_s0"])
    assert not (tmp_path / "outputs").exists()
