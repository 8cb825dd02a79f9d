"""Kill runs of several processes at random moments, resume them, and compare with a run that nothing interrupted.

Each case starts `torchrun … train trainer=ddp`, sends one signal (SIGKILL to a worker, to rank 0 or to an agent;
SIGTERM to an agent), waits until all processes have ended, and resumes. Written down are the seconds until the end, the
steps that were taken and are in no checkpoint, and which parts of the final state differ from the undisturbed run's.
The record is appended to, and a later call continues after its last line.

    python scripts/bench/kills.py FOLDER --cases 20 --nodes 1 --processes 2
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KINDS = {
    "kill worker": ("worker", signal.SIGKILL),
    "kill rank 0": ("rank 0", signal.SIGKILL),
    "kill agent": ("agent", signal.SIGKILL),
    "terminate agent": ("agent", signal.SIGTERM),
}
COUNTS = "KILLS_COUNTS"
MOST_SECONDS = 300.0
CLOCKS = {"epoch_seconds", "images_per_second", "peak_memory_mb", "train_seconds"}
PARTS = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "callbacks")


def be_a_rank() -> None:
    """Be the command line, and write down after each step of the optimizer how many there were."""
    from torch import distributed
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from classifier_training.cli import entry_point

    path = Path(os.environ[COUNTS]) / os.environ["RANK"]
    taken = 0

    def count(*_: object) -> None:
        nonlocal taken
        if distributed.is_initialized():
            taken += 1
            path.write_text(str(taken))

    register_optimizer_step_post_hook(count)
    entry_point()


def make_images(root: Path) -> None:
    """Write 40 small images of three classes."""
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    for split, number in (("train", 32), ("val", 9)):
        for place in range(number):
            path = root / split / f"class{place % 3}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draws.integers(0, 156, (24, 24, 3)) + np.eye(3, dtype=int)[place % 3] * 90
            Image.fromarray(pixels.astype(np.uint8)).save(path)


class Processes:
    """The agents of one run, a process group each.

    Args:
        words: of the command line.
        nodes: number of agents.
        local: processes of each.
        counts: folder in which each rank counts its steps.
        log: takes what they say.
    """

    def __init__(self, words: list[str], *, nodes: int, local: int, counts: Path, log: Path) -> None:
        counts.mkdir(exist_ok=True)
        env = {**os.environ, "OMP_NUM_THREADS": "1", COUNTS: str(counts)}
        address = ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
        with log.open("ab") as file:
            self.agents = [
                subprocess.Popen(
                    [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--node-rank={node}",
                     f"--nproc-per-node={local}", *address, __file__, *words],
                    stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True,
                )
                for node in range(nodes)
            ]  # fmt: skip

    def ranks(self) -> dict[int, int]:
        """Process numbers by rank."""
        found: dict[int, int] = {}
        for agent in self.agents:
            with contextlib.suppress(FileNotFoundError):
                for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
                    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    found |= {int(word[5:]): int(pid) for word in words if word.startswith(b"RANK=")}
        return found

    def wait(self, ranks: dict[int, int]) -> float:
        """Wait until all have ended; returns the seconds that took. Those that do not end are killed."""
        started = time.monotonic()
        while any(agent.poll() is None for agent in self.agents) or any(map(is_alive, ranks.values())):
            if time.monotonic() - started > MOST_SECONDS:
                for pid in [*(agent.pid for agent in self.agents), *filter(is_alive, ranks.values())]:
                    os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.05)
        return time.monotonic() - started


def free_port() -> int:
    """Return a port that no program listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_alive(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def exact(value: Any) -> Any:
    """Make nested checkpoint values comparable to the bit."""
    import torch

    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {str(key): exact(item) for key, item in value.items() if str(key) not in CLOCKS}
    return [exact(item) for item in value] if isinstance(value, (list, tuple)) else value


def outcome(run: Path) -> dict[str, Any]:
    """What a run ends with, by part."""
    import torch

    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    return {**{name: exact(last[name]) for name in PARTS if name in last}, "best": exact(best), "metrics": metrics}


def saved_steps(run: Path) -> int:
    """Steps that the newest checkpoint of a run holds."""
    import torch

    paths = [run / "checkpoints" / name for name in ("last.ckpt", "step.ckpt")]
    return max((torch.load(path, weights_only=True)["global_step"] for path in paths if path.exists()), default=0)


def run_in(output: Path) -> Path | None:
    """The one run below a folder, if it is there."""
    return next((path.parent for path in output.glob("*/*/config.yaml")), None)


def base_words(images: Path, epochs: int) -> list[str]:
    """A command line that trains a small network with dropout, mirroring, an average and a schedule."""
    return [
        "train", f"data.root={images}", "model=student", "model.dropout=0.2", "model.width=0.65", "data.image_size=16",
        "data.batch_size=8", f"trainer.max_epochs={epochs}", "trainer.accelerator=cpu", "trainer.precision=32",
        "trainer.compile=false", "transforms.hflip=0.5", "callbacks=[checkpoint,ema]", "data.store=off", "trainer=ddp",
        "callbacks.checkpoint.every_seconds=1", "callbacks.checkpoint.every_minutes=0.01",
    ]  # fmt: skip


def main() -> None:
    """Do the cases that the record lacks, and print what all of them gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for images, runs and the record")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="on each node")
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    folder = args.folder / f"{args.nodes}x{args.processes}"
    folder.mkdir(parents=True, exist_ok=True)
    record, images = folder / "record.jsonl", args.folder / "images"
    if not images.exists():
        make_images(images)
    base = base_words(images, args.epochs)
    size = {"nodes": args.nodes, "local": args.processes}

    def start(words: list[str], name: str) -> Processes:
        return Processes(words, **size, counts=folder / f"{name}-steps", log=folder / f"{name}.log")

    whole = folder / "whole"
    if (run := run_in(whole)) is None or not (run / "result.json").exists():
        start([*base, f"output={whole}"], "whole").wait({})
        run = run_in(whole)
        assert run is not None, (folder / "whole.log").read_text()
    expected = outcome(run)
    done = record.read_text().splitlines() if record.exists() else []
    for case in range(len(done), args.cases):
        draws = random.Random(case)  # noqa: S311 - a moment
        kind = list(KINDS)[case % len(KINDS)]
        receiver, number = KINDS[kind]
        output, name = folder / f"case{case}-{time.time_ns()}", f"case{case}"
        processes = start([*base, f"output={output}"], name)
        epoch = draws.randrange(args.epochs - 2)
        while (run := run_in(output)) is None or sum(1 for _ in lines(run / "metrics.csv")) <= epoch:
            assert all(agent.poll() is None for agent in processes.agents), (folder / f"{name}.log").read_text()
            time.sleep(0.01)
        time.sleep(draws.random() * 0.2)
        ranks = processes.ranks()
        agent = draws.choice(processes.agents).pid
        victim = {"agent": agent, "rank 0": ranks[0], "worker": ranks[max(ranks)]}[receiver]
        os.kill(victim, number)
        seconds = processes.wait(ranks)
        # What the last step of a killed process wrote may be less than it took.
        taken = max(int(path.read_text() or 0) for path in (folder / f"{name}-steps").iterdir())
        lost = taken - saved_steps(run)
        start(["train", f"resume={run}"], name).wait({})
        found = outcome(run) if (run / "result.json").exists() else {}
        differing = sorted(part for part in expected if found.get(part) != expected[part])
        row = {"kind": kind, "epoch": epoch, "seconds": round(seconds, 2), "lost_steps": lost, "differing": differing}
        with record.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    for kind, times in collections.Counter(row["kind"] for row in rows).items():
        own = [row for row in rows if row["kind"] == kind]
        print(
            f"{kind}: n={times}, seconds to the end at most {max(row['seconds'] for row in own):.1f}, "
            f"steps lost at most {max(row['lost_steps'] for row in own)}, "
            f"runs that differ {sum(bool(row['differing']) for row in own)}"
        )


def lines(path: Path) -> list[str]:
    """Lines of a file after its first; none where it is missing."""
    try:
        return path.read_text().splitlines()[1:]
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    be_a_rank() if COUNTS in os.environ and "RANK" in os.environ else main()
