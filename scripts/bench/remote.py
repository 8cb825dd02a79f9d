"""Remote folders, measured on an S3 server of this machine (SeaweedFS) behind a proxy that counts and makes faults.

`requests`: how many lists, files and HEADs a first and a second start of training ask for, up to the split tables.
`faults`: SHA-256 of the weights of a local folder, of its remote copy, and of the copy while requests are answered with
503, files come cut, and the server is killed for 10 seconds; and what a run says when the server stays away.
`memory`: resident memory after each epoch, with every file fetched again in each, and its slope.
`speed`: images a second of the loader, from the local folder, from the server and from the cache.

    python scripts/bench/remote.py FOLDER requests --files 2000 20000
    python scripts/bench/remote.py FOLDER faults
    python scripts/bench/remote.py FOLDER memory --epochs 8
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import resource
import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from object_store import Faults, Proxy, S3Server
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "bench"
SMALL = (
    "model=timm", "model.name=test_resnet", "model.pretrained=false", "data.image_size=32", "data.batch_size=16",
    "trainer.accelerator=cpu", "trainer.compile=false", "seed=1", "data.store=off",
)  # fmt: skip


def make_images(root: Path, number: int, *, side: int = 24) -> Path:
    """Write so many PNGs of four classes, split into train, val and test, if they are not there."""
    if root.is_dir():
        return root
    draws = np.random.default_rng(0)
    for place in range(number):
        split = ("train", "train", "train", "val", "test")[place % 5]
        path = root / split / f"class{place // 5 % 4}" / f"{place:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 200, (side, side, 3)) + 50 * (np.arange(3) == place // 5 % 4)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def train(root: str, output: Path, *words: str) -> Any:
    """Train in this process; returns the run folder."""
    from classifier_training import cli  # noqa: F401 - fills the register
    from classifier_training.conf.compose import compose
    from classifier_training.core.register import entry

    verb = entry("verb", "train")
    shutil.rmtree(output, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        result = verb.run(compose(verb, [f"data.root={root}", f"output={output}", *SMALL, *words]))
    return result.run_dir


def own_cache(folder: Path) -> None:
    """Begin with an empty cache."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["CLASSIFIER_TRAINING_CACHE"] = str(folder)


def measure_requests(folder: Path, server: S3Server, proxy: Proxy, numbers: list[int]) -> None:
    """Print the requests of two starts."""
    from classifier_training.data.formats.image_folder import ImageFolder
    from classifier_training.data.load import load_data

    print("files   start   lists  allowed  files fetched  HEADs  seconds")
    for number in numbers:
        server.upload(make_images(folder / f"files{number}", number, side=8), BUCKET, f"files{number}")
        own_cache(folder / "cache")
        for start in ("first", "second"):
            proxy.counts.clear()
            begun = time.perf_counter()
            data = load_data(ImageFolder(root=f"s3://{BUCKET}/files{number}"), seed=0)
            seconds = time.perf_counter() - begun
            assert sum(map(len, data.splits.tables.values())) == number
            counts = proxy.counts
            allowed = number // 1000 + 3
            print(
                f"{number:<7} {start:<7} {counts['list']:<6} {allowed:<8} {counts['get']:<14} {counts['head']:<6} "
                f"{seconds:.1f}"
            )


def measure_faults(folder: Path, server: S3Server, proxy: Proxy, repeats: int) -> None:
    """Print the weights of disturbed runs."""
    from classifier_training.core.errors import UserError
    from classifier_training.core.run_dir import sha256
    from classifier_training.core.storage import objects

    images = make_images(folder / "images", 400)
    server.upload(images, BUCKET, "images")
    url = f"s3://{BUCKET}/images"
    words = ("trainer.max_epochs=2", "data.cache_gb=0")

    def weights(root: str) -> str:
        own_cache(folder / "cache")
        return str(sha256(train(root, folder / "runs", *words).weights))[:16]

    local = weights(str(images))
    print(f"local folder                    {local}")
    for repeat in range(repeats):
        for name, faults in (
            ("no fault", Faults()),
            ("5 % of 503s", Faults(busy=0.05)),
            ("5 % cut, 5 % short", Faults(cut=0.05, short=0.05)),
        ):
            proxy.faults, proxy.made = faults, type(proxy.made)()
            found = weights(url)
            print(f"{repeat + 1} {name:<30}{found} {'same' if found == local else 'DIFFERENT'} {dict(proxy.made)}")
        proxy.faults = Faults()
        proxy.counts.clear()
        killed = threading.Thread(target=kill_for, args=(server, proxy, 500, 10.0))
        killed.start()
        found = weights(url)
        killed.join()
        print(f"{repeat + 1} {'killed for 10 s':<30}{found} {'same' if found == local else 'DIFFERENT'}")
    objects.PATIENCE = 5.0
    proxy.counts.clear()
    killed = threading.Thread(target=kill_for, args=(server, proxy, 500, 60.0))
    killed.start()
    try:
        print(f"killed for good: {weights(url)}")
    except UserError as error:
        print(f"killed for good, after {objects.PATIENCE:.0f} s of patience:\n{error}")
    killed.join()


def kill_for(server: S3Server, proxy: Proxy, after: int, seconds: float) -> None:
    """Kill the server after so many files, and start it again."""
    while proxy.counts["get"] < after:
        time.sleep(0.01)
    server.kill()
    time.sleep(seconds)
    server.start()


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def measure_memory(folder: Path, server: S3Server, epochs: int) -> None:
    """Print resident memory after each epoch, and its slope."""
    images = make_images(folder / "images", 400)
    server.upload(images, BUCKET, "images")
    for name, root, cache in (
        ("remote, fetched each time", f"s3://{BUCKET}/images", ("data.cache_gb=0",)),
        ("remote, cached", f"s3://{BUCKET}/images", ()),
        ("local", str(images), ()),
    ):
        own_cache(folder / "cache")
        sizes: list[float] = []

        class Sizes(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if record.getMessage().startswith("epoch "):
                    sizes.append(resident_mb())  # noqa: B023 - the handler is gone before the next

        handler = Sizes()
        logging.getLogger("classifier_training").addHandler(handler)
        logging.getLogger("classifier_training").setLevel(logging.INFO)
        train(root, folder / "runs", f"trainer.max_epochs={epochs}", *cache)
        logging.getLogger("classifier_training").removeHandler(handler)
        late = sizes[2:]
        slope = statistics.linear_regression(range(len(late)), late).slope
        print(f"{name:<28}{' '.join(f'{size:.1f}' for size in sizes)} MB; from the third on {slope:+.2f} MB an epoch")


def measure_speed(folder: Path, server: S3Server, proxy: Proxy) -> None:
    """Print the images a second of reading and decoding batches of 64."""
    from classifier_training.core.images import read_rgb
    from classifier_training.core.storage.places import read_many
    from classifier_training.data.remote import listing

    images = make_images(folder / "images", 400)
    server.upload(images, BUCKET, "images")
    url = f"s3://{BUCKET}/images"
    own_cache(folder / "cache")
    names = list(listing(url).below())

    def per_second(root: str) -> float:
        begun = time.perf_counter()
        for start in range(0, len(names), 64):
            paths = [f"{root}/{name}" for name in names[start : start + 64]]
            for path, content in zip(paths, read_many(paths), strict=True):
                read_rgb(path, content=content)
        return len(names) / (time.perf_counter() - begun)

    for latency in (0.0, 0.02):
        proxy.faults = Faults(latency=latency)
        own_cache(folder / "cache")
        list(listing(url).below())
        rates = {"local": per_second(str(images)), "server": per_second(url), "cache": per_second(url)}
        print(f"latency {latency * 1000:.0f} ms: " + ", ".join(f"{name} {rate:,.0f}/s" for name, rate in rates.items()))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[S3Server, Proxy]]:
    """Start a server and a proxy, and read through them."""
    server = S3Server(folder / "server")
    proxy = Proxy(server.port)
    os.environ |= {**server.environment, "AWS_ENDPOINT_URL": proxy.url}
    try:
        yield server, proxy
    finally:
        proxy.close()
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=("requests", "faults", "memory", "speed"))
    parser.add_argument("--files", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    folder = given.folder.absolute()
    with serving(folder) as (server, proxy):
        if given.what == "requests":
            measure_requests(folder, server, proxy, given.files)
        elif given.what == "faults":
            measure_faults(folder, server, proxy, given.repeats)
        elif given.what == "memory":
            measure_memory(folder, server, given.epochs)
        else:
            measure_speed(folder, server, proxy)


if __name__ == "__main__":
    main()
