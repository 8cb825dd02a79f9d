"""`predict` on one image against importing what training needs, and on many against decoding and the model alone.

The second figure is throughput over 1 / (1 / decode rate + 1 / model rate), each alone on the same cores: 1 means that
nothing is lost between the two. The third is the same in processor time, which other work on the machine disturbs less.
The model is an untrained resnet18 at 224 px, the images noisy JPEGs of 500 x 375.

    python scripts/bench/predict.py --repeats 10 --images 2000

With `--earlier` and the program of another checkout, both label the same small PNGs (28 to 64 px; an untrained student
at 32 px) in turn, and the ratios of their speeds are printed, in time and in processor time; then the memory that this
one needs for a sixth, half and all of the images.

    python scripts/bench/predict.py --earlier /other/.venv/bin/classifier-training --repeats 3 --images 60000
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from classifier_training.core.runtime import num_cores
from classifier_training.inference.decoding import decode
from classifier_training.inference.predictor import Predictor
from classifier_training.inference.sources import FolderSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifier_training.core.preprocess import Preprocessing

PROGRAM = str(Path(sys.executable).with_name("classifier-training"))
BATCH_SIZE, IMAGE_SIZE = 32, 224

SMALL_SIZE, IMAGES_IN_FOLDER = 32, 1000

MAKE_MODEL = """
import sys
from pathlib import Path
from classifier_training.core.preprocess import Preprocessing
from classifier_training.export.bundle import BundleInfo
from classifier_training.export.formats.onnx import evaluation_copy, export_onnx
from classifier_training.models.own import student
from classifier_training.models.torchvision_models import IMAGENET, ResNet18
path, name, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
info = BundleInfo(
    class_names=tuple(map(str, range(10))),
    preprocessing=Preprocessing(size=(size, size), mean=IMAGENET.mean, std=IMAGENET.std),
    architecture=name,
)
built = ResNet18(pretrained=False)(10) if name == "resnet18" else student(10)
export_onnx(evaluation_copy(built.network), path, image_size=size, opset=None, metadata=info.metadata())
"""


def make_model(path: Path, name: str, size: int) -> None:
    """Export an untrained network."""
    subprocess.run([sys.executable, "-c", MAKE_MODEL, path, name, str(size)], check=True, capture_output=True)


def make_images(folder: Path, number: int) -> None:
    """Write smooth images with some noise, which compress as photographs do."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for row in range(number):
        rough = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(rough.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(smooth + generator.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{row:05d}.jpg", quality=90)


def make_small_images(folder: Path, number: int) -> None:
    """Write small PNGs, a thousand in a folder."""
    generator = np.random.default_rng(0)
    for row in range(number):
        below = folder / f"{row // IMAGES_IN_FOLDER:04d}"
        below.mkdir(parents=True, exist_ok=True)
        height, width = generator.integers(28, 65, 2)
        rough = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        smooth = np.asarray(rough.resize((int(width), int(height)), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(smooth + generator.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(below / f"{row:06d}.png")


class Cost(NamedTuple):
    """What a command took: seconds on the clock and of processor time, and its largest memory in MiB."""

    seconds: float
    cpu_seconds: float
    mebibytes: float


def cost_of(program: str, model: Path, source: Path, output: Path) -> Cost:
    """Label a folder with a program."""
    words = [program, "predict", f"run={model}", f"source={source}", f"output={output}", "quiet=true"]
    started = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{program} ended with {process.returncode}")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def against_earlier(earlier: str, made: Path, number: int, repeats: int) -> None:
    """Label small images with this program and an earlier one in turn, and print the ratios."""
    model, folder = made / "student.onnx", made / "small"
    make_model(model, "student", SMALL_SIZE)
    make_small_images(folder, number)
    programs = {"earlier": earlier, "now": PROGRAM}
    ratios: list[float] = []
    cpu_ratios: list[float] = []
    for repeat in range(repeats):
        order = list(programs) if repeat % 2 == 0 else list(reversed(programs))
        costs = {name: cost_of(programs[name], model, folder, made / f"{name}.csv") for name in order}
        ratios.append(costs["earlier"].seconds / costs["now"].seconds)
        cpu_ratios.append(costs["earlier"].cpu_seconds / costs["now"].cpu_seconds)
        print(
            "; ".join(
                f"{name} {number / cost.seconds:.0f} images/s, {cost.cpu_seconds / number * 1e6:.0f} us of processor "
                f"time an image, {cost.mebibytes:.0f} MiB"
                for name, cost in costs.items()
            ),
            flush=True,
        )
    report("speed over the earlier one", ratios, f"{number} images")
    report("the same in processor time", cpu_ratios, f"{number} images")
    print("the same rows" if filecmp.cmp(made / "earlier.csv", made / "now.csv", shallow=False) else "OTHER ROWS")
    folders = sorted(folder.iterdir())
    for share in (6, 2, 1):
        part = made / f"part{share}"
        for one in folders[: len(folders) // share]:
            shutil.copytree(one, part / one.name, copy_function=os.link)
        cost = cost_of(PROGRAM, model, part, made / "part.csv")
        print(f"memory for {number // share} images: {cost.mebibytes:.1f} MiB", flush=True)


def seconds_of(action: Callable[[], object]) -> tuple[float, float]:
    """Return seconds on the clock and of this process's processor time."""
    started, used = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - started, time.process_time() - used


def decode_all(source: FolderSource, preprocessing: Preprocessing) -> None:
    """Only decode, resize and normalize, with a thread a core."""
    with ThreadPoolExecutor(num_cores()) as pool:
        for _ in pool.map(lambda item: next(decode([item], preprocessing, ahead=1)).error, source):
            pass


def run_all(predictor: Predictor, batch: np.ndarray, number: int) -> None:
    """Only run the model, as often as the images need."""
    for _ in range(number // BATCH_SIZE):
        predictor.run(batch)


def throughput(model: Path, folder: Path, number: int, repeats: int) -> None:
    """Measure decoding, the model and both in turn, and print the ratios."""
    source, predictor = FolderSource(str(folder)), Predictor(model, accelerator="cpu")
    batch = np.zeros((BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    paths = [item.path for item in source]
    measures: dict[str, Callable[[], object]] = {
        "decode": lambda: decode_all(source, predictor.preprocessing),
        "model": lambda: run_all(predictor, batch, number),
        "predict": lambda: sum(1 for _ in predictor.predict(paths, batch_size=BATCH_SIZE)),
    }
    for measure in measures.values():
        measure()
    ratios: list[float] = []
    cpu_ratios: list[float] = []
    for repeat in range(repeats):
        # Whoever comes second may find a warmer or a slower machine, so the order changes.
        order = list(measures) if repeat % 2 == 0 else list(reversed(measures))
        seconds = {name: seconds_of(measures[name]) for name in order}
        for kind, kept in enumerate((ratios, cpu_ratios)):
            kept.append((seconds["decode"][kind] + seconds["model"][kind]) / seconds["predict"][kind])
        rates = ", ".join(f"{name} {number / seconds[name][0]:.0f}" for name in measures)
        print(f"images/s: {rates}; ratio {ratios[-1]:.3f}, in processor time {cpu_ratios[-1]:.3f}", flush=True)
    report("throughput over that of the parts in turn", ratios, f"{number} images")
    report("the same in processor time", cpu_ratios, f"{number} images")


def start_up(model: Path, image: Path, repeats: int) -> None:
    """Time the whole process of one prediction against the imports."""
    predict = [PROGRAM, "predict", f"run={model}", f"source={image}"]
    imports = [sys.executable, "-c", "import torch, pytorch_lightning, timm"]
    ratios, shown = [], []
    for repeat in range(repeats + 1):
        one, other = (
            seconds_of(lambda: subprocess.run(command, capture_output=True, check=True))[0]  # noqa: B023 - called at once
            for command in (predict, imports)
        )
        if repeat:  # the first round warms the file cache
            ratios.append(one / other)
            shown.append(one)
    report("one image, of the imports' time", ratios, f"median {statistics.median(shown):.2f} s")


def report(name: str, ratios: Sequence[float], more: str) -> None:
    print(
        f"{name}: median {statistics.median(ratios):.3f} "
        f"(min {min(ratios):.3f}, max {max(ratios):.3f}, n {len(ratios)}); {more}, {num_cores()} cores",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--earlier", help="the program of another checkout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if options.earlier:
            against_earlier(options.earlier, Path(made), options.images, options.repeats)
            return
        model, folder = Path(made, "model.onnx"), Path(made, "pictures")
        make_model(model, "resnet18", IMAGE_SIZE)
        make_images(folder, options.images)
        start_up(model, next(folder.iterdir()), options.repeats)
        throughput(model, folder, options.images, options.repeats)


if __name__ == "__main__":
    main()
