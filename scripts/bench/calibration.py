"""Calibration error before and after temperature scaling, and how many foreign images are found, on test images.

Temperature and threshold are fitted on validation. Foreign to the digits are rendered screens, crops of scikit-learn's
two photographs, and the test images of --photographs. The calibration alone is measured on --photographs too.

python scripts/bench/calibration.py --seeds 3 --photographs CIFAR_FOLDER [--output RUNS]

Runs that are in --output already are not trained again.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import TEST, softmax
from classifier_training.data.sample_sets.builders import Slides
from classifier_training.evaluation.calibration import choose_temperature, expected_calibration_error
from classifier_training.evaluation.metrics import cross_entropies
from classifier_training.inference.predictor import Predictor
from classifier_training.workflows.evaluating.samples import own_samples, tabulate

PROGRAM = str(Path(sys.executable).with_name("classifier-training"))
NUM_SCREENS, NUM_CROPS = 200, 300
NUM_DRAWS = 50


@dataclass(frozen=True)
class Answers:
    """Logits [N, K] before the temperature, and scores [N]."""

    logits: np.ndarray
    novelty: np.ndarray


def train(output: Path, name: str, words: list[str]) -> Path:
    """Train a run, or find the one that is there already."""
    folder = output / name
    if not list(folder.glob("*/*/result.json")):
        subprocess.run([PROGRAM, "train", *words, f"output={output}", f"name={name}"], check=True, capture_output=True)
    return next(folder.glob("*/*/result.json")).parent


def answer(predictor: Predictor, paths: list[str]) -> Answers:
    """Run the bundle's model."""
    found = [item for item in predictor.raw_outputs(paths) if item.logits is not None]
    return Answers(np.stack([item.logits for item in found]), np.array([item.novelty for item in found]))  # type: ignore[misc]


def crop_photographs(folder: Path) -> list[str]:
    """Write square crops of 32 to 400 pixels."""
    paths: list[str] = []
    generator = np.random.default_rng(0)
    for pixels in load_sample_images().images:
        for _ in range(NUM_CROPS // 2):
            side = int(generator.integers(32, 400))
            top, left = (int(generator.integers(0, length - side)) for length in pixels.shape[:2])
            paths.append(str(folder / f"{len(paths)}.png"))
            Image.fromarray(pixels[top : top + side, left : left + side]).save(paths[-1])
    return paths


def error_by_chance(confidences: np.ndarray) -> float:
    """Calibration error that a perfectly calibrated model with these confidences shows on as many images: its mean."""
    generator = np.random.default_rng(0)
    # Two classes, of which the first is the answer and right as often as it says.
    shares = np.stack([confidences, np.zeros_like(confidences)], axis=1)
    drawn = (generator.random((100, len(confidences))) >= confidences).astype(np.int64)
    return statistics.fmean(expected_calibration_error(shares, targets) for targets in drawn)


def scores(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean log loss and calibration error."""
    return np.array([cross_entropies(logits, targets).mean(), expected_calibration_error(softmax(logits), targets)])


def judge_rule(name: str, logits: np.ndarray, targets: np.ndarray) -> None:
    """Print how often a temperature makes other images worse: fitted to a few of these always, or where it helps."""
    generator = np.random.default_rng(0)
    for number in (100, 200):
        if len(targets) < number + 100:
            continue
        worse = {rule: np.zeros(2) for rule in ("always", "where it helps")}
        used = 0
        for _ in range(NUM_DRAWS):
            order = generator.permutation(len(targets))
            few, others = order[:number], order[number:]
            choice = choose_temperature(logits[few], targets[few])
            used += not choice.reason
            for rule, temperature in (("always", choice.fitted_temperature), ("where it helps", choice.temperature)):
                scaled = (logits[others] / np.float32(temperature)).astype(np.float32)
                before, after = (scores(values, targets[others]) for values in (logits[others], scaled))
                worse[rule] += after > before
        words = "; ".join(
            f"{rule}: log loss worse in {losses:.0f}, calibration error in {errors:.0f}"
            for rule, (losses, errors) in worse.items()
        )
        print(f"  {name}, fitted to {number} images, {NUM_DRAWS} draws: {words}; used in {used}", flush=True)


def measure(name: str, run: Path, foreign: dict[str, list[str]]) -> tuple[float, float]:
    """Print a run's figures; returns the calibration error after scaling and the share of foreign images found."""
    predictor = Predictor(run, accelerator="cpu")
    fitted = predictor.calibration
    assert fitted is not None
    assert fitted.novelty is not None
    samples, root = own_samples(RunDir(run))
    table = tabulate(samples, root, TEST, predictor.class_names)
    own = answer(predictor, list(table.paths))
    scaled = (own.logits / np.float32(fitted.temperature)).astype(np.float32)
    before, after = (expected_calibration_error(softmax(logits), table.targets) for logits in (own.logits, scaled))
    moved = int((scaled.argmax(axis=1) != own.logits.argmax(axis=1)).sum())
    print(
        f"{name}: n {len(table)}, accuracy {(own.logits.argmax(axis=1) == table.targets).mean():.4f}, temperature "
        f"{fitted.temperature:.3f} (val n {fitted.choice.num_images}); ECE on test {before:.4f} before, "
        f"{after:.4f} after ({error_by_chance(softmax(scaled).max(axis=1)):.4f} by chance with perfect calibration); "
        f"top-1 moved on {moved} images; false alarms on test {(own.novelty > fitted.novelty.threshold).mean():.3f}",
        flush=True,
    )
    judge_rule(name, own.logits, np.asarray(table.targets))
    # The figure asks for what is found where one test image in twenty is an alarm.
    at_five_percent = float(np.quantile(own.novelty, 0.95))
    scores = {kind: answer(predictor, paths).novelty for kind, paths in foreign.items()}
    for kind, values in scores.items():
        print(
            f"  {kind}: n {len(values)}, found {(values > fitted.novelty.threshold).mean():.3f} at the bundle's "
            f"threshold, {(values > at_five_percent).mean():.3f} at 5 % false alarms on test",
            flush=True,
        )
    every = np.concatenate([*scores.values(), np.empty(0)])
    return after, float((every > at_five_percent).mean()) if len(every) else float("nan")


def main() -> None:
    """Train every seed and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--photographs", type=Path, help="a split image folder, such as a part of CIFAR-10")
    parser.add_argument("--output", type=Path, help="where runs are kept; a temporary folder when left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        output = arguments.output or Path(scratch)
        screens = Slides(num_images=NUM_SCREENS).read()
        crops = Path(scratch) / "crops"
        crops.mkdir()
        foreign = {
            "rendered screens": [str(screens.root / sample.path) for sample in screens.samples],
            "crops of photographs": crop_photographs(crops),
        }
        if arguments.photographs:
            foreign["other photographs"] = sorted(map(str, (arguments.photographs / TEST).glob("*/*")))
        figures = []
        for seed in range(arguments.seeds):
            run = train(output, f"digits-{seed}", ["data=digits", f"seed={seed}"])
            figures.append(measure(f"digits, seed {seed}", run, foreign))
        errors, shares = zip(*figures, strict=True)
        print(
            f"digits: ECE after scaling mean {statistics.fmean(errors):.4f} (max {max(errors):.4f}); foreign images "
            f"found at 5 % false alarms mean {statistics.fmean(shares):.3f} (min {min(shares):.3f}), n {len(shares)}"
        )
        if arguments.photographs:
            words = [f"data.root={arguments.photographs}", "data.image_size=32", "trainer.max_epochs=10"]
            words += ["model=resnet18", "model.pretrained=false"]
            errors = tuple(
                measure(
                    f"photographs, seed {seed}", train(output, f"photographs-{seed}", [*words, f"seed={seed}"]), {}
                )[0]
                for seed in range(arguments.seeds)
            )
            print(
                f"photographs: ECE after scaling mean {statistics.fmean(errors):.4f} (max {max(errors):.4f}), "
                f"n {len(errors)}"
            )


if __name__ == "__main__":
    main()
