"""How soon `classifier-training --help` answers, against importing what training needs.

python scripts/bench/startup.py --repeats 10
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("classifier-training"))
COMMANDS = {
    "help": [PROGRAM, "--help"],
    "train help": [PROGRAM, "train", "--help"],
    "wrong setting": [PROGRAM, "train", "data.root=/nowhere", "optimizer.lr=fast"],
    "imports": [sys.executable, "-c", "import torch, pytorch_lightning, timm"],
}


def main() -> None:
    """Time each command in turn and print its share of the imports' time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(repeats + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            if repeat:  # the first round warms the file cache
                seconds[name].append(time.perf_counter() - started)
    for name, measured in seconds.items():
        ratios = [one / other for one, other in zip(measured, seconds["imports"], strict=True)]
        print(
            f"{name:<14} {statistics.median(measured):6.2f} s, of the imports' time {statistics.median(ratios):.3f} "
            f"(min {min(ratios):.3f}, max {max(ratios):.3f}, n {repeats})"
        )


if __name__ == "__main__":
    main()
