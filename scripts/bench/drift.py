"""Inject changes into what a run predicts, and see whether `watch` finds and names them, and what it says of accuracy.

The test images, and copies of them that are changed as ImageNet-C and CIFAR-10-C change theirs (Hendrycks and
Dietterich 2019, arXiv:1903.12261; severity 3 of 5 unless told), are predicted once; days are drawn from these
predictions, so that hundreds of months cost a minute. The changes are not those that the bundle's reference was made
with: they are applied to the image file in its own size, by other functions. Under-exposure is ImageNet-C's brightness
taken away instead of added. A label shift gives one class, another one for each seed, a tenth more of the predictions
for each step of severity, and foreign images are a tenth of the predictions for each step.

Of each change: 20 days of 300 predictions, the change from the eleventh on. Printed are the share of seeds that found
it on the first two changed days and not before, that named it, and the error of the estimated accuracy of the changed
days, in points, against the labels. Then months of 30 days without a change.

    python scripts/bench/drift.py --run RUN --data FOLDER --foreign FOLDER --severities small --work WORK

FOLDER holds test, with a folder for every class; `small` are CIFAR-10-C's severities, `large` ImageNet-C's.
"""

from __future__ import annotations

import argparse
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from classifier_training.core.types import softmax
from classifier_training.export.bundle import NOVELTY_NAME
from classifier_training.export.session import OUTPUT_NAME
from classifier_training.inference.predictor import Predictor
from classifier_training.monitoring.accuracy import estimate_accuracy
from classifier_training.monitoring.shifts import FOREIGN, LABELS, judge_days
from classifier_training.monitoring.sketch import Sketch
from classifier_training.monitoring.statistics import image_statistics, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from classifier_training.monitoring.reference import Reference

SEVERITIES = {
    "large": {"blur": (1, 2, 3, 4, 6), "noise": (0.08, 0.12, 0.18, 0.26, 0.38), "exposure": (0.1, 0.2, 0.3, 0.4, 0.5),
              "contrast": (0.4, 0.3, 0.2, 0.1, 0.05)},
    "small": {"blur": (0.4, 0.6, 0.7, 0.8, 1.0), "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
              "exposure": (0.05, 0.1, 0.15, 0.2, 0.3), "contrast": (0.75, 0.5, 0.4, 0.3, 0.15)},
}  # fmt: skip
"""Deviation of the Gaussian blur in pixels and of the noise, change of the value, and factor of the contrast."""

NAMED = {
    "blur": "blur", "noise": "noise", "over": "overexposure", "under": "underexposure", "contrast": "low contrast",
    "labels": LABELS, "foreign": FOREIGN,
}  # fmt: skip
COVARIATE = ("blur", "noise", "over", "under", "contrast")
NUM_DAYS, CHANGED, A_DAY, MONTH = 20, 10, 300, 30
START = date(2026, 1, 1)
BATCH = 32


class Pool(NamedTuple):
    """Predictions to draw days from: probabilities [N, K], statistics [N, F], and true classes [N], -1 for none."""

    probabilities: NDArray[np.float32]
    values: NDArray[np.float64]
    targets: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Pool:
        """Return some of them."""
        return Pool(self.probabilities[rows], self.values[rows], self.targets[rows])


def copies(
    image: Image.Image, size: str, severity: int, generator: np.random.Generator
) -> Iterator[tuple[str, Image.Image]]:
    """An image and its changed copies."""
    blur, noise, exposure, contrast = (values[severity - 1] for values in SEVERITIES[size].values())
    pixels = np.asarray(image) / 255
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    yield "clean", image
    yield "blur", _image(gaussian_filter(pixels, (blur, blur, 0), mode="nearest"))
    yield "noise", _image(pixels + generator.normal(0, noise, pixels.shape))
    yield "over", _brighter(image, exposure)
    yield "under", _brighter(image, -exposure)
    yield "contrast", _image((pixels - mean) * contrast + mean)


def _image(pixels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def _brighter(image: Image.Image, added: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    values = np.clip(np.asarray(value) / 255 + added, 0, 1) * 255
    return Image.merge("HSV", (hue, saturation, Image.fromarray(values.astype(np.uint8)))).convert("RGB")


def pools(args: argparse.Namespace, reference: Reference, predictor: Predictor) -> dict[str, Pool]:
    """Predict everything once; kept in WORK."""
    kept = args.work / f"drift_{args.data.name}_{args.severity}_{predictor.model_sha256[:8]}.npz"
    names = (*COVARIATE, "clean", "foreign")
    if not kept.exists():
        found: dict[str, NDArray[np.generic]] = {}
        files = sorted(args.data.glob("test/*/*"))
        found["targets"] = np.array([predictor.class_names.index(file.parent.name) for file in files])
        generator = np.random.default_rng(0)
        shown: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in names}
        for file in files:
            image = predictor.preprocessing.read(file)
            for name, copy in copies(image, args.severities, args.severity, generator):
                shown[name].append(predictor.preprocessing.pixels(copy))
        for file in sorted(args.foreign.glob("test/*/*"))[: len(files)]:
            shown["foreign"].append(predictor.preprocessing.pixels(predictor.preprocessing.read(file)))
        for name, pixels in shown.items():
            parts = [_predict(predictor, np.stack(pixels[at : at + BATCH])) for at in range(0, len(pixels), BATCH)]
            for kind, values in zip(("shares", "novelty", "image"), zip(*parts, strict=True), strict=True):
                found[f"{name}_{kind}"] = np.concatenate(values)
        args.work.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **found)  # type: ignore[arg-type] # its stubs take the names for its own settings
    read = np.load(kept)
    targets = read["targets"]
    return {
        name: Pool(
            read[f"{name}_shares"],
            values_of(read[f"{name}_image"], read[f"{name}_shares"], read[f"{name}_novelty"], reference.novelty),
            np.full(len(read[f"{name}_shares"]), -1) if name == "foreign" else targets,
        )
        for name in names
    }


def _predict(predictor: Predictor, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
    logits, novelty = predictor._run(predictor.preprocessing.normalize(pixels), [OUTPUT_NAME, NOVELTY_NAME])  # noqa: SLF001
    return softmax(logits / np.float32(predictor.temperature)), novelty, image_statistics(pixels)


def draw(
    pools: dict[str, Pool], change: str, severity: int, seed: int, generator: np.random.Generator
) -> tuple[Sketch, float]:
    """A day's sketch, and the accuracy of its predictions."""
    pool = pools[change] if change in COVARIATE else pools["clean"]
    weights = np.ones(len(pool.targets))
    if change == "labels":
        chosen = pool.targets == seed % (pool.targets.max() + 1)
        share = min(1.0, chosen.mean() + 0.1 * severity)
        weights = np.where(chosen, share / chosen.sum(), (1 - share) / (~chosen).sum())
    rows = generator.choice(len(weights), A_DAY, p=weights / weights.sum())
    parts = [pool.take(rows)]
    if change == "foreign":
        number = A_DAY * severity // 10
        strange = generator.integers(0, len(pools["foreign"].targets), number)
        parts = [pool.take(rows[number:]), pools["foreign"].take(strange)]
    drawn = Pool(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    sketch = Sketch("", tuple(map(str, range(drawn.probabilities.shape[1]))))
    sketch.add(drawn.probabilities, drawn.values, np.zeros(A_DAY, bool))
    return sketch, float((drawn.probabilities.argmax(axis=1) == drawn.targets).mean())


def days_of(number: int) -> list[str]:
    """Names of consecutive days."""
    return [(START + timedelta(days=place)).isoformat() for place in range(number)]


def main() -> None:
    """Inject, watch, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--foreign", type=Path, required=True)
    parser.add_argument("--severities", choices=tuple(SEVERITIES), required=True)
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--months", type=int, default=200)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    predictor = Predictor(args.run)
    reference = None if predictor.calibration is None else predictor.calibration.reference
    assert reference is not None, "the run has no reference sketch"
    drawn_from = pools(args, reference, predictor)
    print(f"{args.data.name}: severity {args.severity}, {args.seeds} seeds, {A_DAY} predictions a day")
    print("change     found   named   accuracy  estimated  error  within 5 points  cannot know")
    for change in NAMED:
        found, named, errors, true, unknown, kinds = 0, 0, [], [], 0, []
        for seed in range(args.seeds):
            generator = np.random.default_rng((seed, 1))
            drawn = [
                draw(drawn_from, change if day >= CHANGED else "clean", args.severity, seed, generator)
                for day in range(NUM_DAYS)
            ]
            days = dict(zip(days_of(NUM_DAYS), (sketch for sketch, _ in drawn), strict=True))
            verdicts = judge_days(reference, days)
            first = next((place for place, one in enumerate(verdicts) if one.is_shift), NUM_DAYS)
            found += CHANGED <= first <= CHANGED + 1
            kinds.append(verdicts[min(max(first, CHANGED), NUM_DAYS - 1)].kind)
            named += kinds[-1] == NAMED[change]
            for place in range(CHANGED, NUM_DAYS):
                estimate = estimate_accuracy(reference, drawn[place][0], verdicts[place])
                true.append(drawn[place][1])
                if estimate.value is None:
                    unknown += 1
                else:
                    errors.append(100 * (estimate.value - drawn[place][1]))
        number = args.seeds * (NUM_DAYS - CHANGED)
        within = np.mean(np.abs(errors) <= 5) if errors else np.nan
        mean = np.mean(errors) if errors else np.nan
        wrong = sorted({kind for kind in kinds if kind != NAMED[change]})
        print(
            f"{change:9}  {found}/{args.seeds}     {named}/{args.seeds}    {np.mean(true):7.3f}  "
            f"{np.mean(true) + mean / 100:9.3f}  {mean:+5.1f}  {within:15.0%}  {unknown / number:11.0%}  "
            f"{', '.join(wrong)}"
        )
    alarms, errors = 0, []
    for month in range(args.months):
        generator = np.random.default_rng((month, 2))
        drawn = [draw(drawn_from, "clean", args.severity, 0, generator) for _ in range(MONTH)]
        verdicts = judge_days(reference, dict(zip(days_of(MONTH), (sketch for sketch, _ in drawn), strict=True)))
        alarms += any(one.is_shift for one in verdicts)
        for (sketch, accuracy), verdict in zip(drawn, verdicts, strict=True):
            value = estimate_accuracy(reference, sketch, verdict).value
            errors += [] if value is None else [100 * (value - accuracy)]
    print(f"{args.months} months without a change: {alarms} with an alarm ({alarms / max(args.months, 1):.1%}); "
          f"estimated accuracy within 5 points on {np.mean(np.abs(errors) <= 5):.0%} of the days")  # fmt: skip


if __name__ == "__main__":
    main()
