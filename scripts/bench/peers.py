"""Compare `classifier-training train` with fastai: whole processes, taken in turn, with the same seeds and splits.

Each contestant trains a resnet18 from scratch on the same files and is timed from the start of its process to the end,
with everything it does by default. The peers live in a virtual environment of their own, made by uv and compiled to
bytecode like ours. Runs are added to those that the output file has, so seeds can be measured one at a time. Run it
with the Python that classifier-training is installed for:

    python scripts/bench/peers.py digits --seeds 1 2 3 4 5 --output digits.json
    python scripts/bench/peers.py longtail --archive cifar10_longtail.tar --seeds 1 --output longtail.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers_contestants import (
    BATCH_SIZE,
    FASTAI,
    LEFT_OUT,
    OURS,
    TASKS,
    Contestant,
    Score,
    Task,
    fastai,
    make_environment,
    ours,
    unpack,
    write_digits,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_DISTURBED = 0.15
"""CPU seconds of other programs in a second of a run, above which its time is not to be trusted."""


@dataclass(frozen=True)
class Run:
    """One timed process; `other_cpu_seconds` is what the rest of the machine computed meanwhile, None if unknown."""

    seed: int
    seconds: float
    cpu_seconds: float
    other_cpu_seconds: float | None
    score: Score


def measure(contestant: Contestant, seed: int, threads: int, label: str) -> Run:
    """Run a contestant once in a folder of its own, time it and say so."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    # Our own sources shall be compiled once, as they are for whoever installs them.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        with (folder / "stdout.txt").open("wb") as out, (folder / "stderr.txt").open("wb") as err:
            before, machine_before, started = os.times(), machine_cpu_seconds(), time.monotonic()
            done = subprocess.run(
                contestant.command(seed, folder), stdout=out, stderr=err, env=environment, check=False
            )
            seconds, machine_after, after = time.monotonic() - started, machine_cpu_seconds(), os.times()
        if done.returncode:
            words = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace")
            sys.exit(f"{contestant.name} ended with {done.returncode}:\n{words[-4000:]}")
        score = contestant.read(folder)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    other = None if machine_before is None or machine_after is None else max(0.0, machine_after - machine_before - cpu)
    run = Run(seed, seconds, cpu, other, score)
    print(
        f"{label:<18} {contestant.name:<20} seed {seed}  {seconds:6.1f} s, fit {score.fit_seconds:5.1f} s, "
        f"others' CPU {'?' if other is None else f'{other:.1f}'} s, val {score.val_accuracy:.4f}, "
        f"test balanced {score.test_balanced_accuracy:.4f}",
        flush=True,
    )
    return run


def machine_cpu_seconds() -> float | None:
    """CPU seconds used by all processes, or by the host instead of them, since the start; None if not Linux."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = (int(field) for field in fields[:8])
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def faster_workers(task: Task, data: Path, python: Path, candidates: Sequence[int | None], threads: int) -> int | None:
    """Run fastai once with each number of loader processes, twice where there is a choice; returns the fastest."""
    best: dict[int | None, float] = {}
    for trial in range(min(len(candidates), 2)):
        for workers in candidates:
            label = f"workers {'own choice' if workers is None else workers}"
            seconds = measure(fastai(task, data, python, workers), trial, threads, label).seconds
            best[workers] = min(seconds, best.get(workers, seconds))
    return min(best, key=lambda workers: best[workers])


def summary(runs: Mapping[str, Sequence[Run]]) -> str:
    """Table of all contestants and the paired ratios of their times, as text."""
    layout = "{:<20} {:>2}  {:>27}  {:>6}  {:>24}  {:>24}".format
    wall_title = "wall s: min / median / max"
    lines = [layout("contestant", "n", wall_title, "fit s", "validation accuracy", "test balanced accuracy")]
    for name, done in runs.items():
        wall = [run.seconds for run in done]
        times = f"{min(wall):.1f} / {statistics.median(wall):.1f} / {max(wall):.1f}"
        fit = f"{statistics.median(run.score.fit_seconds for run in done):.1f}"
        val = spread([run.score.val_accuracy for run in done])
        test = spread([run.score.test_balanced_accuracy for run in done])
        lines.append(layout(name, len(done), times, fit, val, test))
    ratios, gains = paired_ratios(runs), paired_gains(runs)
    median, low, high = statistics.median(ratios), min(ratios), max(ratios)
    lines.append(f"wall time {OURS} / {FASTAI}, paired: median {median:.3f} (min {low:.3f}, max {high:.3f})")
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    lines.append(
        f"test balanced accuracy {OURS} - {FASTAI}, paired: mean {statistics.fmean(gains):+.4f} "
        f"(min {min(gains):+.4f}, max {max(gains):+.4f}, standard error {error:.4f})"
    )
    everything = [run for done in runs.values() for run in done]
    shared = [run for run in everything if (run.other_cpu_seconds or 0) > MOST_DISTURBED * run.seconds]
    if shared:
        lines.append(
            f"warning: other programs kept over {MOST_DISTURBED:.0%} of a core busy in {len(shared)} of "
            f"{len(everything)} runs; those times say little"
        )
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean, smallest and largest."""
    return f"{statistics.fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def pairs(runs: Mapping[str, Sequence[Run]]) -> list[tuple[Run, Run]]:
    """Our run and fastai's of each seed that both have."""
    theirs = {run.seed: run for run in runs[FASTAI]}
    return [(mine, theirs[mine.seed]) for mine in runs[OURS] if mine.seed in theirs]


def paired_ratios(runs: Mapping[str, Sequence[Run]]) -> list[float]:
    """Our wall time over fastai's for each seed."""
    return [mine.seconds / other.seconds for mine, other in pairs(runs)]


def paired_gains(runs: Mapping[str, Sequence[Run]]) -> list[float]:
    """Our balanced accuracy on test less fastai's for each seed."""
    return [mine.score.test_balanced_accuracy - other.score.test_balanced_accuracy for mine, other in pairs(runs)]


def read_runs(output: Path, setting: Mapping[str, Any]) -> dict[str, list[Run]]:
    """Read the runs that an output file has; ends the program when they are of another setting."""
    if not output.exists():
        return {OURS: [], FASTAI: []}
    found = json.loads(output.read_text(encoding="utf-8"))
    if found["setting"] != setting:
        sys.exit(f"{output} has runs of another setting, {found['setting']}: choose another --output")
    return {
        name: [Run(**{**run, "score": Score(**run["score"])}) for run in done] for name, done in found["runs"].items()
    }


def machine(threads: int) -> dict[str, Any]:
    """Describe the computer and the load it had before the measurement."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "platform": platform.platform(),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    """Prepare data and environment, choose fastai's workers, measure in turn, print the table."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS, help="what is trained on")
    parser.add_argument("--archive", type=Path, help="tar of a folder with train, val and test, for longtail")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5], help="of the runs of each contestant")
    parser.add_argument("--threads", type=int, default=2, help="cores and OpenMP threads of every contestant")
    parser.add_argument("--env", type=Path, default=cache / "classifier-training-bench" / "peers")
    parser.add_argument("--fastai-workers", type=int, help="its loader processes; own choice or 0 by trial if left out")
    parser.add_argument("--ours", nargs="+", default=[], metavar="KEY=VALUE", help="more settings for ours")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all runs, to which these are added")
    options = parser.parse_args()
    task = TASKS[options.task]
    if (options.archive is None) == (options.task == "longtail"):
        sys.exit("--archive belongs to longtail, which cannot do without")

    python = make_environment(options.env.absolute())
    computer = machine(options.threads)
    if hasattr(os, "sched_setaffinity"):
        # Children inherit it: nobody gets more cores than threads.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    with tempfile.TemporaryDirectory(prefix="peers-data-") as name:
        data = Path(name)
        if options.archive is None:
            write_digits(data, task.image_size)
        else:
            data = unpack(options.archive, data)
        workers = options.fastai_workers
        if workers is None:
            # These runs also fill caches: files, fonts, our own bytecode.
            measure(ours(task, data, options.ours), 0, options.threads, "warm-up")
            workers = faster_workers(task, data, python, (0, None), options.threads)
        setting = {
            **asdict(task),
            "model": "resnet18 from scratch",
            "batch_size": BATCH_SIZE,
            "ours": options.ours,
            "fastai_workers": "its own choice" if workers is None else workers,
        }
        runs = read_runs(options.output, setting)
        for seed in options.seeds:
            for contestant in (ours(task, data, options.ours), fastai(task, data, python, workers)):
                if all(run.seed != seed for run in runs[contestant.name]):
                    runs[contestant.name].append(measure(contestant, seed, options.threads, task.name))
                    write_results(options.output, setting, computer, runs)

    if not pairs(runs):
        sys.exit("no seed has both runs yet: run it again")
    programs = {name: {"device": done[0].score.device, **done[0].score.versions} for name, done in runs.items()}
    print(f"\n{summary(runs)}\n{LEFT_OUT}\n")
    for title, facts in {"setting": setting, "machine": computer, **programs}.items():
        print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in facts.items()))


def write_results(
    output: Path, setting: Mapping[str, Any], computer: Mapping[str, Any], runs: Mapping[str, Sequence[Run]]
) -> None:
    """Write all runs so far, so that an interrupt costs one of them."""
    results = {
        "setting": setting,
        "machine": computer,
        "runs": {name: [asdict(run) for run in done] for name, done in runs.items()},
        "wall_time_ratios": paired_ratios(runs),
        "left_out": LEFT_OUT,
    }
    output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
