"""Forecast the recall of each class from a fifth of the training images, and compare with what all of them give.

Features of the pretrained network are computed once and kept in WORK. Then, for each repeat: a fifth of the training
images of each class is drawn, as well as the validation images (as many as the data set has, from its validation and
test images); the recall of the head that is fitted to all training images, on the held-out images that are left, is
forecast from these. Printed are the share of classes whose recall was within the 90 % interval, the mean width of the
interval, and the same for three other forecasts. With --one-class only one class is cut to a fifth, each in turn.

    python scripts/bench/learning_curve.py --data FOLDER [FOLDER ...] --work WORK --repeats 20

FOLDER holds train, val and test, each with a folder for every class. With --pairs RUN LARGER [RUN LARGER ...] finished
runs are compared instead: the recall of LARGER, which was trained on more images, with the forecast of RUN.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import curve_fit

from classifier_training.conf.compose import compose
from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir
from classifier_training.core.run_reader import read_values
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.evaluation.learning_curve import FINE_TUNED_SPREAD, read_points
from classifier_training.evaluation.learning_law import CurvePoints, LearningCurves
from classifier_training.training.learning_curve import MIN_IN_PART, measure_curve
from classifier_training.training.linear_head import Features, extract_features, fit_linear_head
from classifier_training.workflows.training.fit import make_module
from classifier_training.workflows.training.inputs import read_inputs
from classifier_training.workflows.training.job import open_job
from classifier_training.workflows.training.network import prepare
from classifier_training.workflows.training.resolve import resolve_auto
from classifier_training.workflows.training.settings import TrainSettings
from classifier_training.workflows.training.start import begin

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAILS = (0.05, 0.95)
NUM_SAMPLES = 4_000


def features_of(data: Path, work: Path, words: list[str]) -> tuple[list[str], dict[str, Features]]:
    """Names of the classes, and the features of the three splits: those that a run computes, or computed before."""
    kept = work / f"{data.name}.pt"
    if not kept.exists():
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as output, ExitStack() as stack:
            words = [f"data.root={data}", f"output={output}", "data.follow_links=true", "data.store=off", *words]
            begun = begin(TrainSettings(**compose(entry("verb", "train"), words)), (), stack)
            inputs = read_inputs(begun)
            job = resolve_auto(open_job(begun, inputs, prepare(begun, inputs)))
            module = make_module(job)
            found = {
                split: vars(
                    extract_features(module, job.datamodule.evaluation_loader(split), job.device, setting="features")
                )
                for split in (TRAIN, VAL, TEST)
            }
            torch.save({"names": job.run.class_names, **found}, kept)
    found = torch.load(kept)
    names = list(found.pop("names"))
    return names, {split: Features(**values) for split, values in found.items()}


def split_held_out(features: dict[str, Features], generator: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """Draw as many validation images of each class as there are from those of validation and test; rows of both."""
    targets = torch.cat([features[VAL].targets, features[TEST].targets]).numpy()
    counts = np.bincount(features[VAL].targets.numpy())
    order = generator.permutation(len(targets))
    first = np.concatenate([order[targets[order] == number][:most] for number, most in enumerate(counts)])
    return first, np.setdiff1d(order, first)


def cut(targets: NDArray[np.int64], share: float, only: int | None, generator: np.random.Generator) -> torch.Tensor:
    """Draw a share of the images of each class, or of one class besides all images of the others; their rows."""
    kept = []
    for number, count in enumerate(np.bincount(targets)):
        rows = generator.permutation(np.flatnonzero(targets == number))
        kept.append(rows[: max(int(np.ceil(count * share)), MIN_IN_PART)] if only in (None, number) else rows)
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def lone_law(points: CurvePoints, place: int, growth: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Recall by least squares: errors = a * x ** -b + c of this class alone, with the uncertainty of the fit."""
    errors = points.errors[place] / points.held_out[place]
    shares = points.sizes[place] / points.images_now[place]

    def law(x: NDArray[np.float64], a: float, b: float, c: float) -> NDArray[np.float64]:
        return a * x**-b + c

    spread = np.sqrt((errors * (1 - errors) + 0.01) / points.held_out[place])
    found, covariance = curve_fit(
        law, shares, errors, p0=(0.5 * errors[-1] + 0.01, 0.5, 0.5 * errors[-1]), sigma=spread, absolute_sigma=True,
        bounds=([0, 0, 0], [2, 3, 1]), maxfev=5_000,
    )  # fmt: skip
    drawn = generator.multivariate_normal(found, covariance, NUM_SAMPLES, method="eigh", check_valid="ignore")
    return 1 - np.clip(law(np.array(growth), *drawn.clip(0, 3).T), 0, 1)


def forecasts(points: CurvePoints, place: int, growth: float) -> dict[str, NDArray[np.float64]]:
    """Samples of the recall of a class with so many times the images, by each way."""
    generator, to = np.random.default_rng(0), np.array([1.0, growth])
    wrong, number = points.errors[place, -1], points.held_out[place]
    return {
        "learning curves": LearningCurves(points).sample(place, to)[0][:, 1],
        "each class alone": LearningCurves(points, shares=False).sample(place, to)[0][:, 1],
        "least squares": lone_law(points, place, growth, generator),
        "no change": generator.beta(number - wrong + 0.5, wrong + 0.5, NUM_SAMPLES),
    }


def measure(features: dict[str, Features], names: list[str], share: float, repeats: int, *, one_class: bool) -> None:
    """Print how often each way was right.

    Args:
        features: of each split.
        names: of the classes.
        share: of the training images that is forecast from.
        repeats: draws of it.
        one_class: whether only one class is cut, each in turn.
    """
    train, number = features[TRAIN], len(names)
    held_out = Features(*(torch.cat([getattr(features[split], name) for split in (VAL, TEST)]) for name in vars(train)))
    targets, true = train.targets.numpy(), held_out.targets.numpy()
    counts = np.bincount(targets, minlength=number)
    weights = torch.from_numpy(1 / counts).float()
    full = fit_linear_head(train, features[VAL], class_weights=weights, num_classes=number, has_bias=True)
    right = (full.logits(held_out.values).argmax(dim=1) == held_out.targets).numpy()
    inside, widths, misses = (defaultdict[tuple[str, int], list[float]](list) for _ in range(3))
    for repeat in range(repeats):
        generator = np.random.default_rng(repeat)
        first, others = split_held_out(features, generator)
        val = Features(held_out.values[first], held_out.targets[first], held_out.indices[first])
        for only in range(number) if one_class else [None]:
            rows = cut(targets, share, only, generator)
            part = Features(train.values[rows], train.targets[rows], train.indices[rows])
            now = np.bincount(part.targets.numpy(), minlength=number)
            weights = torch.from_numpy(1 / now).float()
            chosen = fit_linear_head(part, val, class_weights=weights, num_classes=number, has_bias=True).penalty
            points = measure_curve(part, val, images_now=now, has_bias=True, penalty=chosen, seed=repeat)
            for place in range(number) if only is None else [only]:
                asked = others[true[others] == place]
                truth = right[asked].mean()
                for way, recall in forecasts(points, place, counts[place] / now[place]).items():
                    seen = np.random.default_rng(1).binomial(len(asked), recall) / len(asked)
                    low, high = np.quantile(seen, TAILS)
                    inside[way, place].append(low - 1e-9 <= truth <= high + 1e-9)
                    widths[way, place].append(high - low)
                    misses[way, place].append(truth - np.median(recall))
    for way in dict.fromkeys(way for way, _ in inside):
        by_class = np.array([inside[way, place] for place in range(number)])
        width, miss = (np.array([kept[way, place] for place in range(number)]) for kept in (widths, misses))
        print(
            f"  {way}: {100 * by_class.mean():.1f} % within (by repeat {100 * by_class.mean(axis=0).min():.0f} to "
            f"{100 * by_class.mean(axis=0).max():.0f} %, n {by_class.size}), mean width {width.mean():.3f}, "
            f"mean absolute error {np.abs(miss).mean():.3f}",
            flush=True,
        )
    for place, name in enumerate(names):
        key = ("learning curves", place)
        print(
            f"    {name}: from {max(int(np.ceil(counts[place] * share)), MIN_IN_PART)} to {counts[place]} images, "
            f"{100 * np.mean(inside[key]):.0f} % within, width {np.mean(widths[key]):.3f}, "
            f"observed less forecast {np.mean(misses[key]):+.3f}"
        )


def report_of(run: Path) -> dict[str, tuple[int, int]]:
    """Correctly classified images and all, by class."""
    classes = read_values(RunDir(run).classification_report)["classes"]
    return {name: (round(row["recall"]["value"] * row["support"]), row["support"]) for name, row in classes.items()}


def compare(pairs: list[tuple[Path, Path]]) -> None:
    """Print how often the recall of the larger run was within the interval of the smaller one."""
    inside, widths, surplus = (defaultdict[str, list[float]](list) for _ in range(3))
    for run, larger in pairs:
        points, more = (read_points(RunDir(path).learning_points) for path in (run, larger))
        curves, reports = LearningCurves(points), [report_of(path) for path in (run, larger)]
        for place, (name, hits) in enumerate(reports[0].items()):
            growth = np.array([1.0, more.images_now[place] / points.images_now[place]])
            right, number = reports[1][name]
            ways = {
                "no change": curves.sample(place, growth, hits=hits)[0][:, 0],
                "like the linear probe": curves.sample(place, growth, hits=hits)[0][:, 1],
                "fine-tuned": curves.sample(place, growth, hits=hits, spread=FINE_TUNED_SPREAD)[0][:, 1],
            }
            words = []
            for way, recall in ways.items():
                seen = np.random.default_rng(1).binomial(number, recall) / number
                low, high = np.quantile(seen, TAILS)
                inside[way].append(low - 1e-9 <= right / number <= high + 1e-9)
                widths[way].append(high - low)
                surplus[way].append(right / number - np.median(recall))
                words.append(f"{way} {np.median(recall):.3f} [{low:.3f}, {high:.3f}]")
            print(
                f"  {name}: {points.images_now[place]} to {more.images_now[place]} images, {right / number:.3f}; "
                f"{'; '.join(words)}"
            )
    for way, found in inside.items():
        print(
            f"{way}: {sum(found):.0f} of {len(found)} within, mean width {np.mean(widths[way]):.3f}, "
            f"observed less forecast {np.mean(surplus[way]):+.3f}"
        )


def main() -> None:
    """Compute the features of each data set, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[])
    parser.add_argument("--work", type=Path, default=Path("features"), help="folder that keeps the features")
    parser.add_argument("--pairs", type=Path, nargs="+", default=[], help="run folders, each with a larger one behind")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--one-class", action="store_true", help="cut one class, each in turn")
    parser.add_argument("words", nargs="*", help="further settings, after two dashes")
    options = parser.parse_args()
    compare(list(zip(options.pairs[::2], options.pairs[1::2], strict=True)))
    for data in options.data:
        names, features = features_of(data, options.work, options.words)
        print(f"{data.name}, {options.repeats} repeats", flush=True)
        measure(features, names, options.share, options.repeats, one_class=options.one_class)


if __name__ == "__main__":
    main()
