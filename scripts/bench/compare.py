"""Throughput of `compare` with two jobs at a time against one, small jobs at one thread each.

python scripts/bench/compare.py --jobs 8
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

SETTINGS = (
    "models=[cnn_v1]", "data=digits", "data.image_size=16", "trainer.max_epochs=3", "trainer.accelerator=cpu",
    "trainer.compile=false",
)  # fmt: skip
ONE_THREAD = {"CLASSIFIER_TRAINING_CORES": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def seconds(*, num_jobs: int, parallel: int, one_thread: bool) -> float:
    """Wall time of a whole comparison."""
    environment = {**os.environ, **(ONE_THREAD if one_thread else {})}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            [
                sys.executable, "-m", "classifier_training", "compare", *SETTINGS,
                f"seeds=[{','.join(map(str, range(num_jobs)))}]", f"jobs={parallel}",
            ],
            cwd=folder, env=environment, check=True, capture_output=True,
        )  # fmt: skip
        return time.perf_counter() - started


def main() -> None:
    """Time each way and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8)
    num_jobs = parser.parse_args().jobs
    both = seconds(num_jobs=num_jobs, parallel=2, one_thread=False)
    one = seconds(num_jobs=num_jobs, parallel=1, one_thread=True)
    all_cores = seconds(num_jobs=num_jobs, parallel=1, one_thread=False)
    print(f"{num_jobs} jobs, two at a time: {both:.1f} s")
    print(f"one at a time, one thread: {one:.1f} s, {one / both:.2f}x")
    print(f"one at a time, all cores: {all_cores:.1f} s, {all_cores / both:.2f}x   (n 1 each)")


if __name__ == "__main__":
    main()
