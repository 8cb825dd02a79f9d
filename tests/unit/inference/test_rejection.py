"""Calibrated bundles: fitted, read back, and what predict makes of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.bundles import write_bundle
from tests.conftest import COLOURS, draw_picture
from tests.unit.export.test_export import PREPROCESSING
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.core.images import read_rgb
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import BuiltModel, InputSpec, SplitTable, softmax
from classifier_training.evaluation.label_sets import TrueScores
from classifier_training.evaluation.reject import AcceptanceCurve
from classifier_training.export.bundle import BundleInfo, read_info, write_info
from classifier_training.export.calibrate import calibrate
from classifier_training.export.examples import read_examples
from classifier_training.export.novelty import FEATURES_NAME, FeatureSubspace
from classifier_training.export.pipeline import write_pipeline
from classifier_training.export.session import open_session
from classifier_training.inference.predictor import Predictor
from classifier_training.inference.rejection import LabelSetSettings, RejectSettings

NUM_PICTURES = 120
"""Of each split."""

INFO = BundleInfo(class_names=tuple(sorted(COLOURS)), preprocessing=PREPROCESSING, architecture="test")


class MeanColour(nn.Module):
    """Tells the noisy one-coloured images of these tests apart, far too surely for its mistakes."""

    def __init__(self, *, linear: bool) -> None:
        super().__init__()
        colours = torch.tensor([COLOURS[name] for name in INFO.class_names]) / 127.5 - 1
        self.spread = nn.Conv2d(3, 5, 1, bias=False)
        self.linear = nn.Linear(5, 3) if linear else None
        with torch.no_grad():
            self.spread.weight.zero_()
            self.spread.weight[:3, :, 0, 0] = colours * 8
            self.spread.weight[3:, :, 0, 0] = torch.tensor([[1.0, -1, 0.5], [0.3, 1, -1]])
            if self.linear is not None:
                self.linear.weight.copy_(torch.eye(3, 5))
                self.linear.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.spread(images).mean((2, 3))
        logits: torch.Tensor = features[:, :3] if self.linear is None else self.linear(features)
        return logits


def make_tables(folder: Path) -> dict[str, SplitTable]:
    """Images of three colours, of which every fifth has a wrong label."""
    tables = {}
    for split in ("train", "val"):
        paths, targets = [], []
        for number in range(NUM_PICTURES):
            path = folder / split / f"{number}.png"
            label = number % 3
            draw_picture(path, COLOURS[INFO.class_names[label]], seed=hash_of(split, number), size=(20, 20))
            paths.append(str(path))
            targets.append((label + (number % 5 == 0)) % 3)
        tables[split] = SplitTable(split, paths, np.array(targets), [""] * NUM_PICTURES)
    return tables


def hash_of(split: str, number: int) -> int:
    return number + (1000 if split == "val" else 0)


def write(folder: Path, *, linear: bool = True, bake: bool = True) -> RunDir:
    run_dir, tables = RunDir(folder / "run"), make_tables(folder)
    model = BuiltModel(MeanColour(linear=linear), InputSpec(48, (0.5,) * 3, (0.25,) * 3), "test")
    examples = read_examples(tables["val"], PREPROCESSING, number=9)
    write_bundle(run_dir, model, INFO, examples=examples, opset=None, tables=tables, bake_temperature=bake)
    return run_dir


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return write(tmp_path_factory.mktemp("calibrated"))


def pictures(folder: Path) -> list[str]:
    return [str(path) for path in sorted((folder / "val").glob("*.png"))]


def test_a_bundle_says_its_temperature_and_predict_applies_it(calibrated: RunDir, tmp_path: Path) -> None:
    fitted = read_info(calibrated).calibration
    assert fitted is not None
    assert fitted.temperature > 2, "one mistake in five makes the answers much too sure"
    assert fitted.choice.reason == ""
    written = json.loads(calibrated.model_info.read_text())["calibration"]
    assert written["split"] == "val"
    assert written["num_images"] == NUM_PICTURES
    assert written["ece_after"] < written["ece_before"]
    assert written["log_loss_before"] - written["log_loss_after"] > written["standard_error"]
    assert written["temperature"] == written["fitted_temperature"] == fitted.temperature
    assert "Guo" in written["method"]
    predictor = Predictor(calibrated.path)
    paths = pictures(calibrated.path.parent)
    logits = np.stack([answer.logits for answer in predictor.raw_outputs(paths)])  # type: ignore[misc]
    expected = softmax(logits / np.float32(fitted.temperature))
    found = list(predictor.predict(paths, probabilities=True))
    assert [item.confidence for item in found] == pytest.approx(expected.max(axis=1).tolist(), abs=1e-6)
    assert [INFO.class_names.index(item.label or "") for item in found] == logits.argmax(axis=1).tolist()
    # A lone file knows it as well, and its foreign images; thresholds by class are the folder's.
    lone = Predictor(Path(shutil.copy(calibrated.onnx, tmp_path / "lone.onnx")))
    assert list(lone.predict(paths, probabilities=True, reject=RejectSettings(foreign=True))) == list(
        predictor.predict(paths, probabilities=True, reject=RejectSettings(foreign=True))
    )
    with pytest.raises(
        UserError, match=r"reject\.precision: .*lone\.onnx has no calibration, so it lacks the validation predictions"
    ):
        lone.rule(0.5, RejectSettings(precision=0.9), unknown=False)


@pytest.mark.parametrize("bake", [False, True])
def test_golden_pictures_expect_calibrated_answers_and_the_pipeline_says_what_it_gives(
    tmp_path: Path, *, bake: bool
) -> None:
    run_dir = write(tmp_path, bake=bake)
    fitted = read_info(run_dir).calibration
    assert fitted is not None
    session = open_session(run_dir.pipeline)
    assert [output.name for output in session.get_outputs()] == ["probabilities"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert float(metadata["temperature"]) == (1 if bake else fitted.temperature)
    assert metadata.get("baked_temperature") == (repr(fitted.temperature) if bake else None)
    parity = read_info(run_dir).files["pipeline.onnx"]["parity"]
    assert parity["max_probability_difference"] < 1e-3
    entry = json.loads((run_dir.golden / "golden.json").read_text())["images"][0]
    pixels = np.frombuffer((run_dir.golden / entry["rgb"]).read_bytes(), dtype=np.uint8)
    (shares,) = session.run(None, {"image": pixels.reshape(entry["height"], entry["width"], 3)})
    assert (np.abs(shares - entry["probabilities"]).max() < 1e-3) == bake
    assert Predictor(run_dir.path)(run_dir.golden / entry["image"]).confidence == pytest.approx(
        max(entry["probabilities"]), abs=1e-4
    )


def test_the_score_in_the_graph_is_that_of_the_formula(calibrated: RunDir) -> None:
    tables = make_tables(calibrated.path.parent)
    session = open_session(calibrated.onnx)
    inputs = {name: read_examples(table, PREPROCESSING, number=NUM_PICTURES).inputs for name, table in tables.items()}
    train = session.run([FEATURES_NAME], {"input": inputs["train"]})[0]
    val, novelty = session.run([FEATURES_NAME, "novelty"], {"input": inputs["val"]})
    assert np.abs(FeatureSubspace.fit(train).scores(val) - novelty).max() < 1e-5
    fitted = read_info(calibrated).calibration
    assert fitted is not None
    assert fitted.novelty is not None
    assert fitted.novelty.method == "feature_subspace"
    assert fitted.novelty.false_alarm_rate == pytest.approx((novelty > fitted.novelty.threshold).mean())
    # Calibrated once more, the file is the same.
    before = onnx.load(calibrated.onnx)
    calibrate(calibrated.onnx, INFO.class_names, PREPROCESSING, tables)
    assert [node.name for node in onnx.load(calibrated.onnx).graph.node] == [node.name for node in before.graph.node]


def test_a_network_without_linear_layer_falls_back_to_energy(tmp_path: Path) -> None:
    run_dir = write(tmp_path, linear=False)
    fitted = read_info(run_dir).calibration
    assert fitted is not None
    assert fitted.novelty is not None
    assert fitted.novelty.method == "energy"
    answer = next(Predictor(run_dir.path).raw_outputs(pictures(tmp_path)[:1]))
    assert answer.logits is not None
    assert answer.novelty == pytest.approx(-np.log(np.exp(answer.logits.astype(np.float64)).sum()), rel=1e-5)


def test_foreign_images_are_rejected_only_on_request_and_unknown_replaces_the_label(
    calibrated: RunDir, tmp_path: Path
) -> None:
    draw_picture(tmp_path / "foreign.png", (250, 250, 30), seed=0)
    predictor = Predictor(calibrated.path)
    paths = [str(tmp_path / "foreign.png")]
    (plain,) = predictor.predict(paths, threshold=0)
    assert (plain.rejected, plain.reject_reason) == (False, None)
    (found,) = predictor.predict(paths, threshold=0, reject=RejectSettings(foreign=True), unknown=True)
    assert (found.rejected, found.reject_reason, found.label) == (True, "unlike_training", "unknown")
    assert found.top_k[0][0] == plain.label
    (unsure,) = predictor.predict(pictures(calibrated.path.parent)[:1], threshold=1, unknown=True)
    assert (unsure.reject_reason, unsure.label) == ("low_confidence", "unknown")


def test_thresholds_for_a_wish_come_from_the_bundle_and_wishes_that_clash_are_refused(calibrated: RunDir) -> None:
    predictor = Predictor(calibrated.path)
    paths = pictures(calibrated.path.parent)
    (all_accepted, most) = (
        [item.rejected for item in predictor.predict(paths, reject=RejectSettings(coverage=share))]
        for share in (1.0, 0.5)
    )
    assert not any(all_accepted)
    assert 0 < sum(map(bool, most)) <= NUM_PICTURES // 2
    with pytest.raises(UserError, match=r"reject\.precision=0\.9 and threshold=0\.7"):
        predictor.rule(0.7, RejectSettings(precision=0.9), unknown=False)
    with pytest.raises(UserError, match=r"reject\.precision=0\.9 and reject\.coverage=0\.9"):
        predictor.rule(0.5, RejectSettings(precision=0.9, coverage=0.9), unknown=False)


def curve_of(number: int, wrong: int, *, first_group: int | None = None) -> AcceptanceCurve:
    correct = np.arange(number) < number - wrong
    groups = None if first_group is None else first_group + np.arange(number) // 4
    return AcceptanceCurve.of(np.linspace(0.999, 0.4, number), correct, groups)


def bundle_with(calibrated: RunDir, folder: Path, curves: dict[str, AcceptanceCurve]) -> Predictor:
    """A copy of the run whose validation predictions were these."""
    copy = RunDir(Path(shutil.copytree(calibrated.path, folder)))
    info = read_info(copy)
    assert info.calibration is not None
    write_info(copy, dataclasses.replace(info, calibration=dataclasses.replace(info.calibration, curves=curves)))
    return Predictor(copy.path)


def test_a_precision_is_guaranteed_or_refused_with_the_number_of_images_it_needs(
    calibrated: RunDir, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = INFO.class_names
    enough = bundle_with(calibrated, tmp_path / "enough", {name: curve_of(60, 0) for name in names})
    rule = enough.rule(0.5, RejectSettings(precision=0.95), unknown=False)
    assert rule.class_thresholds == dict.fromkeys(names, 0.0)
    assert "holds with 90% confidence" in rule.words
    caplog.clear()
    mixed = {names[0]: curve_of(80, 40), names[1]: curve_of(60, 0), names[2]: curve_of(20, 0)}
    predictor = bundle_with(calibrated, tmp_path / "mixed", mixed)
    found = predictor.rule(0.5, RejectSettings(precision=0.95), unknown=False).class_thresholds
    assert found is not None
    assert found[names[1]] == 0
    assert found[names[0]] > 1 < found[names[2]]
    assert f"no threshold can be shown for {names[0]}, {names[2]}" in caplog.text.replace(" and ", ", ")
    with pytest.raises(UserError) as caught:
        bundle_with(calibrated, tmp_path / "few", {name: curve_of(14, 0) for name in names}).rule(
            0.5, RejectSettings(precision=0.95), unknown=False
        )
    assert "42 validation predictions cannot show it with a confidence of 90%" in str(caught.value)
    assert "45 at least" in str(caught.value)
    # What it advises works.
    few = Predictor(tmp_path / "few")
    for settings in (
        RejectSettings(precision=0.9),
        RejectSettings(precision=0.95, delta=0.2),
        RejectSettings(precision=0.95, guarantee="none"),
    ):
        few.rule(0.5, settings, unknown=False)
    assert "nothing is guaranteed" in few.rule(0.5, settings, unknown=False).words
    with pytest.raises(UserError, match="no number of them can show a precision of 1"):
        few.rule(0.5, RejectSettings(precision=1), unknown=False)
    grouped = {name: curve_of(80, 0, first_group=100 * place) for place, name in enumerate(names)}
    bundle_with(calibrated, tmp_path / "grouped", grouped).rule(0.5, RejectSettings(precision=0.95), unknown=False)
    one = {names[0]: grouped[names[0]], **{name: curve_of(0, 0, first_group=0) for name in names[1:]}}
    with pytest.raises(UserError, match="20 independent groups of validation images cannot show it"):
        bundle_with(calibrated, tmp_path / "one", one).rule(0.5, RejectSettings(precision=0.95), unknown=False)


@pytest.mark.parametrize(
    ("settings", "came"),
    [
        (RejectSettings(delta=0.2), "reject.delta=0.2 without reject.precision"),
        (RejectSettings(coverage=0.9, guarantee="none"), "reject.guarantee=none without reject.precision"),
        (RejectSettings(precision=0.9, delta=0.2, guarantee="none"), "reject.delta=0.2 has no effect"),
    ],
)
def test_a_guarantee_without_effect_is_refused(calibrated: RunDir, settings: RejectSettings, came: str) -> None:
    with pytest.raises(UserError, match=came):
        Predictor(calibrated.path).rule(0.5, settings, unknown=False)


def test_label_sets_hold_the_top_prediction_and_all_that_reach_the_threshold(
    calibrated: RunDir, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predictor(calibrated.path)
    table = make_tables(calibrated.path.parent)["val"]
    paths, targets = table.paths, table.targets
    fitted = read_info(calibrated).calibration
    assert fitted is not None
    assert fitted.scores is not None
    threshold = fitted.scores.threshold(0.9)
    found = list(predictor.predict(paths, probabilities=True, label_set=LabelSetSettings(coverage=0.9)))
    for item in found:
        assert item.label_set is not None
        assert item.probabilities is not None
        assert item.label_set[0] == item.label
        assert set(item.label_set[1:]) == {
            name for name, value in item.probabilities.items() if value >= threshold and name != item.label
        }
    held = [INFO.class_names[row] in (item.label_set or ()) for row, item in zip(targets, found, strict=True)]
    assert np.mean(held) >= 0.9
    assert max(len(item.label_set or ()) for item in found) > 1
    assert next(predictor.predict(paths[:1])).label_set is None

    by_class = LabelSetSettings(coverage=0.9, by_class=True)
    assert all(item.label_set for item in predictor.predict(paths, label_set=by_class))
    with pytest.raises(UserError, match=r"too few validation images\n.*499 at least"):
        predictor.set_thresholds(LabelSetSettings(coverage=0.998))
    with pytest.raises(UserError, match="no class has enough validation images"):
        predictor.set_thresholds(dataclasses.replace(by_class, coverage=0.98))
    with pytest.raises(UserError, match=r"by_class=true without label_set\.coverage"):
        predictor.set_thresholds(LabelSetSettings(by_class=True))
    old = RunDir(Path(shutil.copytree(calibrated.path, tmp_path / "old")))
    info = json.loads(old.model_info.read_text())
    del info["calibration"]["label_sets"]
    old.model_info.write_text(json.dumps(info))
    with pytest.raises(UserError, match="lacks the validation probabilities that label sets come from"):
        Predictor(old.path).set_thresholds(LabelSetSettings(coverage=0.9))
    targets = np.where(np.arange(len(targets)) < 100, targets % 2, 2)
    rare = dataclasses.replace(fitted, scores=TrueScores(fitted.scores.probabilities[:105], targets[:105]))
    write_info(old, dataclasses.replace(read_info(calibrated), calibration=rare))
    caplog.clear()
    (item, *_) = Predictor(old.path).predict(paths, label_set=by_class)
    assert INFO.class_names[2] in (item.label_set or ())
    assert f"of {INFO.class_names[2]} there are under 9 validation images" in caplog.text


def test_a_bundle_that_was_not_calibrated_works_as_before(run_dir: RunDir, tmp_path: Path) -> None:
    assert read_info(run_dir).calibration is None
    assert "calibration" not in json.loads(run_dir.model_info.read_text())
    predictor = Predictor(run_dir.path)
    for settings in (RejectSettings(coverage=0.9), RejectSettings(foreign=True)):
        with pytest.raises(UserError, match="calibrates an older run"):
            predictor.rule(0.5, settings, unknown=False)


def test_a_class_named_unknown_is_not_mixed_up_with_a_rejected_image(calibrated: RunDir) -> None:
    predictor = Predictor(calibrated.path)
    predictor.class_names = ("blue", "green", "unknown")
    with pytest.raises(UserError, match="a class named 'unknown'"):
        predictor.rule(0.5, RejectSettings(), unknown=True)


@pytest.mark.parametrize(("temperature", "words"), [("0", "damaged"), ("x", "damaged")])
def test_a_damaged_calibration_is_named(calibrated: RunDir, tmp_path: Path, temperature: str, words: str) -> None:
    copy = RunDir(Path(shutil.copytree(calibrated.path, tmp_path / "copy")))
    info = json.loads(copy.model_info.read_text())
    info["calibration"]["temperature"] = temperature
    copy.model_info.write_text(json.dumps(info))
    with pytest.raises(UserError, match=words):
        Predictor(copy.path)
    model = onnx.load(copy.onnx)
    next(item for item in model.metadata_props if item.key == "temperature").value = temperature
    onnx.save(model, tmp_path / "lone.onnx")
    with pytest.raises(UserError, match="metadata"):
        Predictor(tmp_path / "lone.onnx")


def test_a_temperature_that_helps_nothing_is_left_out_and_thresholds_work_without_it(
    calibrated: RunDir, tmp_path: Path
) -> None:
    tables = make_tables(tmp_path)
    few = dataclasses.replace(tables["val"], paths=tables["val"].paths[:60], targets=tables["val"].targets[:60])
    path = Path(shutil.copy(calibrated.onnx, tmp_path / "model.onnx"))
    found = calibrate(path, INFO.class_names, PREPROCESSING, {**tables, "val": few})
    assert found is not None
    assert found.temperature == 1
    assert found.choice.fitted_temperature > 2
    assert str(found) == "not calibrated, temperature 1: 60 predictions are too few, 100 are needed"
    write_info(RunDir(tmp_path), dataclasses.replace(read_info(calibrated), files={}, calibration=found))
    read = read_info(RunDir(tmp_path)).calibration
    assert read is not None
    assert read.choice == found.choice
    predictor = Predictor(path)
    paths = pictures(tmp_path)[:60]
    logits = np.stack([answer.logits for answer in predictor.raw_outputs(paths)])  # type: ignore[misc]
    accepted = list(predictor.predict(paths, probabilities=True, reject=RejectSettings(coverage=0.5)))
    assert [item.confidence for item in accepted] == pytest.approx(softmax(logits).max(axis=1).tolist(), abs=1e-6)
    assert 0 < sum(map(bool, (item.rejected for item in accepted))) <= 30


def test_a_bundle_of_before_temperatures_were_judged_is_read(calibrated: RunDir, tmp_path: Path) -> None:
    copy = RunDir(Path(shutil.copytree(calibrated.path, tmp_path / "copy")))
    info = json.loads(copy.model_info.read_text())
    for name in ("fitted_temperature", "reason", "log_loss_before", "log_loss_after", "standard_error"):
        del info["calibration"][name]
    copy.model_info.write_text(json.dumps(info))
    read = read_info(copy).calibration
    assert read is not None
    assert read.temperature == info["calibration"]["temperature"]
    assert str(read).startswith(f"calibrated on {NUM_PICTURES} validation images, temperature ")
    assert Predictor(copy.path)(pictures(calibrated.path.parent)[0]).error is None


def test_predict_and_the_pipeline_give_the_same_probabilities(calibrated: RunDir) -> None:
    """Where the pixels are the same, as they are of these images, all that differs is rounding."""
    paths = pictures(calibrated.path.parent)
    session = open_session(calibrated.pipeline)
    for prediction in Predictor(calibrated.path).predict(paths, probabilities=True):
        (shares,) = session.run(None, {"image": np.asarray(read_rgb(prediction.path))})
        assert prediction.probabilities is not None
        expected = [prediction.probabilities[name] for name in INFO.class_names]
        assert np.abs(shares - expected).max() < 1e-5


def test_too_few_validation_images_leave_a_bundle_uncalibrated(calibrated: RunDir, tmp_path: Path) -> None:
    tables = make_tables(tmp_path)
    few = dataclasses.replace(tables["val"], paths=tables["val"].paths[:9], targets=tables["val"].targets[:9])
    before = calibrated.onnx.read_bytes()
    assert calibrate(calibrated.onnx, INFO.class_names, PREPROCESSING, {**tables, "val": few}) is None
    assert calibrated.onnx.read_bytes() == before


def test_a_pipeline_carries_nothing_of_the_score(calibrated: RunDir, tmp_path: Path) -> None:
    write_pipeline(calibrated.onnx, PREPROCESSING, tmp_path / "pipeline.onnx")
    graph = onnx.load(tmp_path / "pipeline.onnx").graph
    assert not [item.name for item in (*graph.node, *graph.initializer) if item.name.startswith("novelty/")]
