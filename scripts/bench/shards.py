"""Images a second from Lance shards: beside LitData, over a network with latency, and the memory of several epochs.

    python scripts/bench/shards.py litdata /my/photos --peer /venv/of/litdata/bin/python
    python scripts/bench/shards.py latency /my/photos --ms 20          (with SeaweedFS)
    python scripts/bench/shards.py memory /my/photos --workers 0

Every run is a process of its own that decodes the same images to the same side, in turn; the median of `--repeats` is
printed, with all of them. The first epoch, which starts workers, is left out. LitData's environment:

    uv venv peer && uv pip install --python peer/bin/python litdata==0.2.76 torch torchvision pillow
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from object_store import S3Server, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def read(root: str, *, side: int, batch: int, workers: int, epochs: int) -> dict[str, Any]:
    """Load every image of a data set in random order, some epochs long; no network is trained."""
    import torch

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.core.runtime import num_cores
    from classifier_training.core.types import SplitTable
    from classifier_training.data.dataset import ImageDataset
    from classifier_training.data.formats.image_folder import AutoData
    from classifier_training.data.loader import BatchLoader
    from classifier_training.data.pixel_format import PixelFormat
    from classifier_training.data.samplers import EpochSampler

    torch.set_num_threads(num_cores())
    index = AutoData(root=root).read()
    labels = sorted({sample.label for sample in index.samples})
    import numpy as np

    targets = np.array([labels.index(sample.label) for sample in index.samples])
    table = SplitTable("train", index.absolute_paths(), targets, index.groups)
    fit = Preprocessing(size=(side, side), mean=(0, 0, 0), std=(1, 1, 1), policy="squash")
    images = ImageDataset(
        table, pixel_format=PixelFormat(preprocessing=fit), augmentation=None, seed=0, on_error="raise"
    )
    order = EpochSampler(targets, seed=0)
    loader = BatchLoader(images, order, batch_size=batch, num_workers=workers)
    rates, memory = [], []
    for epoch in range(epochs):
        order.set_epoch(epoch)
        started, number = time.perf_counter(), 0
        for found in loader:
            number += len(found.images)
        rates.append(number / (time.perf_counter() - started))
        memory.append(sum(map(resident, family(os.getpid()))))
    seconds = sum(map(busy, family(os.getpid()))) / epochs
    return {"rates": rates, "memory": memory, "images": number, "cpu": 1e3 * seconds / number}


def busy(process: int) -> float:
    """Processor time of a process, in seconds."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> float:
    """Memory of a process without what it shares with others, in MB; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_", "Pss_Shmem"))) / 1e3


def family(process: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        children = []
    return [process, *(one for child in children for one in family(int(child)))]


def ours(root: str, given: argparse.Namespace, epochs: int | None = None) -> dict[str, Any]:
    """Read in a process of its own."""
    settings = ["--side", given.side, "--batch", given.batch, "--workers", given.workers]
    command = [sys.executable, __file__, "read", root, *settings, "--epochs", epochs or given.epochs]
    return last_line(command)


def last_line(command: list[Any]) -> dict[str, Any]:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def prepared(images: str, output: str) -> None:
    """Write the images as shards."""
    code = "from classifier_training.cli import entry_point; entry_point()"
    command = [sys.executable, "-c", code, "prepare", images, f"output={output}", "data.follow_links=true"]
    subprocess.run(command, check=True)


def show(name: str, rates: list[float]) -> float:
    middle = statistics.median(rates)
    print(
        f"{name:<28} {middle:8.1f} images/s  (n {len(rates)}: {', '.join(f'{rate:.0f}' for rate in rates)})", flush=True
    )
    return middle


def litdata(given: argparse.Namespace, work: Path) -> None:
    """Ours and LitData's in turn, from the local disk."""
    prepared(given.images, f"{work}/set.lance")
    peer = [given.peer, str(HERE / "shards_litdata.py")]
    subprocess.run([*peer, "write", given.images, str(work / "chunks")], check=True, capture_output=True)
    found: dict[str, list[float]] = {"ours, Lance": [], "LitData": [], "ours, files": []}
    settings = ["--side", given.side, "--batch", given.batch, "--workers", given.workers, "--epochs", given.epochs]
    for _ in range(given.repeats):
        found["ours, Lance"].append(statistics.median(ours(f"{work}/set.lance", given)["rates"][1:]))
        found["LitData"].append(statistics.median(last_line([*peer, "read", work / "chunks", *settings])["rates"][1:]))
        found["ours, files"].append(statistics.median(ours(given.images, given)["rates"][1:]))
    middles = {name: show(name, rates) for name, rates in found.items()}
    pairs = [one / other for one, other in zip(found["ours, Lance"], found["LitData"], strict=True)]
    print(f"Lance over LitData: {middles['ours, Lance'] / middles['LitData']:.2f} "
          f"(pairs {min(pairs):.2f} to {max(pairs):.2f})")  # fmt: skip


def latency(given: argparse.Namespace, work: Path) -> None:
    """Ours from S3 behind a link that delays every packet by half of `--ms` each way, and from the local disk."""
    prepared(given.images, f"{work}/set.lance")
    with s3_behind(given.ms, work) as address:
        prepared(given.images, "s3://bench/set.lance")
        os.environ["AWS_ENDPOINT_URL"] = address
        near, far, own, other = [], [], [], []
        for _ in range(given.repeats):
            found = ours(f"{work}/set.lance", given)
            near.append(statistics.median(found["rates"][1:]))
            before = sum(map(busy, family(os.getpid())))
            remote = ours("s3://bench/set.lance", given)
            far.append(statistics.median(remote["rates"][1:]))
            own.append((found["cpu"], remote["cpu"]))
            other.append(1e3 * (sum(map(busy, family(os.getpid()))) - before) / given.epochs / remote["images"])
        ratio = show(f"S3, {given.ms} ms", far) / show("local disk", near)
        pairs = [one / other for one, other in zip(far, near, strict=True)]
        print(f"S3 with {given.ms} ms over the local disk: {ratio:.2f} (pairs {min(pairs):.2f} to {max(pairs):.2f})")
        disk, store = (statistics.median(pair[place] for pair in own) for place in (0, 1))
        print(f"processor time an image: from the disk {disk:.2f} ms, from S3 {store:.2f} ms, and "
              f"{statistics.median(other):.2f} ms of the server and the relay on the same cores")  # fmt: skip


def memory(given: argparse.Namespace, work: Path) -> None:
    """Memory of the process and its workers after each epoch."""
    prepared(given.images, f"{work}/set.lance")
    found = ours(f"{work}/set.lance", given, epochs=max(given.epochs, 4))["memory"]
    slope = statistics.linear_regression(range(len(found) - 1), found[1:]).slope
    print(f"MB after each epoch: {', '.join(f'{size:.1f}' for size in found)}; slope from the second on {slope:+.2f}")


async def relay(port: int, target: int, seconds: float) -> None:
    """Pass on what comes to a port after some time, each way, and a connection after twice that.

    It delays packets as `tc netem` does, on machines whose kernel lacks that, and limits no bandwidth.
    """

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, waiting = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

        async def give() -> None:
            while True:
                due, content = await waiting.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not content:
                    writer.close()
                    return
                writer.write(content)
                await writer.drain()

        giving = asyncio.create_task(give())
        with contextlib.suppress(OSError):
            while content := await reader.read(1 << 18):
                waiting.put_nowait((loop.time() + seconds, content))
        waiting.put_nowait((loop.time() + seconds, b""))
        with contextlib.suppress(OSError):
            await giving

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * seconds)
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pipe(reader, other_writer), pipe(other_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


@contextlib.contextmanager
def s3_behind(milliseconds: float, work: Path) -> Iterator[str]:
    """Start SeaweedFS, and a relay before it; yields the address of the relay."""
    server, port = S3Server(work), free_port()
    server.make_bucket("bench")
    command = [sys.executable, __file__, "relay", str(server.port), "--port", str(port), "--ms", str(milliseconds)]
    between = subprocess.Popen(command)
    try:
        os.environ |= server.environment
        time.sleep(2)
        yield f"http://127.0.0.1:{port}"
    finally:
        between.kill()
        between.wait()
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["litdata", "latency", "memory", "read", "relay"])
    parser.add_argument("images")
    parser.add_argument("--peer", default="python")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--port", type=int)
    parser.add_argument("--ms", type=float, default=20)
    given = parser.parse_args()
    if given.what == "read":
        settings = {name: getattr(given, name) for name in ("side", "batch", "workers", "epochs")}
        print(json.dumps(read(given.images, **settings)))
        return
    if given.what == "relay":
        asyncio.run(relay(given.port, int(given.images), given.ms / 2000))
        return
    with tempfile.TemporaryDirectory() as folder:
        {"litdata": litdata, "latency": latency, "memory": memory}[given.what](given, Path(folder))


if __name__ == "__main__":
    main()
