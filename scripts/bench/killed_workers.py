"""What a search loses when its workers are killed: SIGKILL at random times, and a new worker for each.

    python scripts/bench/killed_workers.py /my/images storage=postgresql+psycopg://USER@HOST/NAME --kills 20

Workers of one study are killed one after another while they train. Printed are the trials at the end by state, those
that were tried again, and the finished epochs that were trained again. It fails if one is lost or left running.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna


def main() -> None:
    """Kill workers, and count what is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("storage")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lost-after", type=int, default=10, help="seconds")
    parser.add_argument("--every", type=float, default=20.0, help="longest time between two kills, in seconds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("killed_workers"))
    parser.add_argument("words", nargs="*", help="further settings of train")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = f"killed-{int(time.time())}"
    options.output.mkdir(parents=True, exist_ok=True)
    words = [
        "tune", options.data, options.storage, f"name={name}", f"trials={options.trials}", "sampler=random",
        "pruner=none", f"trainer.max_epochs={options.epochs}", f"lost_after={options.lost_after}s",
        f"output={options.output}", *options.words,
    ]  # fmt: skip
    chance = random.Random(0)  # noqa: S311 - no secret
    workers: list[subprocess.Popen[bytes]] = []
    logs: list[Path] = []
    kills = 0

    def start() -> None:
        logs.append(options.output / f"{name}-{len(logs)}.log")
        with logs[-1].open("wb") as log:
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "classifier_training", *words], stdout=log, stderr=subprocess.STDOUT
                )
            )

    start()
    while not (options.output / name).exists():
        time.sleep(0.5)
    seen: dict[Path, str] = {}
    done = [0]
    while kills < options.kills and not any(worker.poll() == 0 for worker in workers):
        while sum(worker.poll() is None for worker in workers) < options.workers:
            start()
        until = time.monotonic() + chance.uniform(1.0, options.every)
        while time.monotonic() < until:
            look(options.output / name, seen, done)
            time.sleep(0.1)
        training = [
            worker
            for worker, log in zip(workers, logs, strict=True)
            if worker.poll() is None and "trial " in log.read_text()
        ]
        if training:
            victim = chance.choice(training)
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            kills += 1
            print(f"kill {kills}", flush=True)
    if not any(worker.poll() in (None, 0) for worker in workers):
        start()
    while any(worker.poll() is None for worker in workers):
        look(options.output / name, seen, done)
        time.sleep(0.1)
    codes = [worker.wait() for worker in workers]
    study = optuna.load_study(study_name=name, storage=options.storage.removeprefix("storage="))
    states = [trial.state.name for trial in study.trials]
    original = {trial.system_attrs.get("failed_trial", trial.number) for trial in study.trials}
    complete = {
        trial.system_attrs.get("failed_trial", trial.number) for trial in study.trials if trial.state.name == "COMPLETE"
    }
    again = [trial for trial in study.trials if "failed_trial" in trial.system_attrs]
    print(f"kills: {kills}; exit codes of the others: {sorted(code for code in codes if code != -signal.SIGKILL)}")
    print(f"states: { {state: states.count(state) for state in sorted(set(states))} }")
    print(f"trials: {len(original)}, complete: {len(complete)} of {options.trials}, tried again: {len(again)}")
    print(f"resumed from a checkpoint: {done.count(0) + sum(one > 0 for one in done) - 1}")
    print(f"finished epochs that were trained again, at most after one kill: {max(done)}")
    assert "RUNNING" not in states
    assert len(complete) == options.trials


def look(folder: Path, seen: dict[Path, str], again: list[int]) -> None:
    """Find runs that were resumed since the last look, and add how many finished epochs of each are trained again."""
    for path in folder.glob("trial-*/*/*/train.log"):
        try:
            text = path.read_text()
        except OSError:
            continue
        resumes = re.findall(r"resume: training continues after step (\d+)", text)
        if len(resumes) > len(re.findall("resume: training continues after step", seen.get(path, ""))):
            (steps, *_) = re.findall(r"training: (?:up to )?\d+ epochs? of (\d+) steps", text) or ["1"]
            recorded = seen.get(path.with_suffix(".rows"), "")
            again.append(max(0, len(recorded.splitlines()) - 1 - int(resumes[-1]) // int(steps)))
        seen[path] = text
        with contextlib.suppress(OSError):
            seen[path.with_suffix(".rows")] = path.with_name("metrics.csv").read_text()


if __name__ == "__main__":
    main()
