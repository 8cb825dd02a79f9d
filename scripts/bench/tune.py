"""Epochs that `tune` trains against those that it would without pruning.

python scripts/bench/tune.py --trials 20 --pruner median
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = (
    "model=cnn_v1", "data=digits", "data.image_size=16", "trainer.accelerator=cpu", "trainer.compile=false",
    "callbacks.early_stopping=null",
)  # fmt: skip


def main() -> None:
    """Search once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pruner", choices=["median", "hyperband", "none"], default="median")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            [
                sys.executable, "-m", "classifier_training", "tune", *SETTINGS, f"trainer.max_epochs={given.epochs}",
                f"trials={given.trials}", f"pruner={given.pruner}", f"seed={given.seed}", "name=bench",
            ],
            cwd=folder, env=os.environ, check=True, capture_output=True,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        found = json.loads((Path(folder) / "outputs/tuning/bench/tuning.json").read_text())
    whole = given.trials * given.epochs
    trained = found["epochs"]["trained"]
    print(
        f"{given.trials} trials of {given.epochs} epochs, {given.pruner}, seed {given.seed}: {found['trials']}; "
        f"{trained} epochs of {whole} ({1 - trained / whole:.0%} saved), best {found['best']['values'][0]:.4f}, "
        f"{seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
