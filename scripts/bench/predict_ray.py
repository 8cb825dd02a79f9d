"""`predict launcher=ray` against Ray Data's documented batch inference and against local `predict`; and with kills.

`speed` gives the same images and the same ONNX file (an untrained resnet18) to three programs on the same cores,
each in a process of its own: ours on Ray, the example of Ray Data's documentation (read_images, map, map_batches with a
class that holds the session) and local `predict`. The rate is that after the first fifth of the images, so without the
start of processes, which is printed beside it; the second rate, by processor time, is disturbed less by other work.

`kills` runs the command on a cluster of two nodes, kills one node (SIGKILL) when half of the parts are there and the
command itself at 70 %, gives the same command again, and compares all rows with those of local `predict`.

    python scripts/bench/predict_ray.py speed --images 20000 --repeats 5
    python scripts/bench/predict_ray.py speed --folder /my/photos --size 224
    python scripts/bench/predict_ray.py kills --images 20000
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from classifier_training.core.runtime import num_cores, share_of_cores
from classifier_training.inference.batches import Plan
from classifier_training.inference.parts import JobPlan, PartFolder, digest_of
from classifier_training.inference.predictor import Predictor
from classifier_training.inference.rows import RowSettings, to_json
from classifier_training.inference.sources import FolderSource
from classifier_training.workflows.many_runs.launch.ray import SWITCHES, Ray
from classifier_training.workflows.serving.predict_ray import PartJob, compute_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier_training.core.preprocess import Preprocessing

BATCH_SIZE = 32
WARM_SHARE = 0.2
"""Of the images, before the rate is measured."""

NAMES = ("ours", "example", "local")

MAKE_MODEL = """
import sys
from pathlib import Path
import torch
from classifier_training.core.preprocess import Preprocessing
from classifier_training.export.bundle import BundleInfo
from classifier_training.export.formats.onnx import evaluation_copy, export_onnx
from classifier_training.models.torchvision_models import IMAGENET, ResNet18
torch.manual_seed(0)
size = int(sys.argv[2])
info = BundleInfo(
    class_names=tuple(map(str, range(10))),
    preprocessing=Preprocessing(size=(size, size), mean=IMAGENET.mean, std=IMAGENET.std),
    architecture="resnet18",
)
network = evaluation_copy(ResNet18(pretrained=False)(10).network)
export_onnx(network, Path(sys.argv[1]), image_size=size, opset=None, metadata=info.metadata())
"""


def make_images(folder: Path, number: int) -> None:
    """Write PNGs of 32 px with some noise, in folders of 1,000."""
    generator = np.random.default_rng(0)
    for row in range(number):
        if row % 1000 == 0:
            (folder / f"{row // 1000:03}").mkdir(parents=True)
        rough = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        smooth = np.asarray(rough.resize((32, 32), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(smooth + generator.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{row // 1000:03}" / f"{row:07}.png")


def ours(model: Path, folder: Path, output: Path) -> Iterator[int]:
    """Yield the images of each part as it is written."""
    plan = Plan(FolderSource(str(folder)), BATCH_SIZE)
    predictor = functools.partial(Predictor, model, accelerator="cpu")
    digest = predictor().model_sha256
    parts = PartFolder(f"{output}/parts/")
    job_plan = JobPlan(
        settings={"model": digest}, batch_size=BATCH_SIZE, num_images=len(plan.paths), digest=digest_of(plan)
    )
    job = PartJob(
        open_predictor=predictor,
        model_sha256=digest,
        settings=RowSettings(),
        threshold=0.5,
        parts=parts,
        done=parts.open(job_plan),
        directory=str(Path.cwd()),
        witness=None,
        variables=share_of_cores(1),
    )
    for one in compute_parts(Ray(), job, plan):
        yield one.summary.images


class Model:
    """The class of Ray Data's example, with ONNX Runtime in place of PyTorch."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the class of each image and its probability."""
        (logits,) = self._session.run(["logits"], {"input": np.stack(list(batch["input"]))})
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return {"path": batch["path"], "label": shares.argmax(axis=1), "confidence": shares.max(axis=1)}


def preprocess(row: dict[str, Any], *, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Resize and normalize one image, as the example's transforms do."""
    pixels = row["image"]
    if pixels.shape[:2] != (size, size):
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    scaled = (pixels.astype(np.float32) / 255 - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return {"path": row["path"], "input": np.ascontiguousarray(scaled.transpose(2, 0, 1))}


def example(model: Path, folder: Path, output: Path) -> Iterator[int]:
    """Yield the images of each block of predictions; the pool has one core, and reading the others."""
    os.environ.update(SWITCHES)
    import ray
    from ray import data as ray_data

    ray.init(address="local", num_cpus=num_cores(), include_dashboard=False, log_to_driver=False)
    ray_data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    spec: Preprocessing = Predictor(model, accelerator="cpu").preprocessing
    prepared = functools.partial(preprocess, size=spec.size[0], mean=spec.mean, std=spec.std)
    found: Any = (
        ray_data.read_images(str(folder), mode="RGB", include_paths=True)
        .map(prepared)
        .map_batches(
            Model,
            fn_constructor_args=(str(model),),
            batch_size=BATCH_SIZE,
            num_cpus=1,
            compute=ray_data.ActorPoolStrategy(size=max(1, num_cores() // 2)),
        )
    )
    for batch in found.iter_batches(batch_size=None, batch_format="pandas"):
        with (output / "predictions.jsonl").open("a", encoding="utf-8") as file:
            batch.to_json(file, orient="records", lines=True)
        yield len(batch)
    ray.shutdown()


def local(model: Path, folder: Path, output: Path) -> Iterator[int]:
    """Yield the images of each batch."""
    predictor = Predictor(model, accelerator="cpu")
    with (output / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for _, rows in predictor.row_batches(FolderSource(str(folder)), RowSettings(), batch_size=BATCH_SIZE):
            file.writelines(to_json(row) + "\n" for row in rows)
            yield len(rows)


def processor_seconds() -> float:
    """Return the processor time so far of this process and all below it, those of Ray included."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            used[int(path.parent.name)] = int(fields[11]) + int(fields[12])
    ours, is_new = {os.getpid()}, True
    while is_new:
        found = {process for process, parent in parents.items() if parent in ours} | ours
        is_new, ours = found != ours, found
    return sum(used[process] for process in ours) / os.sysconf("SC_CLK_TCK")


def measure(name: str, model: Path, folder: Path, *, number: int) -> None:
    """Run one program and print its rate in images a second and its seconds until then."""
    began = time.perf_counter()
    done, start, used, at_start = 0, 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as made:
        for images in {"ours": ours, "example": example, "local": local}[name](model, folder, Path(made)):
            done += images
            if not start and done >= WARM_SHARE * number:
                start, used, at_start = time.perf_counter(), processor_seconds(), done
            if done == number:
                ended, used = time.perf_counter(), processor_seconds() - used
    assert done == number, f"{done} of {number} images"
    rate, by_core = (number - at_start) / (ended - start), (number - at_start) / used
    print(json.dumps({"rate": rate, "by_core": by_core, "seconds": ended - began}))


def speed(model: Path, folder: Path, number: int, repeats: int) -> None:
    """Measure the three programs in turn and print the ratios of their rates."""
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    by_core: dict[str, list[float]] = {name: [] for name in NAMES}
    for repeat in range(repeats):
        # Whoever comes second may find a warmer or a slower machine, so the order changes.
        shift = repeat % len(NAMES)
        for name in (*NAMES[shift:], *NAMES[:shift]):
            words = [sys.executable, __file__, "measure", name, str(model), str(folder), str(number)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            rates[name].append(found["rate"])
            by_core[name].append(found["by_core"])
            print(
                f"{name}: {found['rate']:.0f} images/s, {found['by_core']:.0f} a second of processor time; "
                f"{found['seconds']:.1f} s in all, {found['seconds'] - number / found['rate']:.1f} s of it to start",
                flush=True,
            )
    for other, (words, values) in itertools.product(NAMES[1:], (("", rates), (" in processor time", by_core))):
        ratios = [one / two for one, two in zip(values["ours"], values[other], strict=True)]
        print(
            f"ours over {other}{words}: median {statistics.median(ratios):.3f} "
            f"(min {min(ratios):.3f}, max {max(ratios):.3f}, n {len(ratios)}); "
            f"{number} images, {num_cores()} cores, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def kills(model: Path, folder: Path, number: int, scratch: Path) -> None:
    """Kill a node at 50 % and the command at 70 %, give it again, and count what is lost, twice or other."""
    os.environ.update(SWITCHES)
    from ray.cluster_utils import Cluster

    program = [sys.executable, "-m", "classifier_training", "predict", str(folder), f"run={model}", "quiet=true"]
    alone = scratch / "local.jsonl"
    subprocess.run([*program, f"output={alone}"], check=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    output = scratch / "parts"
    command = [*program, f"output={output}/", "launcher=ray", f"launcher.address={cluster.address}"]
    num_parts = JobPlan(settings={}, batch_size=BATCH_SIZE, num_images=number, digest="").num_parts

    def parts() -> list[Path]:
        return sorted(output.glob("part-*"))

    began = time.monotonic()
    running = subprocess.Popen(command)
    for share, kill in (
        (0.5, lambda: cluster.remove_node(node, allow_graceful=False)),
        (0.7, lambda: running.send_signal(signal.SIGKILL)),
    ):
        while len(parts()) < share * num_parts:
            assert running.poll() is None, "the command ended too soon"
            time.sleep(0.02)
        at = len(parts())
        kill()
        print(f"killed at {at} of {num_parts} parts, after {time.monotonic() - began:.1f} s", flush=True)
    running.wait()
    before = {part: part.stat().st_mtime_ns for part in parts()}
    subprocess.run(command, check=True)
    seconds = time.monotonic() - began
    cluster.shutdown()  # type: ignore[no-untyped-call]
    written = b"".join(part.read_bytes() for part in parts())
    rows = Counter(json.loads(line)["path"] for line in written.splitlines())
    expected = [json.loads(line)["path"] for line in alone.read_bytes().splitlines()]
    again = sum(part.stat().st_mtime_ns != at for part, at in before.items())
    print(
        f"{number} images: {sum(path not in rows for path in expected)} lost, "
        f"{sum(count > 1 for count in rows.values())} twice; "
        f"{len(before)} of {num_parts} parts were there at the second command, {again} of them computed again; "
        f"bytes {'equal' if written == alone.read_bytes() else 'differ from'} those of local predict; {seconds:.0f} s"
    )


def main() -> None:
    """Make the model and the images, and measure."""
    if sys.argv[1:2] == ["measure"]:
        name, *paths, images = sys.argv[2:]
        measure(name, *map(Path, paths), number=int(images))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "kills"))
    parser.add_argument("--images", type=int, default=20_000, help="small PNGs to make")
    parser.add_argument("--folder", type=Path, help="of images to take instead")
    parser.add_argument("--size", type=int, default=32, help="side of the model's input")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        model, folder = Path(made, "model.onnx"), options.folder or Path(made, "images")
        subprocess.run([sys.executable, "-c", MAKE_MODEL, model, str(options.size)], check=True, capture_output=True)
        if options.folder is None:
            make_images(folder, options.images)
        number = sum(1 for _ in FolderSource(str(folder)))
        if options.what == "speed":
            speed(model, folder, number, options.repeats)
        else:
            kills(model, folder, number, Path(made))


if __name__ == "__main__":
    main()
