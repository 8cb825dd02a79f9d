"""An MLflow server under load: runs that log at once, and promotions that race.

The runs log with the program's own logger, to a server that is away for some seconds in the middle; some of their
processes are killed and resumed. All metrics are then read back.

MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python scripts/bench/registry_mlflow.py --runs 200 --promotions 20
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import yaml

EXPERIMENT = f"bench-{os.getpid()}"


def main() -> None:
    """Measure, and print what was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--killed", type=int, default=2, help="processes that are killed and resumed")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--metrics", type=int, default=10)
    parser.add_argument("--away", type=float, default=20.0, help="seconds for which the server does not answer")
    parser.add_argument("--promotions", type=int, default=20)
    parser.add_argument("--worker", nargs=3, metavar=("FOLDERS", "FIRST", "URI"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        folders, first, uri = given.worker
        log_runs(json.loads(folders), int(first), given.steps, given.metrics, uri)
        return
    uri = os.environ["MLFLOW_TRACKING_URI"]
    with tempfile.TemporaryDirectory() as folder:
        measure_runs(Path(folder) / "runs", uri, given)
        race(Path(folder) / "teams", given.promotions)


def value_of(run: int, metric: int, step: int) -> float:
    """Return a metric's value."""
    return random.Random(f"{run} {metric} {step}").random()  # noqa: S311 - any numbers will do


def log_runs(folders: list[str], first: int, steps: int, metrics: int, uri: str) -> None:
    """Log runs at once, as so many trainings would.

    Args:
        folders: of the runs, named by their numbers.
        first: step to begin with.
        steps: to log.
        metrics: a step.
        uri: address of the server.
    """
    from classifier_training.core.run_dir import RunDir
    from classifier_training.training.mlflow_logger import MlflowLogger

    loggers = [MlflowLogger(RunDir(Path(folder)), uri, os.environ["EXPERIMENT"], log_model=False) for folder in folders]
    for step in range(first, steps):
        for logger, folder in zip(loggers, folders, strict=True):
            run = int(Path(folder).name)
            logger.log_metrics({f"val/metric_{number}": value_of(run, number, step) for number in range(metrics)}, step)
        print(step, flush=True)
        time.sleep(1.0)
    for logger in loggers:
        logger.close("success")


class Proxy:
    """Passes connections on to a server, unless it is switched off."""

    def __init__(self, uri: str) -> None:
        address = urlsplit(uri)
        self.host, self.port = address.hostname, address.port or 80
        self.is_off = False
        self.own_port = 0
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True).start()
        ready.wait()

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.own_port = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_off:
            writer.close()
            return
        there, back = await asyncio.open_connection(self.host, self.port)
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not self.is_off and (data := await reader.read(65_536)):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


def measure_runs(root: Path, uri: str, given: argparse.Namespace) -> None:
    """Log all runs and read their metrics back."""
    from mlflow import MlflowClient

    folders = [root / str(number) for number in range(given.runs)]
    for folder in folders:
        folder.mkdir(parents=True)
        config = {"model": {"type": "resnet18"}, "data": {"root": "/data/animals"}, "seed": 1}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    proxy = Proxy(uri)
    groups = [[str(folder) for folder in folders[start :: given.processes]] for start in range(given.processes)]

    def start(group: list[str], first: int) -> subprocess.Popen[str]:
        words = ["--steps", str(given.steps), "--metrics", str(given.metrics)]
        where = ["--worker", json.dumps(group), str(first), f"http://127.0.0.1:{proxy.own_port}"]
        environment = {**os.environ, "EXPERIMENT": EXPERIMENT}
        return subprocess.Popen(
            [sys.executable, __file__, *words, *where], stdout=subprocess.PIPE, text=True, env=environment
        )

    def follow(number: int) -> None:
        worker = start(groups[number], 0)
        assert worker.stdout is not None
        for line in worker.stdout:
            if number < given.killed and int(line) == given.steps // 2 + number:
                worker.kill()
                worker.wait()
                # As a training that resumes from its last checkpoint, it does one epoch again.
                worker = start(groups[number], int(line))
                break
        worker.communicate()

    began = time.perf_counter()
    watchers = [threading.Thread(target=follow, args=(number,)) for number in range(given.processes)]
    for watcher in watchers:
        watcher.start()
    while not all((folder / "mlflow/metrics.jsonl").exists() for folder in folders):
        time.sleep(0.5)
    time.sleep(given.steps / 4)
    proxy.is_off = True
    time.sleep(given.away)
    proxy.is_off = False
    for watcher in watchers:
        watcher.join()
    seconds = time.perf_counter() - began
    late = sum(send_late(folder, f"http://127.0.0.1:{proxy.own_port}") for folder in folders)
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=10_000)
    numbers = {run.info.run_id: int(run.info.run_name) for run in found}
    asked = [(run_id, number) for run_id in numbers for number in range(given.metrics)]

    def read(one: tuple[str, int]) -> tuple[int, int]:
        run_id, number = one
        points = Counter(
            (point.step, point.value) for point in client.get_metric_history(run_id, f"val/metric_{number}")
        )
        wanted = {(step, value_of(numbers[run_id], number, step)) for step in range(given.steps)}
        return len(wanted - points.keys()), sum(points.values()) - len(wanted & points.keys())

    with ThreadPoolExecutor(8) as pool:
        lost, extra = (sum(column) for column in zip(*pool.map(read, asked), strict=True))
    lost += (given.runs - len(set(numbers.values()))) * given.metrics * given.steps
    number = given.runs * given.metrics * given.steps
    print(
        f"{given.runs} runs at once in {given.processes} processes, {given.killed} of them killed and resumed, server "
        f"away for {given.away:.0f} s: {number:,} metrics, {lost} lost, {extra} twice, {late} of "
        f"them sent after the end of their run, as they said; "
        f"{len(numbers)} runs on the server; {seconds:.0f} s"
    )


def send_late(folder: Path, uri: str) -> int:
    """Send what a run could not send before its end, as `registry publish` does; returns how many metrics."""
    from classifier_training.core.run_dir import RunDir
    from classifier_training.registry.mlflow_outbox import Outbox
    from classifier_training.registry.mlflow_server import connect

    outbox = Outbox(RunDir(folder), uri, EXPERIMENT)
    number = outbox.num_unsent
    if number:
        server = connect(uri, purpose="the bench")
        outbox.open(server)
        outbox.send(server)
    return number


def race(root: Path, number: int) -> None:
    """Promote runs of as many people to the same alias at once."""
    from mlflow import MlflowClient

    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.runs import make_run

    from classifier_training import cli  # noqa: F401 - fills the register
    from classifier_training.conf.compose import compose
    from classifier_training.core.errors import UserError
    from classifier_training.core.register import entry

    context = multiprocessing.get_context("fork")
    name, promote = f"race-{os.getpid()}", entry("registry", "promote")
    barrier, outcomes = context.Barrier(number), context.Queue()

    def take_part(person: int) -> None:
        run = make_run(root / str(person), "2026-01-02/10-00-00", name=name)
        (run / "model.onnx").write_bytes(os.urandom(1000))
        words = [f"run={run}", "alias=production", f"output={root / str(person)}", "publish=mlflow"]
        arguments = compose(promote, words)
        barrier.wait()
        try:
            outcomes.put((person, True, str(promote.run(arguments))))
        except UserError as error:
            outcomes.put((person, False, error.came))

    racers = [context.Process(target=take_part, args=(person,)) for person in range(number)]
    for racer in racers:
        racer.start()
    told = [outcomes.get() for _ in racers]
    for racer in racers:
        racer.join()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    client = MlflowClient(uri, uri)
    holder = client.get_model_version_by_alias(name, "production").version
    won = [words for _, is_holder, words in told if is_holder]
    beaten = [words for _, is_holder, words in told if not is_holder and "in the meantime" in words]
    others = [words for _, is_holder, words in told if not is_holder and "in the meantime" not in words]
    print(
        f"{number} racing promotions: the alias is held by version {holder}; {len(won)} told that they hold it, "
        f"{len(beaten)} told that another was promoted in the meantime, {len(others)} told something else"
    )
    for words in (*won, *others):
        print("  " + " | ".join(words.splitlines()[-4:] if len(words.splitlines()) > 4 else words.splitlines()))


if __name__ == "__main__":
    main()
