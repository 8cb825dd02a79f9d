"""What the list of a data set costs: seconds, bytes of memory a row, and how both grow.

`rows` measures drawn lists, for which no image is needed: to open a run's splits.csv, to number the rows into tables,
to order an epoch, to split them at random or as a file says, and to plan predictions, in a new process. The seconds are
of processor time, which other work on the machine disturbs less. `epochs` trains nothing, but loads small images in
several epochs and follows the resident memory. `files` lists folders of files: a first start, and the ones after it.

    python scripts/bench/index.py rows --rows 20000 200000 2000000
    python scripts/bench/index.py epochs --images 20000 --workers 0 2
    python scripts/bench/index.py files --files 200000 --folders 1000
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

READ = """
import sys, time
from classifier_training.data.formats.image_folder import AutoData
from classifier_training.data.formats.image_folder import ImageFolder
form = {"auto": AutoData, "image_folder": ImageFolder}[sys.argv[2]]
started = time.perf_counter()
index = form(root=sys.argv[1]).read()
print(time.perf_counter() - started, len(index.samples))
"""

ROWS = """
import gc, json, logging, os, sys, time
from pathlib import Path
import numpy as np
from classifier_training.data.index import SampleIndex, tabulate
from classifier_training.data.samplers import EpochSampler
from classifier_training.data.splitting.manifest import read_manifest, write_manifest
from classifier_training.data.splitting.splits import (
    SplitRequest,
    complete_splits,
    give_splits,
    report_overlap,
    restore_splits,
)
from classifier_training.inference.sources import find_source
logging.disable()

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def work(folder, found):
    def timed(name, function):
        started = time.process_time()
        value = function()
        found[name] = time.process_time() - started
        return value
    before = resident()
    index = timed("open", lambda: SampleIndex(folder, read_manifest(folder / "splits.csv")))
    splits = timed("tabulate", lambda: tabulate(index))
    train = splits.tables["train"]
    sampler = EpochSampler(train.targets, seed=0)
    timed("order", lambda: sampler.order(1))
    keys = iter(sampler)
    for _ in range(1000):
        key = next(keys)
    assert train.paths[key.row].startswith(str(folder))
    found["bytes"] = (resident() - before) / len(index.samples)
    del keys
    weighted = EpochSampler(train.targets, 1.0 / splits.counts("train"), seed=0)
    timed("weighted order", lambda: weighted.order(1))
    timed("report", lambda: report_overlap(index))
    timed("restore", lambda: restore_splits(index, index.samples, "raise"))
    timed("give", lambda: give_splits(index, folder / "splits.csv", "raise"))
    timed("write", lambda: write_manifest(folder / "written.csv", index))
    index = index.with_splits([""] * len(index.samples))
    timed("split", lambda: complete_splits(index, SplitRequest(), seed=0))
    timed("folds", lambda: complete_splits(index, SplitRequest(fold=0, num_folds=5), seed=0))
    timed("plan", lambda: sum(1 for _ in find_source(str(folder / "list.txt"))))
    return splits

folder = Path(sys.argv[1])
work(folder / "small", {})
found = {}
work(folder / "rows", found)
print(json.dumps(found))
"""

EPOCHS = """
import gc, json, os, sys
from pathlib import Path
from classifier_training.core.preprocess import Preprocessing
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.data.datamodule import ImageFolderDataModule
from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.index import tabulate

def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

if __name__ == "__main__":
    module = ImageFolderDataModule(
        tabulate(ImageFolder(root=sys.argv[1]).read()),
        preprocessing=Preprocessing(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        augmentation=Transforms(), class_weights=None, batch_size=64, num_workers=int(sys.argv[2]), on_error="raise",
        seed=0,
    )
    loader = module.train_dataloader()
    found = []
    for epoch in range(int(sys.argv[3])):
        module.sampler.set_epoch(epoch)
        images = sum(len(batch.targets) for batch in loader)
        gc.collect()
        workers = [worker.pid for worker in getattr(loader._iterator, "_workers", ())]
        found.append([images, resident("self"), *map(resident, workers)])
    print(json.dumps(found))
"""


def make(root: Path, *, files: int, folders: int) -> None:
    """Files of one byte in classes of folders, as frames of videos lie."""
    for number in range(files):
        path = root / name(number, folders)
        if number < folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def name(number: int, folders: int) -> str:
    """The path of a frame of a video."""
    folder = number % folders
    return f"class_{folder % 20:02d}/video_{folder:04d}/frame_{number:06d}.jpg"


def make_rows(folder: Path, number: int) -> None:
    """A splits.csv as a run writes it, and the same paths as a list to predict."""
    folder.mkdir()
    splits = np.random.default_rng(0).choice(["train", "val", "test"], number, p=[0.7, 0.15, 0.15])
    with (folder / "splits.csv").open("w") as table, (folder / "list.txt").open("w") as listed:
        table.write("path,label,split,group\n")
        for row in range(number):
            path = name(row, 1000)
            table.write(f"{path},{path[:8]},{splits[row]},\n")
            listed.write(f"{path}\n")


def make_images(root: Path, number: int) -> None:
    """Small images of four classes, all for training."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for row in range(number):
        path = root / "train" / f"class_{row % 4}" / f"{row:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def run(program: str, *arguments: object) -> str:
    """The output of a program in a new process."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def read(root: Path, form: str, files: int) -> float:
    """Seconds that a new process takes to list the files."""
    seconds, found = run(READ, root, form).split()
    assert int(found) == files, found
    return float(seconds)


def rows(sizes: list[int], repeats: int) -> None:
    """Print the median of each measure and its growth."""
    found: dict[int, list[dict[str, float]]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as place:
            make_rows(Path(place) / "rows", size)
            make_rows(Path(place) / "small", 2000)
            found[size] = [json.loads(run(ROWS, place)) for _ in range(repeats)]
    print(f"{'seconds':<16}" + "".join(f"{size:>24,}" for size in sizes) + f"{'slope':>8}")
    for measure in found[sizes[0]][0]:
        values = [[once[measure] for once in found[size]] for size in sizes]
        medians = [statistics.median(each) for each in values]
        slope = np.polyfit(np.log(sizes), np.log(medians), 1)[0] if len(sizes) > 1 else float("nan")
        digits = 0 if measure == "bytes" else 4
        cells = [f"{median:.{digits}f} ({min(each):.{digits}f} to {max(each):.{digits}f})"
                 for median, each in zip(medians, values, strict=True)]  # fmt: skip
        print(f"{measure:<16}" + "".join(f"{cell:>24}" for cell in cells) + f"{slope:>8.2f}", flush=True)
    print(f"n {repeats}; bytes: growth of the resident memory a row, for rows, tables and an epoch that has begun")


def epochs(images: int, workers: list[int], number: int) -> None:
    """Print the resident memory after each epoch."""
    with tempfile.TemporaryDirectory() as place:
        make_images(Path(place), images)
        for count in workers:
            found = np.array(json.loads(run(EPOCHS, place, count, number)))
            assert (found[:, 0] == images).all()
            for title, memory in zip(("this process", *(["a worker"] * count)), found[:, 1:].T, strict=True):
                slope = np.polyfit(np.arange(number), memory, 1)[0]
                print(f"{count} workers, {title}: {' '.join(f'{value:.1f}' for value in memory)} MB, "
                      f"{slope:+.2f} MB an epoch of {images:,} images")  # fmt: skip


def files(number: int, folders: int, repeats: int) -> None:
    """Print the seconds of a first start and of the ones after it."""
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        make(Path(place), files=number, folders=folders)
        print(f"made {number:,} files in {time.perf_counter() - started:.1f} s")
        for form in ("image_folder", "auto"):
            first = read(Path(place), form, number)
            later = [read(Path(place), form, number) for _ in range(repeats)]
            print(f"{form:<13} first {first:.2f} s, then {statistics.median(later):.2f} s "
                  f"(min {min(later):.2f}, max {max(later):.2f}, n {len(later)})")  # fmt: skip


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rows", "epochs", "files"))
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000, 2_000_000])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what == "rows":
        rows(arguments.rows, arguments.repeats)
    elif arguments.what == "epochs":
        epochs(arguments.images, arguments.workers, arguments.epochs)
    else:
        files(arguments.files, arguments.folders, arguments.repeats)


if __name__ == "__main__":
    main()
