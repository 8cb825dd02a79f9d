"""What a launcher adds to jobs: many that only print the version, by a launcher and by launcher=local.

python scripts/bench/launchers.py --jobs 64 ray launcher.cores=1
python scripts/bench/launchers.py --jobs 64 slurm
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import chosen_launcher
from classifier_training.core.register import VERB, entry
from classifier_training.workflows.many_runs.jobs import run_jobs
from classifier_training.workflows.many_runs.launch.base import JobSpec
from classifier_training.workflows.many_runs.launch.local import LOCAL


def main() -> None:
    """Time both and print the difference for each job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("launcher")
    parser.add_argument("words", nargs="*", help="its settings")
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=2)
    options = parser.parse_args()
    launcher = chosen_launcher(entry(VERB, "train"), [f"launcher={options.launcher}", *options.words])
    seconds = {
        name: timed(one, num_jobs=options.jobs, num_parallel=options.parallel)
        for name, one in (("local", LOCAL), (options.launcher, launcher))
    }
    for name, value in seconds.items():
        print(f"{name}: {value:.1f} s for {options.jobs} jobs, {options.parallel} at a time")
    added = (seconds[options.launcher] - seconds["local"]) / options.jobs
    print(f"added for each job: {added:.2f} s")


def timed(launcher: Any, *, num_jobs: int, num_parallel: int) -> float:
    """Return the seconds that jobs take, those to start and connect included."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        jobs = [
            JobSpec(name=f"job-{number}", folder=Path(folder) / str(number), words=("--version",))
            for number in range(num_jobs)
        ]
        started = time.monotonic()
        outcomes = run_jobs(jobs, num_parallel=num_parallel, remedy="again", launcher=launcher)
        seconds = time.monotonic() - started
        assert all(outcome is not None and outcome.exit_code == 0 for outcome in outcomes.values()), outcomes
    return seconds


if __name__ == "__main__":
    main()
