"""One fastai run on an image folder, as `peers.py` times it; prints one line of JSON as its last line."""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

STARTED = time.perf_counter()

from fastai.vision.all import (  # type: ignore[import-not-found]  # noqa: E402 - the import is part of what is timed
    ImageDataLoaders,
    Resize,
    accuracy,
    aug_transforms,
    get_image_files,
    resnet18,
    set_seed,
    torch,
    vision_learner,
)
from sklearn.metrics import balanced_accuracy_score  # noqa: E402

IMPORTED = time.perf_counter()


def main() -> None:
    """Train as fastai's documentation does, then score the test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--workers", type=int, help="loader processes; fastai's own choice when left out")
    parser.add_argument("--flips", action="store_true", help="fastai's usual augmentation, mirror images among it")
    options = parser.parse_args()

    set_seed(options.seed)
    # Without batch_tfms there is no augmentation; a network without trained weights gets no normalization either.
    loaders = ImageDataLoaders.from_folder(
        options.data,
        valid="val",
        item_tfms=Resize(options.image_size),
        batch_tfms=aug_transforms() if options.flips else None,
        bs=options.batch_size,
        num_workers=options.workers,
    )
    learner = vision_learner(loaders, resnet18, pretrained=False, metrics=accuracy)
    with learner.no_bar():
        before_fit = time.perf_counter()
        learner.fit_one_cycle(options.epochs, 1e-3)
        after_fit = time.perf_counter()
        # Read now: predicting on other images replaces the last figures.
        val_accuracy = float(learner.recorder.values[-1][-1])
        test = loaders.test_dl(get_image_files(options.data / "test"), with_labels=True)
        probabilities, targets = learner.get_preds(dl=test)
    result = {
        "val_accuracy": val_accuracy,
        "test_balanced_accuracy": float(balanced_accuracy_score(targets, probabilities.argmax(dim=1))),
        "test_images": len(targets),
        "device": f"{loaders.device}, {torch.get_num_threads()} threads, 32-bit precision",
        "seconds": {
            "import": IMPORTED - STARTED,
            "prepare": before_fit - IMPORTED,
            "fit": after_fit - before_fit,
            "test": time.perf_counter() - after_fit,
        },
        "versions": {name: version(name) for name in ("fastai", "torch", "torchvision", "numpy", "pillow")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
