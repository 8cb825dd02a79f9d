from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.runs import make_run

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.registry.runs import find_model, find_run
from classifier_training.registry.scan import CACHE_NAME
from classifier_training.workflows.registering.registry import show
from classifier_training.workflows.registering.sub_verbs import promote_run


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    make_run(tmp_path / "outputs", "2026-01-02/10-00-00", score=0.8)
    make_run(tmp_path / "outputs", "2026-01-02/11-00-00", score=0.7)
    make_run(tmp_path / "outputs", "2026-01-02/12-00-00", score=0.9)
    return tmp_path / "outputs"


def test_the_better_run_takes_the_alias_and_the_worse_does_not(outputs: Path) -> None:
    first = promote_run(run="resnet18:v1", alias="production")
    assert first.former is None
    assert "resnet18:v1 is production now" in str(first)
    with pytest.raises(CheckFailedError, match=r"0\.7000 against 0\.8000 of resnet18:v1"):
        promote_run(run="resnet18:v2", alias="production")
    assert find_run("production").path.name == "10-00-00"
    assert "instead of resnet18:v1" in str(promote_run(run="best", alias="production"))
    assert find_run("production").path.name == "12-00-00"
    # The aliases are in the run folders alone.
    (outputs / CACHE_NAME).unlink()
    assert find_run("production").path.name == "12-00-00"
    forced = promote_run(run="resnet18:v2", alias="production", force=True)
    assert "FAILED" in str(forced)
    recorded = json.loads((outputs / "2026-01-02/11-00-00/registry.json").read_text())["promotions"][-1]
    assert (recorded["alias"], recorded["number"], recorded["forced"]) == ("production", 3, True)
    assert not recorded["checks"]["metric"]["passed"]
    assert recorded["versions"]["python"]
    assert (outputs / "2026-01-02/11-00-00/model.onnx").read_bytes() == b"x" * 1000


def test_a_bound_takes_the_place_of_the_holder(outputs: Path) -> None:
    promote_run(run="resnet18:v3", alias="staging")
    assert promote_run(run="resnet18:v2", alias="staging", at_least=0.6).record.version == 2
    with pytest.raises(CheckFailedError, match="the given bound"):
        promote_run(run="resnet18:v2", alias="staging", at_least=0.75)
    # Of a loss, less is better.
    with pytest.raises(CheckFailedError, match=r"test/loss 0\.3000 against 0\.2500"):
        promote_run(run="resnet18:v2", alias="staging", metric="loss", at_least=0.25)


def test_what_the_gate_refuses(outputs: Path) -> None:
    promote_run(run="resnet18:v1", alias="production")
    make_run(outputs, "2026-01-03/10-00-00", score=0.99, parity=None)
    with pytest.raises(CheckFailedError, match=r"model\.onnx \(not compared with PyTorch\)"):
        promote_run(run="latest", alias="production")
    make_run(outputs, "2026-01-03/11-00-00", score=0.99, class_names=("cat", "horse"))
    with pytest.raises(CheckFailedError, match="knows other classes"):
        promote_run(run="latest", alias="production")
    make_run(outputs, "2026-01-03/12-00-00", score=0.99, split="val")
    with pytest.raises(CheckFailedError, match="cannot be compared with"):
        promote_run(run="latest", alias="production")
    with pytest.raises(CheckFailedError, match="has no f2"):
        promote_run(run="resnet18:v1", alias="staging", metric="f2", at_least=0.1)
    unfinished = make_run(outputs, "2026-01-03/13-00-00", finished=False)
    with pytest.raises(CheckFailedError, match="exported nothing"):
        promote_run(run=str(unfinished), alias="production", force=True)


def test_a_run_without_the_file_that_was_not_verified_is_promoted(outputs: Path) -> None:
    run = make_run(outputs, "2026-01-03/10-00-00", score=0.99)
    info = json.loads((run / "model_info.json").read_text())
    info["files"]["model.mlpackage"] = {"parity": None, "unverified": "Core ML runs on macOS alone"}
    (run / "model_info.json").write_text(json.dumps(info))
    (run / "model.mlpackage").mkdir()
    with pytest.raises(CheckFailedError, match=r"model\.mlpackage \(Core ML") as found:
        promote_run(run="latest", alias="production")
    assert found.value.remedy.startswith("the run without the files that are not verified")
    (run / "model.mlpackage").rmdir()
    promote_run(run="latest", alias="production")


def test_an_alias_that_runs_of_two_names_have_is_not_clear_and_said(
    outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("rooms", "dogs"):
        make_run(outputs, f"{name}/2026-01-05/10-00-00", name=name)
        promote_run(run=name, alias="staging")
    assert "run=staging alone is not clear any more: it is one of dogs:staging, rooms:staging" in caplog.text


def test_a_missed_target_of_the_users_own_refuses_a_promotion_and_the_default_one_is_said(outputs: Path) -> None:
    verdict = {"status": "not ready", "words": "1 of 2 classes does not reach 90 %: dog 3.0 %"}
    make_run(outputs, "2026-01-03/10-00-00", score=0.99, verdict={**verdict, "is_default_target": True})
    promoted = str(promote_run(run="latest", alias="staging"))
    assert f"  note    verdict on the default target, which stops nothing: not ready: {verdict['words']}" in promoted
    make_run(outputs, "2026-01-03/11-00-00", score=0.99, verdict={**verdict, "is_default_target": False})
    with pytest.raises(CheckFailedError, match=r"the targets that were set: not ready: 1 of 2 .* dog 3\.0 %"):
        promote_run(run="latest", alias="staging")
    forced = str(promote_run(run="latest", alias="staging", force=True))
    assert "  FAILED  verdict on the targets that were set: not ready" in forced
    ready = {"status": "ready", "words": "all 2 classes reach 90 %", "is_default_target": False}
    newest = make_run(outputs, "2026-01-03/12-00-00", score=0.99, verdict=ready)
    assert "  passed  verdict on the targets that were set: ready" in str(promote_run(run="latest", alias="staging"))
    assert str(show(run="latest")).count("ready: all 2 classes reach 90 %") == 1
    # A newer evaluation of the same images has the newer verdict.
    report = newest / "evaluation/classification_report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "verdict": {**ready, **verdict}}))
    with pytest.raises(CheckFailedError, match="not ready"):
        promote_run(run=str(newest), alias="production")


@pytest.mark.parametrize("alias", ["latest", "best", "v3", "7", "a:b", "", "a b"])
def test_a_word_that_means_something_else_is_no_alias(outputs: Path, alias: str) -> None:
    with pytest.raises(UserError, match="cannot be an alias"):
        promote_run(run="latest", alias=alias)


def test_a_run_elsewhere_is_not_promoted(outputs: Path, tmp_path: Path) -> None:
    elsewhere = make_run(tmp_path / "elsewhere", "2026-01-02/10-00-00")
    with pytest.raises(UserError, match="is not below"):
        promote_run(run=str(elsewhere), alias="production")
    with pytest.raises(UserError, match="a folder of 3 runs, and no run itself"):
        promote_run(run=str(outputs / "2026-01-02"), alias="production")


def test_names_versions_and_aliases_stand_for_runs(outputs: Path, tmp_path: Path) -> None:
    make_run(outputs, "2026-01-05/10-00-00", name="pets", score=0.5)
    make_run(outputs, "2026-01-05/11-00-00", name="pets", score=0.4)
    assert find_run("resnet18:v2").path.name == "11-00-00"
    assert find_run("pets").path.name == "11-00-00"
    assert find_run("pets:best").path.name == "10-00-00"
    assert find_model("pets:v1").parent.parent.name == "pets"
    promote_run(run="pets:v1", alias="production")
    assert find_run("production").path.parent.parent.name == "pets"
    promote_run(run="resnet18:v1", alias="production")
    with pytest.raises(UserError, match="2 names have a run of that alias") as caught:
        find_run("production")
    assert "pets:production" in caught.value.expected
    assert find_run("pets:production").path.name == "10-00-00"
    with pytest.raises(UserError, match="pets has no v7") as caught:
        find_run("pets:v7")
    assert "pets:v1, pets:v2" in caught.value.expected
    with pytest.raises(UserError, match="no run of that name") as caught:
        find_run("prodction")
    assert caught.value.remedy == "run=production"
    # A folder that is there is meant before a name.
    (tmp_path / "pets").mkdir()
    assert find_run("pets").path == Path("pets")


def test_a_damaged_holder_is_named_not_passed_over(outputs: Path) -> None:
    promote_run(run="resnet18:v1", alias="production")
    promote_run(run="resnet18:v3", alias="production")
    (outputs / "2026-01-02/12-00-00/model.onnx").unlink()
    with pytest.raises(UserError, match=r"damaged: model\.onnx missing"):
        find_run("production")
    shutil.rmtree(outputs / "2026-01-02/12-00-00")
    assert find_run("production").path.name == "10-00-00"
