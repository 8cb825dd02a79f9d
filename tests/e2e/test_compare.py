"""`compare`: jobs in processes of their own, one table, and what is missing named."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_class_folders, read_csv
from tests.server import Ended

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry
from classifier_training.core.run_dir import write_csv, write_json, write_text
from classifier_training.data.corrections import LabelCorrection, append_corrections
from classifier_training.workflows.many_runs.candidates import plan

pytestmark = pytest.mark.usefixtures("quick_runs")

TINY = ("data.image_size=16", "data.batch_size=8", "trainer.max_epochs=1", "trainer.accelerator=cpu")


def compare(*words: str) -> Any:
    verb = entry("verb", "compare")
    return verb.run(compose(verb, words))


def write_run(folder: Path, *, model: str, seed: int, num_right: int, lr: float = 0.1, fold: int | None = None) -> Path:
    """Write what a finished run leaves, of 40 test images."""
    folds = {} if fold is None else {"fold": fold, "num_folds": 2}
    values = {"data": {"type": "auto", "root": "/my/images", **folds}, "model": {"type": model}, "seed": seed}
    write_text(folder / "config.yaml", json.dumps({**values, "optimizer": {"type": "sgd", "lr": lr}, "output": "x"}))
    score = num_right / 40
    write_json(
        folder / "result.json",
        {"split": "test", "metrics": {"balanced_accuracy": score, "acc_top1": score, "macro_f1": score}},
    )
    write_csv(folder / "metrics.csv", ("epoch", "epoch_seconds", "peak_memory_mb"), [(0, 1.5, 300), (1, 1.0, 310)])
    answers = []
    for number in range(40):
        true = "ab"[number % 2]
        predicted = true if number < num_right else "ba"[number % 2]
        answers.append((f"/{number}.png", true, predicted, *(0.9 if name == predicted else 0.1 for name in "ab")))
    write_csv(folder / "evaluation/predictions.csv", ("path", "true", "predicted", "prob_a", "prob_b"), answers)
    return folder


@pytest.mark.usefixtures("drawn")
def test_one_command_trains_ranks_names_the_failed_and_goes_on(
    command: Callable[..., Ended], split_folder: Path, tmp_path: Path
) -> None:
    broken = make_class_folders(tmp_path / "broken", {"red": 12})
    words = ["compare", "models=[cnn_v1]", f"data=[{split_folder},{broken}]", "jobs=2", *TINY]
    done = command(*words)
    assert done.code == 3, done.err
    folder = tmp_path / "outputs/comparison"
    found = json.loads((folder / "leaderboard.json").read_text())
    ((name, reason),) = found["failures"].items()
    assert name.startswith("cnn_v1-broken-seed0-")
    assert reason.startswith("exit code 2: ")
    assert "class" in reason
    assert f"{name}: {reason}" in done.out
    assert "images: cnn_v1 is the best, with a balanced accuracy of" in done.out
    (row,) = found["standings"]
    assert row["latency_ms"] > 0
    assert row["size_mb"] > 1
    assert row["memory_mb"] > 100
    assert found["best"] == {"images": row["run"]}
    with (folder / "leaderboard.csv").open(newline="") as file:
        assert [line["model"] for line in csv.DictReader(file)] == ["cnn_v1"]
    searched = command("compare", "models=[cnn_v1]", f"data={broken}", "tune=true", "output=searched", *TINY)
    assert searched.code == 2
    assert "its tuning failed: exit code 2: " in searched.err

    page = (folder / "leaderboard.html").read_text()
    assert page.count("data:image/png") == 3
    assert "broken" in page

    # What is finished is not run again; what is not is tried anew.
    (folder / "leaderboard.json").write_text("{")
    again = command(*words, "cleanup=true")
    assert again.code == 3
    assert "2 runs, 1 of them finished before" in again.err
    assert json.loads((folder / "leaderboard.json").read_text())["best"] == found["best"]

    # The clean-up leaves a run that all but `resume` can use, and that says so.
    run = Path(found["best"]["images"])
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "manifest.json"}
    result = (run / "result.json").read_bytes()
    refused = command("train", f"resume={run}", "trainer.max_epochs=2")
    assert refused.code == 2
    assert f"init_from={run}" in refused.err
    assert (run / "result.json").read_bytes() == result
    for used in (["evaluate"], ["predict", f"source={split_folder}/test/red"], ["export"]):
        assert command(*used, f"run={run}").code == 0


def test_runs_of_others_are_ranked_and_damaged_ones_are_named(tmp_path: Path) -> None:
    root = tmp_path / "sweep"
    for seed in (0, 1):
        write_run(root / f"2026-01-01/00-00-0{seed}", model="good", seed=seed, num_right=38 - seed)
        write_run(root / f"2026-01-01/00-01-0{seed}", model="poor", seed=seed, num_right=20)
    write_run(root / "2026-01-02/00-00-00", model="good", seed=0, num_right=30, lr=0.2)
    half = write_run(root / "2026-01-02/00-00-01", model="half", seed=0, num_right=30)
    (half / "metrics.csv").unlink()
    deaf = write_run(root / "2026-01-02/00-00-02", model="deaf", seed=0, num_right=30)
    shutil.rmtree(deaf / "evaluation")
    result = compare(f"output={root}", "report_only=true")
    assert result.exit_code == 3
    assert result.failures == {
        str(half): f"{half}: the run folder is damaged (metrics.csv is missing)",
        str(deaf): f"{deaf}: the run folder is damaged (predictions.csv is missing)",
    }
    (board,) = result.boards
    assert [item.candidate.model for item in board.standings] == [
        "good optimizer.lr=0.1", "good optimizer.lr=0.2", "poor",
    ]  # fmt: skip
    row = board.standings[0].to_dict()
    assert (row["balanced_accuracy"], row["train_seconds"], row["memory_mb"]) == (0.9375, 2.5, 310)
    assert board.standings[2].verdict == "worse"
    assert "good optimizer.lr=0.1" in str(result)
    assert "±" in str(result)


def test_earlier_comparisons_and_logs_of_searches_are_cleaned_up(tmp_path: Path) -> None:
    root = tmp_path / "all"
    (planned,) = plan(["svm"], ["digits"], [0], [], tuned=False)
    present = write_run(root / "jobs" / planned.name / "2026-01-01/00-00-00", model="svm", seed=0, num_right=38)
    earlier = [
        write_run(root / f"jobs/svm-{day}/2026-01-0{day}/00-00-00", model="svm", seed=0, num_right=30, lr=day)
        for day in (2, 3, 4)
    ]
    other = write_run(root / "jobs/svm-seed1/2026-01-01/00-00-00", model="svm", seed=1, num_right=30)
    write_json(earlier[0] / "registry.json", {"title": "", "scope": "", "version": 1, "promotions": [{"alias": "a"}]})
    for name in ("journal.log", "job.log", "trials.csv"):
        write_text(root / "tuning/tuned_svm" / name, "x")
    result = compare(f"output={root}", "models=svm", "data=digits", "report_only=true", "cleanup=true", "keep=1")
    assert result.best == {"images": present}
    assert [run.exists() for run in earlier] == [True, False, True], "a promoted one stays, and the newest"
    assert not (root / "jobs/svm-3").exists()
    assert present.exists()
    assert other.exists()
    assert [path.name for path in (root / "tuning/tuned_svm").iterdir()] == ["trials.csv"]


def test_the_table_ends_with_the_model_for_each_purpose(tmp_path: Path) -> None:
    root = tmp_path / "sweep"
    for model, right in (("good", 38), ("poor", 20)):
        write_run(root / f"2026-01-01/00-00-{right}", model=model, seed=0, num_right=right)
    result = compare(f"output={root}", "report_only=true")
    chosen = json.loads((root / "leaderboard.json").read_text())["choices"]["images"]
    assert chosen[0]["purpose"] == "highest accuracy"
    assert (chosen[0]["model"], chosen[0]["balanced_accuracy"]) == ("good", 0.95)
    assert chosen[-1]["purpose"] == "shortest training at that accuracy"
    assert "which for what:" in str(result)
    assert "which model for what" in (root / "leaderboard.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models=[cnn_v3]", "data=digits"], "models: there is no model 'cnn_v3'"),
        (["models=[timm]", "data=digits"], "models: 'timm' lacks the name of a network of the hub"),
        (["models=[cnn_v1:x]", "data=digits"], "has a name after the colon, but is no hub"),
        (["models=[cnn_v1]", "data=[/no/where]"], "data: '/no/where' is no folder, file or built-in data set"),
        (["models=[cnn_v1]", "data=digits", "model.dropuot=1"], r"model\.dropuot=1: there is no such setting"),
        (["models=[cnn_v1]", "data=digits", "seed=1"], "seed=1: no setting that all runs of compare share"),
        (["models=[cnn_v1]", "tune_trials=3"], "tune_trials=3 has no effect without tune=true"),
        (["models=[cnn_v1]", "keep=3"], "keep=3 has no effect without cleanup=true"),
        (["models=[]", "data=digits"], "nothing to compare"),
        (["report_only=true"], "nothing is finished below"),
        (["report_only=true", "optimizer.lr=1"], r"optimizer\.lr=1 has no effect: nothing is trained"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(*words)
    assert not list(Path.cwd().glob("outputs/comparison/jobs/*"))


def test_the_parent_needs_no_torch(tmp_path: Path) -> None:

    root = tmp_path / "sweep"
    write_run(root / "2026-01-01/00-00-00", model="good", seed=0, num_right=38)
    code = (
        "import sys, pathlib\nfrom classifier_training import cli\n"
        f"assert cli.run(['compare', 'output={root}', 'report_only=true']) == 0\n"
        "assert 'torch' not in sys.modules\n"
        # Not ru_maxrss, which a process takes over from the one that started it.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print('KiB', status.partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 400 * 1024


@pytest.mark.parametrize("together", [True, False])
def test_folds_of_one_candidate_are_one_row_with_mean_and_spread(
    command: Callable[..., Ended], tmp_path: Path, *, together: bool
) -> None:
    output, where = tmp_path / "out", "a/folds/{}" if together else "day/{}"
    for fold, num_right in enumerate((30, 34)):
        write_run(output / where.format(fold), model="m", seed=0, num_right=num_right, fold=fold)
    if together:
        write_run(output / "a", model="m", seed=0, num_right=36)
    write_run(output / "b", model="n", seed=0, num_right=20)
    done = command("compare", "report_only=true", f"output={output}")
    assert done.code == 0, done.err
    rows = json.loads((output / "leaderboard.json").read_text())["standings"]
    assert [row["model"] for row in rows] == ["m", "n"]
    assert rows[0]["balanced_accuracy"] == pytest.approx(32 / 40)
    assert rows[0]["balanced_accuracy_deviation"] == pytest.approx(0.1 / 2**0.5)
    assert "over 2 folds" in done.out


def test_pairs_of_runs_say_what_corrections_bought(
    command: Callable[..., Ended], unsplit_folder: Path, tmp_path: Path
) -> None:
    words = ["compare", str(unsplit_folder), "models=[cnn_v1]", "seeds=[0,1]", "jobs=2", *TINY]
    lines = [
        LabelCorrection(path=f"blue/{number:02d}.png", old="blue", new="red", action="relabel") for number in (1, 2)
    ]
    dropped = [LabelCorrection(path=f"green/{number:02d}.png", old="green", action="drop") for number in range(5)]
    append_corrections(unsplit_folder / "corrections.csv", [*lines, *dropped])
    done = command(*words, "data.test_fraction=0.4", "data.corrections=[null,auto]")
    assert done.code == 0, done.err
    (pair,) = json.loads((tmp_path / "outputs/comparison/corrections_effect.json").read_text())["pairs"]
    assert (pair["corrections"], pair["num_corrections"], set(pair["runs"])) == ("auto", 7, {"0", "1"})
    assert "2 pairs of runs, intervals over seeds and images:" in done.out
    gains = []
    for seed, runs in pair["runs"].items():
        before, after = (Path(runs[name]) for name in ("before", "after"))
        files = [{row["path"]: row for row in read_csv(run / "evaluation/predictions.csv")} for run in (before, after)]
        effect = json.loads((after / "evaluation/corrections_effect.json").read_text())
        left = files[0].keys() - files[1].keys()
        assert all("/green/" in path for path in left)
        assert effect["left_out"]["dropped"] == len(left)
        assert effect["num_images"] == len(files[1])
        balanced = effect["original_labels"]["balanced_accuracy"]
        gains.append(balanced["after"] - balanced["before"])
        assert pair["original_labels"]["by_seed"][seed] == pytest.approx(gains[-1])
        page = (after / "report.html").read_text()
        assert page.count("<h2>Corrections</h2>") == 1
        assert f"Against {before.absolute()}:" in page
        assert "<h2>Corrections</h2>" not in (before / "report.html").read_text()
    interval = pair["original_labels"]["balanced_accuracy"]["difference"]
    assert interval["value"] == pytest.approx(sum(gains) / 2)
    assert interval["low"] <= min(gains)
    assert interval["high"] >= max(gains)
