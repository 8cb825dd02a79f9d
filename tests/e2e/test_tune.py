"""`tune`: trials in this process, what they leave, and what cannot be searched."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import read_csv

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose, compose_values
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry

pytest.importorskip("optuna")

pytestmark = pytest.mark.usefixtures("quick_runs")

TINY = (
    "model=cnn_v1", "data.image_size=16", "data.batch_size=8", "trainer.max_epochs=2", "trainer.accelerator=cpu",
    "recipe=none", "trainer.compile=false",
)  # fmt: skip


def tune(*words: str) -> Any:
    verb = entry("verb", "tune")
    return verb.run(compose(verb, words))


def own_space(text: str, model: str = "cnn_v1") -> None:
    path = Path("conf/search/mine.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"models: [{model}]\nspace: {{{text}}}\n")


@pytest.mark.nightly
@pytest.mark.usefixtures("drawn")
def test_a_search_goes_on_survives_failures_and_leaves_an_experiment(
    split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    own_space("optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}, model.residual: {choices: [false, true]}")
    words = [*TINY, f"data.root={split_folder}", "name=mine"]
    first = tune(*words, "trials=2")
    assert first.summary.num_trials == {"complete": 2}
    folder = Path("outputs/tuning/mine")
    # The first trial is the run as it would be without a search.
    assert float(read_csv(folder / "trials.csv")[0]["optimizer.lr"]) == 1e-3
    assert read_csv(folder / "trials.csv")[0]["model.residual"] == "False"
    assert not list(folder.glob("trial-*"))

    study = tune(*words, "trials=3")
    assert study.summary.num_epochs <= study.summary.num_epochs_whole == 6
    assert [row["number"] for row in read_csv(folder / "trials.csv")] == ["0", "1", "2"]
    assert {path.name for path in folder.glob("*.png")} == {"history.png", "parallel_coordinates.png"}
    assert json.loads((folder / "tuning.json").read_text())["best"]["parameters"] == study.summary.best.params
    assert "train experiment=mine" in str(study)

    run = train_here(["experiment=mine", f"data.root={split_folder}", *TINY[1:], "callbacks=[checkpoint]"])
    config = (run / "config.yaml").read_text()
    assert "type: cnn_v1" in config
    assert f"lr: {study.summary.best.params['optimizer.lr']}" in config


def test_a_model_that_is_fitted_at_once_is_searched(split_folder: Path) -> None:
    words = ["model=random_forest", f"data.root={split_folder}", "data.image_size=16", "model.hog_orientations=8"]
    own_space("model.num_trees: {low: 5, high: 10}", "random_forest")
    found = tune(*words, "search=mine", "trials=2", "name=forest")
    assert found.summary.num_trials == {"complete": 2}
    best = found.summary.best.params
    assert "model.num_trees" in best
    # The next run of this model on these data has what was found.
    values = compose_values(entry("verb", "train"), ["model=random_forest", f"data.root={split_folder}"])
    assert values["model"]["num_trees"] == best["model.num_trees"]


def test_another_study_and_a_damaged_journal_are_named() -> None:
    from classifier_training.workflows.many_runs.tuning_study import Plan, open_study

    def opened(high: float, epochs: str = "2") -> Any:
        identity = {"space": {"lr": {"low": 0.1, "high": high}}, "settings": {"trainer.max_epochs": epochs}}
        plan = Plan(name="mine", directions=["maximize"], identity=identity, max_epochs=2, pruner="median")
        return open_study(plan, "journal.log")

    opened(0.5).ask()
    with pytest.raises(
        UserError, match=r"the study mine is another one: space: lr was .*high: 0\.5.* and is .*high: 0\.6"
    ):
        opened(0.6)
    with pytest.raises(UserError, match=r"settings: trainer\.max_epochs was 2 and is 3"):
        opened(0.5, "3")
    journal = Path("journal.log")
    whole = journal.read_bytes()
    # A process that is killed as it writes leaves half a line.
    journal.write_bytes(whole + b'{"op_code": 5, "worker')
    assert len(opened(0.5).trials) == 1
    assert journal.read_bytes().startswith(whole + b'{"op_code":0')
    journal.write_bytes(b"no journal\n" + whole)
    with pytest.raises(UserError, match=r"journal\.log: no study can be read there"):
        opened(0.5)


def test_a_journal_holds_no_secret() -> None:
    from classifier_training.workflows.many_runs.tuning_study import Plan, open_study

    settings = {"model.pwd": "TOPSECRET", "init_from": "https://me:TOPSECRET@host/run"}
    plan = Plan(name="mine", directions=["maximize"], identity={"settings": settings}, max_epochs=2, pruner="median")
    for _ in range(2):
        open_study(plan, "journal.log")
    assert "https://***@host/run" in Path("journal.log").read_text()
    assert "TOPSECRET" not in Path("journal.log").read_text()


def test_a_trial_that_is_ended_early_leaves_nothing(split_folder: Path, tmp_path: Path) -> None:
    from classifier_training.workflows.many_runs.tuning_trials import run_trial

    told: list[int] = []

    def report(epoch: int, score: float) -> bool:
        told.append(epoch)
        return True

    folder = tmp_path / "trial"
    words = [*TINY, f"data.root={split_folder}", "trainer.max_epochs=3"]
    result = run_trial(words, {"optimizer.lr": 1e-3}, folder, report=report, times=False)
    assert (result.score, result.num_epochs, told) == (None, 1, [0])
    assert not folder.exists()


def test_trials_of_a_killed_process_are_lost_and_no_others() -> None:
    import optuna

    from classifier_training.workflows.many_runs.tuning_study import (
        LOST,
        OWNER,
        Plan,
        close_lost_trials,
        counted,
        open_study,
        owner,
    )

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    plan = Plan(name="a", directions=["maximize"], identity={}, max_epochs=3, pruner="median")
    study = open_study(plan, "journal.log")
    for name in (f"{platform.node()}:{gone.pid}", owner(), f"elsewhere:{os.getpid()}"):
        study.ask().set_user_attr(OWNER, name)
    assert close_lost_trials(study) == [0]
    assert study.trials[0].state == optuna.trial.TrialState.FAIL
    assert study.trials[0].user_attrs[LOST]
    assert [trial.number for trial in counted(study)] == [1, 2]


def test_two_sharers_of_a_database_see_the_same_study() -> None:
    from classifier_training.workflows.many_runs.tuning_study import OWNER, Plan, counted, open_study

    plan = Plan(name="a", directions=["maximize", "minimize"], identity={"space": {}}, max_epochs=3, pruner="none")
    one, other = (open_study(plan, "sqlite:///study.db") for _ in range(2))
    one.ask().set_user_attr(OWNER, "x:1")
    assert [trial.number for trial in counted(other)] == [0]
    with pytest.raises(UserError, match=r"storage=sqlite:///no/where\.db: no study can be read"):
        open_study(plan, "sqlite:///no/where.db")


def test_what_cannot_be_searched_is_refused_before_anything_runs(split_folder: Path) -> None:
    words = [*TINY, f"data.root={split_folder}"]
    with pytest.raises(UserError, match="pruner=median has no effect with latency=true"):
        tune(*words, "latency=true", "pruner=median")
    own_space("model.droput: {low: 0.0, high: 0.1}")
    with pytest.raises(UserError, match=r"search=mine: model\.droput=0\.0: there is no such setting"):
        tune(*words)
    own_space("model.dropout: {low: 0.0, high: 0.1}")
    with pytest.raises(UserError, match="all settings of the search space mine are typed"):
        tune(*words, "model.dropout=0.1")
    with pytest.raises(UserError, match="resume=latest: no setting that all runs of tune share"):
        tune(*words, "resume=latest")


def test_a_search_in_which_everything_fails_ends(split_folder: Path) -> None:
    (split_folder / "train" / "red" / "broken.png").write_bytes(b"no image")
    own_space("model.dropout: {low: 0.0, high: 0.1}")
    with pytest.raises(UserError, match=r"all of the first 3 trials failed, the last with: .*broken\.png"):
        tune(*TINY, f"data.root={split_folder}", "callbacks=[checkpoint]")
