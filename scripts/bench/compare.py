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
from pathlib import Path

SETTINGS = (
    "models=[cnn_v1]", "data=digits", "data.image_size=16", "trainer.max_epochs=3", "trainer.accelerator=cpu",
    "trainer.compile=false",
)  # fmt: skip
ONE_THREAD = {"CLASSIFIER_TRAINING_CORES": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def measure(*, num_jobs: int, parallel: int, one_thread: bool = False, one_core: bool = False) -> tuple[float, float]:
    """Wall time of a whole comparison in seconds, and the most memory of its own process in MB."""
    environment = {**os.environ, **(ONE_THREAD if one_thread else {})}
    prefix = ["taskset", "--cpu-list", "0"] if one_core else []
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [
                *prefix, sys.executable, "-m", "classifier_training", "compare", *SETTINGS,
                f"seeds=[{','.join(map(str, range(num_jobs)))}]", f"jobs={parallel}",
            ],
            cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        peak_mb = 0.0
        while process.poll() is None:
            peak_mb = max(peak_mb, resident_mb(process.pid))
            time.sleep(0.05)
        if process.returncode:
            sys.exit(f"compare ended with exit code {process.returncode}")
        return time.perf_counter() - started, peak_mb


def resident_mb(pid: int) -> float:
    """Resident memory of a process, 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS:")), 0.0)


def main() -> None:
    """Time each way and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8)
    num_jobs = parser.parse_args().jobs
    both, peak_mb = measure(num_jobs=num_jobs, parallel=2)
    print(f"{num_jobs} jobs, two at a time: {both:.1f} s, {peak_mb:.0f} MB in the process that starts them", flush=True)
    for words, settings in (
        ("one thread, one core", {"one_thread": True, "one_core": True}),
        ("one thread, figures drawn on the other core", {"one_thread": True}),
        ("all cores", {}),
    ):
        seconds, _ = measure(num_jobs=num_jobs, parallel=1, **settings)
        print(f"one at a time, {words}: {seconds:.1f} s, {seconds / both:.2f}x   (n 1)", flush=True)


if __name__ == "__main__":
    main()
