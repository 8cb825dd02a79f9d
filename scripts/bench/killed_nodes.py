"""Kill a daemon of Slurm, a node of Ray or the link between two nodes under a run of two nodes, and compare its end.

    python scripts/bench/killed_nodes.py FOLDER ray --cases 5
    SLURM_CONF=/some/folder/slurm.conf python scripts/bench/killed_nodes.py FOLDER slurm --cases 5

For `slurm` a cluster of two nodes runs already: scripts/cluster/slurm_localhost.sh start /some/folder 2. For `link` the
script is root, and makes two network namespaces. Written down are the seconds until the run has ended, or until the cut
link was noticed, how often it was resumed, and which parts of its final state differ from those of an undisturbed run.
The record is appended to, and a later call continues after its last line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kills import base_words, lines, make_images, outcome, run_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND = [sys.executable, "-m", "classifier_training"]
NAMES = ("killed0", "killed1")


@contextlib.contextmanager
def ray_nodes() -> Iterator[tuple[list[str], Callable[[random.Random], None]]]:
    """Give the settings of a cluster of two nodes of Ray, and what kills one of them and adds another."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

    def kill(draws: random.Random) -> None:
        cluster.remove_node(nodes.pop(draws.randrange(2)), allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=1))

    yield ["launcher=ray", f"launcher.address={cluster.address}", "launcher.nodes=2"], kill
    cluster.shutdown()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def slurm_nodes() -> Iterator[tuple[list[str], Callable[[random.Random], None]]]:
    """Give the settings of the cluster of SLURM_CONF, and what kills the daemon of a node and starts it again."""
    folder = Path(os.environ["SLURM_CONF"]).parent

    def kill(draws: random.Random) -> None:
        path = draws.choice(sorted(folder.glob("slurmd-*.pid")))
        os.kill(int(path.read_text()), signal.SIGKILL)
        time.sleep(draws.uniform(0, 5))
        subprocess.run(["slurmd", "-N", path.stem.removeprefix("slurmd-")], check=True)

    yield ["launcher=slurm", "launcher.partition=all", "launcher.nodes=2"], kill


@contextlib.contextmanager
def two_machines() -> Iterator[None]:
    """Have two network namespaces that a cable connects."""
    steps = [
        *(f"ip netns add {name}" for name in NAMES),
        f"ip link add cable0 netns {NAMES[0]} type veth peer name cable0 netns {NAMES[1]}",
        *(f"ip -n {name} addr add 10.78.0.{node + 1}/24 dev cable0" for node, name in enumerate(NAMES)),
        *(f"ip -n {name} link set {device} up" for name in NAMES for device in ("cable0", "lo")),
    ]
    try:
        for step in steps:
            subprocess.run(step.split(), check=True)
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False)


def start_linked(words: list[str], log: Path) -> list[subprocess.Popen[bytes]]:
    """Start torchrun on both machines."""
    flags = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=10.78.0.1", "--master-port=29911"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable0"}
    with log.open("ab") as file:
        return [
            subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *flags,
                 f"--node-rank={node}", "-m", "classifier_training", *words],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=env,
            )
            for node, name in enumerate(NAMES)
        ]  # fmt: skip


def start_job(words: list[str], log: Path) -> list[subprocess.Popen[bytes]]:
    """Start the command, whose launcher starts the rest."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return [subprocess.Popen([*COMMAND, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env)]


def run_below(output: Path) -> Path | None:
    """The one run below a folder, or below the folder of its job."""
    return run_in(output) or next((run for job in output.glob("jobs/*") if (run := run_in(job))), None)


def when_at(epoch: int, output: Path, running: list[subprocess.Popen[bytes]], log: Path) -> Path:
    """Wait until a run has ended an epoch; returns its folder."""
    while (run := run_below(output)) is None or sum(1 for _ in lines(run / "metrics.csv")) <= epoch:
        assert all(process.poll() is None for process in running), log.read_text()
        time.sleep(0.01)
    return run


def main() -> None:
    """Do the cases that the record lacks, and print what all of them gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for images, runs and the record")
    parser.add_argument("kind", choices=["ray", "slurm", "link"])
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    folder, images = args.folder / args.kind, args.folder / "images"
    folder.mkdir(parents=True, exist_ok=True)
    if not images.exists():
        make_images(images)
    base = base_words(images, args.epochs)
    whole = folder / "whole"
    if (run := run_in(whole)) is None or not (run / "result.json").exists():
        for process in start_job([*base, "trainer.num_devices=2", f"output={whole}"], folder / "whole.log"):
            process.wait()
        run = run_in(whole)
        assert run is not None, (folder / "whole.log").read_text()
    expected, record = outcome(run), folder / "record.jsonl"
    done = record.read_text().splitlines() if record.exists() else []
    with contextlib.ExitStack() as stack:
        if args.kind == "link":
            stack.enter_context(two_machines())
        else:
            settings, kill = stack.enter_context({"ray": ray_nodes, "slurm": slurm_nodes}[args.kind]())
        for case in range(len(done), args.cases):
            draws = random.Random(case)  # noqa: S311 - a moment
            output, log = folder / f"case{case}-{time.time_ns()}", folder / f"case{case}.log"
            epoch = draws.randrange(args.epochs // 2)
            if args.kind == "link":
                running = start_linked([*base, f"output={output}"], log)
                run = when_at(epoch, output, running, log)
                subprocess.run(["ip", "-n", NAMES[0], "link", "set", "cable0", "down"], check=True)
                began = time.monotonic()
                codes = [process.wait() for process in running]
                seconds = time.monotonic() - began
                subprocess.run(["ip", "-n", NAMES[0], "link", "set", "cable0", "up"], check=True)
                assert 0 not in codes
                codes = [process.wait() for process in start_linked(["train", f"resume={run}"], log)]
            else:
                running = start_job([*base, *settings, f"output={output}"], log)
                run = when_at(epoch, output, running, log)
                kill(draws)
                began = time.monotonic()
                codes = [process.wait() for process in running]
                seconds = time.monotonic() - began
            said = "".join(path.read_text() for path in [log, *output.glob("jobs/*/*.log")])
            row: dict[str, Any] = {
                "kind": args.kind, "epoch": epoch, "seconds": round(seconds, 1), "codes": codes,
                "resumed": said.count("resume: training continues after step"),
            }  # fmt: skip
            found = outcome(run) if (run / "result.json").exists() else {}
            row["differing"] = sorted(part for part in expected if found.get(part) != expected[part])
            with record.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    print(
        f"{args.kind}: {len(rows)} cases, ended with {sorted({code for row in rows for code in row['codes']})}, "
        f"{sum(row['resumed'] > 0 for row in rows)} resumed, {sum(bool(row['differing']) for row in rows)} differ, "
        f"{max(row['seconds'] for row in rows)} s at most"
    )


if __name__ == "__main__":
    main()
