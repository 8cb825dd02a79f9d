"""How long the list of a data set of 200,000 files takes: a first start, and the ones after it.

python scripts/bench/index.py --files 200000 --folders 1000
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READ = """
import sys, time
from classifier_training.data.formats.image_folder import AutoData
from classifier_training.data.formats.image_folder import ImageFolder
form = {"auto": AutoData, "image_folder": ImageFolder}[sys.argv[2]]
started = time.perf_counter()
index = form(root=sys.argv[1]).read()
print(time.perf_counter() - started, len(index.samples))
"""


def make(root: Path, *, files: int, folders: int) -> None:
    """Files of one byte in classes of folders, as frames of videos lie."""
    for number in range(files):
        folder = number % folders
        path = root / f"class_{folder % 20:02d}" / f"video_{folder:04d}" / f"frame_{number:06d}.jpg"
        if number < folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def read(root: Path, form: str, files: int) -> float:
    """Seconds that a new process takes to list the files."""
    done = subprocess.run([sys.executable, "-c", READ, root, form], capture_output=True, text=True, check=True)
    seconds, found = done.stdout.split()
    assert int(found) == files, done.stdout
    return float(seconds)


def main() -> None:
    """Make the files, list them a few times and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        make(Path(place), files=arguments.files, folders=arguments.folders)
        print(f"made {arguments.files:,} files in {time.perf_counter() - started:.1f} s")
        for form in ("image_folder", "auto"):
            first = read(Path(place), form, arguments.files)
            later = [read(Path(place), form, arguments.files) for _ in range(arguments.repeats)]
            print(f"{form:<13} first {first:.2f} s, then {statistics.median(later):.2f} s "
                  f"(min {min(later):.2f}, max {max(later):.2f}, n {len(later)})")  # fmt: skip


if __name__ == "__main__":
    main()
