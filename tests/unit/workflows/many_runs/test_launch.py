"""Launchers: what they are asked on the command line, what a job does when it is started again, and imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import chosen_launcher, compose, without_launcher
from classifier_training.conf.multirun import combinations
from classifier_training.core.errors import UserError
from classifier_training.core.register import VERB, entries, entry
from classifier_training.workflows.many_runs.launch.base import JobSpec, refuse_secrets
from classifier_training.workflows.many_runs.launch.local import LOCAL
from classifier_training.workflows.many_runs.launch.ray import Ray

VERBS = ("train", "compare", "distill")


def test_each_verb_takes_every_launcher_with_its_settings() -> None:
    needed = {"distill": ["teacher=x"]}
    for verb in VERBS:
        words = ["launcher=ray", "launcher.cores=3", "launcher.time=2h", *needed.get(verb, [])]
        launcher = compose(entry(VERB, verb), words)["launcher"]
        assert isinstance(launcher, Ray), verb
        assert (launcher.cores, launcher.time and launcher.time.total_seconds()) == (3, 7200.0)
        assert compose(entry(VERB, verb), needed.get(verb, []))["launcher"] == LOCAL
        assert chosen_launcher(entry(VERB, verb), ["launcher=local"]) is None
    assert "local" in {item.name for item in entries("launcher")}


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_launcher_or_setting_is_answered(verb: str) -> None:
    with pytest.raises(UserError, match=r"launcher=rya.*no launcher of that name") as found:
        compose(entry(VERB, verb), ["launcher=rya"])
    assert found.value.remedy == "launcher=ray"
    with pytest.raises(UserError, match=r"launcher\.core=3: there is no such setting") as found:
        compose(entry(VERB, verb), ["launcher=ray", "launcher.core=3"])
    assert found.value.remedy == "launcher.cores=3"


def test_a_file_of_the_user_is_a_launcher() -> None:
    path = Path("conf/launcher/ours.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("defaults: [ray]\ncores: 8\naddress: head:6379\n")
    for verb in VERBS:
        words = ["launcher=ours", "launcher.gpus=2", *(["teacher=x"] if verb == "distill" else [])]
        found = compose(entry(VERB, verb), words)["launcher"]
        assert found == Ray(cores=8, gpus=2, address="head:6379")


def test_words_without_the_launcher_and_combinations() -> None:
    words = ["launcher=ray", "launcher.cores=2", "model=cnn_v1,svm", "seed=0,1"]
    assert without_launcher(words) == ["model=cnn_v1,svm", "seed=0,1"]
    found = combinations(entry(VERB, "train"), words)
    assert [sorted(one) for one in found] == [
        [f"model={model}", f"seed={seed}"] for model in ("cnn_v1", "svm") for seed in (0, 1)
    ]


def test_a_job_that_is_started_again_goes_on_or_does_nothing(tmp_path: Path) -> None:
    job = JobSpec(name="a", folder=tmp_path, words=("train", "seed=1"))
    assert job.words_to_run() == ["train", "seed=1"]
    run = tmp_path / "2026-01-01" / "00-00-00"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("")
    assert job.words_to_run() == ["train", "seed=1"]
    (run / "checkpoints" / "last.ckpt").write_bytes(b"x")
    assert job.words_to_run() == ["train", f"resume={run}"]
    (run / "result.json").write_text("{}")
    assert job.words_to_run() is None


def test_a_cross_validation_is_one_run_whatever_its_folds_are(tmp_path: Path) -> None:
    job = JobSpec(name="a", folder=tmp_path, words=("train", "data.num_folds=2"))
    run = tmp_path / "2026-01-01" / "00-00-00"
    for fold in ("0", "1"):
        (run / "folds" / fold / "checkpoints").mkdir(parents=True)
        (run / "folds" / fold / "config.yaml").write_text("")
        (run / "folds" / fold / "checkpoints/last.ckpt").write_bytes(b"x")
    (run / "config.yaml").write_text("")
    (run / "folds/0/result.json").write_text("{}")
    assert job.words_to_run() == ["train", f"resume={run}"]
    (run / "result.json").write_text("{}")
    assert job.words_to_run() is None


def test_no_secret_is_written_for_another_machine(tmp_path: Path) -> None:
    words = ("train", "storage=postgresql+psycopg://me:TOPSECRET@host/db")
    with pytest.raises(UserError, match=r"://\*\*\*@host/db: a secret, which launcher=ray would write") as found:
        refuse_secrets([JobSpec(name="a", folder=tmp_path, words=words)], launcher="ray")
    assert "TOPSECRET" not in str(found.value)


def test_a_call_from_python_says_that_it_stays_here() -> None:
    import classifier_training as ct

    with pytest.raises(UserError, match="launcher=ray: a function call runs in its own process"):
        ct.train(settings={"launcher": "ray"})


def test_a_launcher_that_is_not_chosen_is_not_imported() -> None:
    code = (
        "import sys; from classifier_training import cli; from classifier_training.conf.compose import compose;"
        "from classifier_training.core.register import entry; compose(entry('verb', 'compare'), []);"
        "compose(entry('verb', 'train'), []); print(sorted({'ray', 'submitit', 'torch', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout
