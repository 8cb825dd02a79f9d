from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.runs import make_run

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.run_dir import sha256
from classifier_training.registry.runs import find_run
from classifier_training.service.records import VERDICT, Compared, RolloutWriter, Served
from classifier_training.workflows.registering.rollout import NO_VERDICT, rollback, verdict
from classifier_training.workflows.registering.sub_verbs import promote_run

CAT, DOG = Served("cat", 0.9, seconds=0.01), Served("dog", 0.8, seconds=0.01)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for number, score in enumerate((0.7, 0.8, 0.9), start=1):
        run = make_run(tmp_path / "outputs", f"2026-01-02/1{number}-00-00", score=score)
        (run / "model.onnx").write_bytes(b"x" * number)
    return tmp_path / "outputs"


def test_an_alias_goes_back_run_by_run_and_not_to_one_that_was_left(outputs: Path) -> None:
    for version in (1, 2, 3):
        promote_run(run=f"resnet18:v{version}", alias="production")
    assert str(rollback(alias="production")) == "resnet18:v2 is production again, instead of resnet18:v3"
    assert find_run("production").path.name == "12-00-00"
    recorded = json.loads((outputs / "2026-01-02/12-00-00/registry.json").read_text())["promotions"][-1]
    assert (recorded["number"], recorded["rolled_back"], recorded["instead_of"]) == (4, True, "resnet18:v3")
    rollback(alias="production")
    assert find_run("production").path.name == "11-00-00"
    with pytest.raises(CheckFailedError, match=r"resnet18:v1 is the first run that is production"):
        rollback(alias="production")
    # A run that was left may be promoted again; what is before it is what it was promoted over.
    promote_run(run="resnet18:v3", alias="production")
    rollback(alias="production")
    assert find_run("production").path.name == "11-00-00"


def test_deleted_runs_are_passed_over_and_other_aliases_are_not_touched(outputs: Path) -> None:
    promote_run(run="resnet18:v3", alias="staging")
    for version in (1, 2, 3):
        promote_run(run=f"resnet18:v{version}", alias="production")
    shutil.rmtree(outputs / "2026-01-02/12-00-00")
    assert rollback(alias="production").record.version == 1
    assert find_run("staging").path.name == "13-00-00"


def test_a_name_says_whose_alias_it_is(outputs: Path) -> None:
    for at in ("14", "15"):
        make_run(outputs, f"2026-01-02/{at}-00-00", score=0.9, name="pets")
        promote_run(run=f"pets:v{int(at) - 13}", alias="production")
    promote_run(run="resnet18:v1", alias="production")
    with pytest.raises(UserError, match="2 names have a run of that alias"):
        rollback(alias="production")
    assert rollback(alias="pets:production").record.version == 1
    assert find_run("resnet18:production").path.name == "11-00-00"
    for word in ("nothing", "latest", "resnet18:v1"):
        with pytest.raises(UserError):
            rollback(alias=word)


def record(folder: Path, outputs: Path, *, present: int, new: int, better: bool = True, labels: int = 100) -> None:
    digests = [sha256(outputs / f"2026-01-02/1{number}-00-00" / "model.onnx") for number in (present, new)]
    compared = Compared("shadow", 1.0, f"resnet18:v{present}", digests[0], f"resnet18:v{new}", digests[1])
    writer = RolloutWriter(folder, compared)
    for number in range(100):
        writer.answered(f"r{number}", "production", CAT, DOG)
    for number in range(labels):
        writer.told(f"r{number}", "dog" if better else "cat")
    writer.close()


def test_only_a_verdict_to_promote_this_run_instead_of_the_holder_promotes_it(outputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    promote_run(run="resnet18:v1", alias="production")
    record(folder, outputs, present=1, new=2)
    with pytest.raises(UserError, match="there is no verdict yet"):
        promote_run(run="resnet18:v2", alias="production", rollout=str(folder))
    found = verdict(folder=str(folder))
    assert found.exit_code == 0
    assert "promote: the new run is better: 100 images gained, 0 lost of 100 labelled images" in str(found)
    assert f"registry promote run=resnet18:v2 alias=production rollout={folder}" in str(found)
    with pytest.raises(UserError, match=r"the verdict is on resnet18:v2, and not on .*13-00-00"):
        promote_run(run="resnet18:v3", alias="production", rollout=str(folder))
    promoted = promote_run(run="resnet18:v2", alias="production", rollout=str(folder))
    assert "  passed  roll-out: promote: the new run is better" in str(promoted)
    recorded = json.loads((outputs / "2026-01-02/12-00-00/registry.json").read_text())["promotions"][-1]
    assert recorded["checks"]["rollout"]["passed"]


def test_a_verdict_against_another_run_than_the_holder_does_not_count(outputs: Path, tmp_path: Path) -> None:
    promote_run(run="resnet18:v2", alias="production")
    record(tmp_path / "records", outputs, present=1, new=3)
    assert verdict(folder=str(tmp_path / "records")).exit_code == 0
    with pytest.raises(CheckFailedError, match="compared with another run than the present holder, resnet18:v2"):
        promote_run(run="resnet18:v3", alias="production", rollout=str(tmp_path / "records"))
    with pytest.raises(CheckFailedError, match="the present holder, no run"):
        promote_run(run="resnet18:v3", alias="staging", rollout=str(tmp_path / "records"))


@pytest.mark.parametrize(("better", "labels", "code"), [(False, 100, 1), (True, 99, NO_VERDICT)])
def test_the_exit_code_says_what_to_do_and_the_gate_stays_shut(
    outputs: Path, tmp_path: Path, better: bool, labels: int, code: int
) -> None:
    promote_run(run="resnet18:v1", alias="production")
    record(tmp_path / "records", outputs, present=1, new=2, better=better, labels=labels)
    found = verdict(folder=str(tmp_path / "records"), run="resnet18:v2")
    assert found.exit_code == code
    assert json.loads((tmp_path / "records" / VERDICT).read_text())["verdict"]["state"] == found.verdict.state
    with pytest.raises(CheckFailedError, match="roll-out: "):
        promote_run(run="resnet18:v2", alias="production", rollout=str(tmp_path / "records"))
    with pytest.raises(UserError, match=r"of this run, but of resnet18:v2"):
        verdict(folder=str(tmp_path / "records"), run="resnet18:v3")
    (tmp_path / "records" / VERDICT).write_text("{}")
    with pytest.raises(UserError, match="registry verdict"):
        promote_run(run="resnet18:v2", alias="production", rollout=str(tmp_path / "records"))
