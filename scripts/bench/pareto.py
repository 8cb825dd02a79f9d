"""The walk of `benchmark` with wishes against measuring every file: which one each chooses, and what it takes.

Two networks are trained on a folder of images. Then, for each limit on the loss of accuracy, the walk looks for the
fastest file; and all files are made, timed and scored on all images, among which the fastest is chosen. Both begin with
nothing made, use the same code to make, time and score a file, and end with the choice; afterwards the chosen file is
shipped, which takes both as long, and timed with all repetitions.

    python scripts/bench/pareto.py --data /my/images --output pareto.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers import machine

from classifier_training.cli import perform
from classifier_training.core.run_dir import write_json
from classifier_training.core.runtime import log_to_screen, num_cores
from classifier_training.core.types import TEST
from classifier_training.export.pareto import CannotMakeError, Option, Wishes, walk
from classifier_training.workflows.serving.benchmark_files import FileMeasures
from classifier_training.workflows.serving.benchmark_runs import SplitPixels, common_table, read_runs
from classifier_training.workflows.serving.benchmark_wishes import prepare

MAX_DROP = 6.0
NUM_RUNS = 30


def train(data: Path, output: Path) -> list[str]:
    """Train the two networks, and return their run folders."""
    common = [f"data.root={data}", "data.follow_links=true", f"output={output}", "callbacks=[checkpoint,onnx_export]"]
    large = perform("train", [*common, "data.image_size=160", "trainer.max_epochs=2"])
    small = perform("train", [*common, "data.image_size=128", "trainer.max_epochs=4", "model=student"])
    return [str(result.run_dir.path) for result in (large, small)]


class Search:
    """One search for a file, with nothing made before it.

    Args:
        runs: folders of the runs.
        wishes: to meet.
        num_images: to score files on.
        threads: of each file.
        scratch: folder for temporary files.
    """

    def __init__(self, runs: list[str], wishes: Wishes, num_images: int, threads: int, scratch: Path) -> None:
        scratch.mkdir()
        opened, samples = read_runs(runs, None)
        for run in opened:
            # Loading PyTorch is no part of what is compared.
            run.network.eval()
        table = common_table(opened, samples, TEST, None, num_images)
        self.wishes = wishes
        self.began = time.perf_counter()
        self.measures = FileMeasures(
            runs=opened,
            images=SplitPixels(table, opened[0].info.preprocessing, scratch),
            reference=Option(run=0, image_size=opened[0].image_size, form="onnx"),
            max_drop=wishes.max_drop,
            threads=threads,
            num_runs=NUM_RUNS,
            scratch=scratch,
        )
        self.options, _ = prepare(self.measures, wishes, ("onnx", "int8"), None)

    def walk(self) -> Option | None:
        """Choose a file by the walk."""
        chosen = walk(self.options, self.wishes, self.measures, is_shipped=False).chosen
        return None if chosen is None else chosen.option

    def exhaustive(self) -> Option | None:
        """Choose a file by measuring all of them."""
        good = []
        for option in self.options:
            try:
                drop, cost = self.measures.drop(option, limit=None), self.measures.cost(option)
            except CannotMakeError as error:
                print(f"  {option.image_size} px, {option.form}: {error}", flush=True)
                continue
            ms = cost.timing.median_ms
            print(f"  {self.name(option)}: {ms:.2f} ms, may lose {drop.bound:.2f} points", flush=True)
            if (
                drop.bound <= self.wishes.max_drop
                and ms <= self.wishes.max_ms
                and (cost.size_bytes <= self.wishes.max_bytes)
            ):
                good.append((ms, cost.size_bytes, option))
        chosen = min(good, key=lambda row: row[:2], default=None)
        return None if chosen is None else chosen[2]

    def name(self, option: Option) -> str:
        """A short name of a file."""
        run = self.measures.runs[option.run]
        return f"{run.info.architecture} {option.image_size} px {option.form}"

    def result(self, option: Option | None) -> dict[str, Any]:
        """What was chosen, and what it took."""
        seconds = time.perf_counter() - self.began
        counts = {name: getattr(self.measures, name) for name in ("num_made", "num_timed", "num_predicted")}
        confirmed = None if option is None else self.measures.confirm(option)
        return {
            "chosen": None if option is None else self.name(option),
            "ms": None if confirmed is None else confirmed[0].timing.median_ms,
            "bound": None if confirmed is None else confirmed[1].bound,
            "num_options": len(self.options),
            **counts,
            "seconds": seconds,
        }


def row(title: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    ms = "" if found["ms"] is None else f"{found['ms']:.2f} ms"
    return (
        f"{title:<11} {found['chosen'] or 'none':<40} {ms:>9}  made {found['num_made']:>2}  timed "
        f"{found['num_timed']:>2}  images {found['num_predicted']:>5}  {found['seconds']:6.1f} s"
    )


def main() -> None:
    """Train, search in both ways, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of images, with train, val and test")
    parser.add_argument("--runs", nargs="*", default=[], help="finished runs, in place of those that are trained")
    parser.add_argument("--images", type=int, default=300, help="images of the test split to score files on")
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--max-drop", type=float, nargs="*", default=[MAX_DROP], help="a search of both kinds for each")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    log_to_screen()
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        runs = options.runs or train(options.data, scratch / "outputs")
        measured, lines = [], []
        for number, max_drop in enumerate(options.max_drop):
            wishes = Wishes(max_drop=max_drop)
            found = {}
            for title in ("walk", "exhaustive"):
                folder = scratch / f"{title}_{number}"
                search = Search(runs, wishes, options.images, options.threads, folder)
                found[title] = search.result(getattr(search, title)())
            lines += [f"max_drop={max_drop:g}, {found['walk']['num_options']} files"]
            lines += [row(title, found[title]) for title in found]
            shares = {
                name: found["walk"][name] / found["exhaustive"][name]
                for name in ("seconds", "num_made", "num_timed", "num_predicted")
            }
            lines.append("share:      " + "  ".join(f"{name} {share:.2f}" for name, share in shares.items()))
            if found["walk"]["chosen"] != found["exhaustive"]["chosen"] and None not in (
                found["walk"]["ms"], found["exhaustive"]["ms"],
            ):  # fmt: skip
                lines.append(f"another file; latency {found['walk']['ms'] / found['exhaustive']['ms']:.3f}x")
            measured.append({"wishes": asdict(wishes), **found, "shares": shares})
            write_json(options.output, {"machine": machine(options.threads), "searches": measured})
    print("\n".join(lines))


if __name__ == "__main__":
    main()
