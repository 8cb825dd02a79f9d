"""How many wrong labels `analyze run=` finds among the first, and how much accuracy their correction gives back.

Labels of the training and validation images are flipped: at random, or into classes that their own is confused with.
The features are those of the frozen ImageNet weights (a run with transfer=linear_probe), the ranking is that of
`analyze run=` for training images. cleanlab ranks by the same probabilities. The accuracy is that of softmax regression
on the test images, whose labels stay.

    python scripts/bench/label_errors.py --set rooms=/data/rooms cifar=/data/cifar:96 --work WORK --seeds 3
    python scripts/bench/label_errors.py --run RUN --flips corrections.csv

A set is a folder with train, val and test, and perhaps an image size. WORK keeps what was measured: cells that are
there are not measured again. The second form reads the list that `analyze run=RUN` wrote for a run that was trained
with the flips of a corrections.csv.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import TEST
from classifier_training.evaluation.label_quality import PENALTY, cross_fitted, find_label_issues
from classifier_training.workflows.evaluating.features import run_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PROGRAM = str(Path(sys.executable).with_name("classifier-training"))
SHARES, KINDS = (0.05, 0.2), ("random", "confusion")
JUDGED = (0.1, 0.25, 0.4)
"""Shares of the list that the oracle judges."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What was measured with one set of flips.

    Args:
        data: name of the set.
        kind: of the flips.
        share: of the labels that are flipped.
        seed: of the flips.
        found: share of the flips in the first 10 % of the ranking.
        cleanlab: the same of cleanlab's ranking: its label issues by self-confidence, then the other images.
        precision: average precision of the ranking.
        cleanlab_precision: the same of cleanlab's.
        doubtful: labels that are called doubtful, over the flips.
        clean: balanced accuracy on test of a head that is fitted to the labels before the flips.
        flipped: of one that is fitted to the flips.
        after_10: of one after the first 10 % were judged, and so on.
        after_25: as above.
        after_40: as above.
        random_25: after a random 25 % were judged.
    """

    data: str
    kind: str
    share: float
    seed: int
    found: float
    cleanlab: float
    precision: float
    cleanlab_precision: float
    doubtful: float
    clean: float
    flipped: float
    after_10: float
    after_25: float
    after_40: float
    random_25: float

    @property
    def key(self) -> tuple[str, ...]:
        """What names the cell."""
        return self.data, self.kind, str(self.share), str(self.seed)


def frozen_features(data: str, output: Path) -> RunDir:
    """Return the run whose network is the frozen one, trained where it is not there yet."""
    folder, _, size = data.partition(":")
    found = sorted(output.glob("*/*/result.json"))
    if not found:
        words = [f"data.root={folder}", "data.follow_links=true", "transfer=linear_probe", f"output={output}"]
        subprocess.run([PROGRAM, "train", *words, *([f"data.image_size={size}"] if size else [])], check=True)
        found = sorted(output.glob("*/*/result.json"))
    return RunDir(found[-1].parent)


def flip(
    targets: NDArray[np.int64], share: float, confused: NDArray[np.floating[Any]] | None, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Flip labels: to any other class or, with probabilities [N, K], to the classes that the true class resembles."""
    num_classes = int(targets.max()) + 1
    chances = np.ones((num_classes, num_classes))
    if confused is not None:
        chances = np.stack([confused[targets == number].mean(axis=0) for number in range(num_classes)])
    np.fill_diagonal(chances, 0)
    chances /= chances.sum(axis=1, keepdims=True)
    flipped = targets.copy()
    for row in generator.choice(len(targets), round(share * len(targets)), replace=False):
        flipped[row] = generator.choice(num_classes, p=chances[targets[row]])
    return flipped


def found_first(order: NDArray[np.int64], is_wrong: NDArray[np.bool_], share: float = 0.1) -> float:
    """Share of the wrong labels among the first of a ranking."""
    return float(is_wrong[order[: round(share * len(order))]].sum() / is_wrong.sum())


def average_precision(order: NDArray[np.int64], is_wrong: NDArray[np.bool_]) -> float:
    """Mean precision at the places of the wrong labels."""
    hits = is_wrong[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def cleanlab_order(targets: NDArray[np.int64], probabilities: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Rank as cleanlab does: its label issues by self-confidence, then all other images by it."""
    from cleanlab.filter import find_label_issues as find
    from cleanlab.rank import get_label_quality_scores

    issues = find(targets, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    rest = np.argsort(get_label_quality_scores(targets, probabilities, method="self_confidence"), kind="stable")
    return np.concatenate([issues, rest[~np.isin(rest, issues)]]).astype(np.int64)


def measure(run: RunDir, name: str, wanted: Sequence[tuple[str, float, int]], done: Path) -> None:
    """Measure cells of one set, each of which becomes a line of the file."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = run_features(run)
    is_test = np.array([split == TEST for split in features.splits])
    values, true = features.values[~is_test].astype(np.float32), features.targets[~is_test]
    test_values, test_true = features.values[is_test].astype(np.float32), features.targets[is_test]
    num_classes, rows = len(features.class_names), list(range(len(true)))

    def score(labels: NDArray[np.int64]) -> float:
        head = LogisticRegression(C=1 / (PENALTY * len(labels)), class_weight="balanced", max_iter=100)
        model = make_pipeline(StandardScaler(), head).fit(values, labels)
        return float(balanced_accuracy_score(test_true, model.predict(test_values)))

    confused = cross_fitted(values, true, rows, num_classes)
    clean = score(true)
    for kind, share, seed in wanted:
        generator = np.random.default_rng(seed)
        labels = flip(true, share, confused if kind == "confusion" else None, generator)
        is_wrong = labels != true
        probabilities = cross_fitted(values, labels, rows, num_classes)
        issues = find_label_issues(labels, probabilities)
        order = np.argsort(issues.quality, kind="stable")
        other = cleanlab_order(labels, probabilities)

        def judged(first: NDArray[np.int64], labels: NDArray[np.int64] = labels) -> float:
            corrected = labels.copy()
            corrected[first] = true[first]
            return score(corrected)

        after = [judged(order[: round(part * len(order))]) for part in JUDGED]
        cell = Cell(
            data=name, kind=kind, share=share, seed=seed,
            found=found_first(order, is_wrong), cleanlab=found_first(other, is_wrong),
            precision=average_precision(order, is_wrong), cleanlab_precision=average_precision(other, is_wrong),
            doubtful=len(issues.rows) / int(is_wrong.sum()),
            clean=clean, flipped=score(labels), after_10=after[0], after_25=after[1], after_40=after[2],
            random_25=judged(generator.permutation(len(order))[: round(0.25 * len(order))]),
        )  # fmt: skip
        is_new = not done.exists()
        with done.open("a", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Cell)])
            if is_new:
                writer.writeheader()
            writer.writerow(asdict(cell))
        print(f"{name} {kind} {share:.0%} seed {seed}: {cell.found:.3f}, cleanlab {cell.cleanlab:.3f}", flush=True)


def read(done: Path) -> list[Cell]:
    """Read what was measured."""
    if not done.exists():
        return []
    with done.open(newline="") as file:
        return [
            Cell(**{k: v if k in ("data", "kind") else int(v) if k == "seed" else float(v) for k, v in row.items()})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


def summarize(cells: Sequence[Cell]) -> None:
    """Print the means over seeds."""
    groups: dict[tuple[str, float, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.data, cell.share, cell.kind].append(cell)

    def mean(chosen: Sequence[Cell], name: str) -> float:
        return statistics.fmean(getattr(cell, name) for cell in chosen)

    print("set, flips, n | in the first 10 %, cleanlab | average precision, cleanlab | doubtful over flips |")
    print(
        "balanced accuracy clean, flipped, after 10 / 25 / 40 % judged, 25 % at random | share that came back at 25 %"
    )
    for (data, share, kind), chosen in sorted(groups.items()):
        scores = {name: mean(chosen, name) for name in Cell.__dataclass_fields__ if name not in ("data", "kind")}
        lost = scores["clean"] - scores["flipped"]
        back = f"{(scores['after_25'] - scores['flipped']) / lost:.0%}" if lost > 0 else "nothing lost"
        print(
            f"{data}, {share:.0%} {kind}, {len(chosen)} | {scores['found']:.1%}, {scores['cleanlab']:.1%} | "
            f"{scores['precision']:.3f}, {scores['cleanlab_precision']:.3f} | {scores['doubtful']:.2f} | "
            f"{scores['clean']:.4f}, {scores['flipped']:.4f}, {scores['after_10']:.4f} / {scores['after_25']:.4f} / "
            f"{scores['after_40']:.4f}, {scores['random_25']:.4f} | {back}"
        )


def check_run(run: RunDir, flips: Path) -> None:
    """Print how many of a corrections.csv's flips are in the first 10 % of a run's list, by split."""
    with flips.open(newline="") as file:
        wrong = {row["path"] for row in csv.DictReader(file) if row["action"] == "relabel"}
    with (run.label_issues / "label_issues.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] != TEST]
    rows.sort(key=lambda row: float(row["label_quality"] or "nan"))
    for splits in (("train", "val"), ("train",), ("val",)):
        chosen = [row for row in rows if row["split"] in splits]
        is_wrong = np.array([any(row["path"].endswith(f"/{path}") for path in wrong) for row in chosen])
        order = np.arange(len(chosen))
        print(
            f"{' and '.join(splits)}: {found_first(order, is_wrong):.1%} of {int(is_wrong.sum())} flips in the first "
            f"10 % of {len(chosen):,} images; average precision {average_precision(order, is_wrong):.3f}"
        )


def main() -> None:
    """Measure what is missing, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=FOLDER[:SIZE]", dest="sets")
    parser.add_argument("--work", type=Path, help="folder that is kept between calls")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run", type=Path, help="a run that analyze has judged")
    parser.add_argument("--flips", type=Path, help="the corrections.csv that it was trained with")
    options = parser.parse_args()
    if options.run is not None:
        check_run(RunDir(options.run), options.flips)
        return
    work = options.work.absolute()
    done = work / "measured.csv"
    for one in options.sets:
        name, _, data = one.partition("=")
        there = {cell.key for cell in read(done)}
        cells = [(kind, share, seed) for seed in range(options.seeds) for share in SHARES for kind in KINDS]
        wanted = [cell for cell in cells if (name, *map(str, cell)) not in there]
        if wanted:
            measure(frozen_features(data, work / name), name, wanted, done)
    summarize(read(done))


if __name__ == "__main__":
    main()
