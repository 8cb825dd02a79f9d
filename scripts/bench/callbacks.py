"""What all callbacks together cost an epoch: the same run with them and without, in turn.

python scripts/bench/callbacks.py                          # short epochs, of about 4 s on two cores
python scripts/bench/callbacks.py --image-size 288 --epochs 2 --repeats 2    # epochs of over a minute
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from peers_contestants import write_digits

PROGRAM = str(Path(sys.executable).with_name("classifier-training"))
NEEDED = "callbacks=[checkpoint,progress]"
"""The checkpoint is what keeps the weights; the progress line is what is timed."""


def epoch_seconds(data: Path, *, image_size: int, epochs: int, callbacks: list[str]) -> list[float]:
    """Seconds from one epoch's line in train.log to the next, so with all that happens between two epochs."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"data.root={data}", f"data.image_size={image_size}", f"trainer.max_epochs={epochs + 1}"]
        settings += ["model=resnet18", "model.pretrained=false"]
        settings += ["transforms=none", "callbacks.early_stopping=null"] if not callbacks else ["transforms=none"]
        subprocess.run([PROGRAM, "train", *settings, *callbacks], cwd=folder, check=True, capture_output=True)
        (log,) = Path(folder).glob("outputs/*/*/train.log")
        lines = [line for line in log.read_text().splitlines() if ": epoch " in line]
        times = [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in lines]  # noqa: DTZ007 - differences
        (metrics,) = Path(folder).glob("outputs/*/*/metrics.csv")
        with metrics.open() as file:
            assert len(list(csv.reader(file))) == epochs + 2
    return [(after - before).total_seconds() for before, after in itertools.pairwise(times)]


def main() -> None:
    """Measure in turn and print the difference an epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with_all: list[float] = []
    without: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_digits(data, options.image_size)
        for _ in range(options.repeats):
            for seconds, callbacks in ((without, [NEEDED]), (with_all, [])):
                found = epoch_seconds(data, image_size=options.image_size, epochs=options.epochs, callbacks=callbacks)
                seconds += found
                print(
                    f"{'without' if callbacks else 'with all':<9} " + " ".join(f"{one:.2f}" for one in found),
                    flush=True,
                )
    base, full = statistics.median(without), statistics.median(with_all)
    spans = f"{min(without):.2f} to {max(without):.2f}, {min(with_all):.2f} to {max(with_all):.2f}"
    print(
        f"an epoch: {base:.2f} s without, {full:.2f} s with all callbacks (medians, n {len(without)} each; {spans}): "
        f"{full - base:+.2f} s, {100 * (full / base - 1):+.1f} %"
    )


if __name__ == "__main__":
    main()
