"""One run of another tool on an image folder, as `recipes.py` starts it; prints one line of JSON as its last line.

All start from the same file of ImageNet weights of timm's tf_efficientnet_lite0. The settings below were fixed before
our recipes were tuned; each tool's learning rate is the best of several by validation, chosen by `recipes.py`.

* fastai: `vision_learner(...).fine_tune(epochs - 1)` with its own defaults: one epoch with a frozen body, then all.
* timm: its own factories for loader, augmentation, optimizer (AdamW with layer decay), schedule (cosine with warm-up),
  and averaged weights. Its crops keep 35 % of the area or more: the 8 % of its own default is meant for 300 epochs.
* frozen: class-balanced logistic regression on the frozen network's standardized features, C chosen by validation.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

ARCHITECTURE = "tf_efficientnet_lite0"
MEAN = STD = (0.5, 0.5, 0.5)
BATCH_SIZE = 64


def main() -> None:
    """Run one tool and print what it scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=("fastai", "timm", "frozen"))
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file in timm's names")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--passes", type=int, required=True, help="times that the training images are gone through")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--flips", action="store_true", help="mirror images are still of their class")
    options = parser.parse_args()
    found = {"fastai": run_fastai, "timm": run_timm, "frozen": run_frozen}[options.tool](options)
    versions = {name: version(name) for name in ("torch", "timm", options.tool) if name != "frozen"}
    print(json.dumps({**found, "seconds": time.perf_counter() - STARTED, "versions": versions}))


def run_fastai(options: argparse.Namespace) -> dict[str, float]:
    """Fine-tune as fastai's documentation does."""
    from fastai.vision.all import (  # type: ignore[import-not-found]
        ImageDataLoaders,
        Resize,
        accuracy,
        aug_transforms,
        get_image_files,
        set_seed,
        vision_learner,
    )
    from sklearn.metrics import balanced_accuracy_score

    set_seed(options.seed)
    loaders = ImageDataLoaders.from_folder(
        options.data,
        valid="val",
        item_tfms=Resize(options.image_size),
        batch_tfms=aug_transforms(do_flip=options.flips),
        bs=BATCH_SIZE,
        num_workers=0,
    )
    learner = vision_learner(
        loaders, ARCHITECTURE, metrics=accuracy, pretrained_cfg_overlay={"file": str(options.weights)}
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(options.passes - 1, base_lr=options.lr)
        scores = {}
        for split in ("val", "test"):
            loader = loaders.test_dl(get_image_files(options.data / split), with_labels=True)
            probabilities, targets = learner.get_preds(dl=loader)
            scores[split] = float(balanced_accuracy_score(targets, probabilities.argmax(dim=1)))
    return scores


def run_timm(options: argparse.Namespace) -> dict[str, float]:
    """Fine-tune with timm's factories, put together as its train.py does."""
    import timm
    import torch
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import create_loader
    from timm.loss.cross_entropy import LabelSmoothingCrossEntropy
    from timm.optim._optim_factory import create_optimizer_v2
    from timm.scheduler.scheduler_factory import create_scheduler_v2
    from timm.utils.model_ema import ModelEmaV3
    from timm.utils.random import random_seed

    random_seed(options.seed)  # type: ignore[no-untyped-call]
    sets = {split: create_dataset("", root=str(options.data / split)) for split in ("train", "val", "test")}
    network = timm.create_model(
        ARCHITECTURE,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(options.weights)},
        num_classes=len(sets["train"].reader.class_to_idx),
    )
    size = (3, options.image_size, options.image_size)
    common: dict[str, Any] = {
        "input_size": size,
        "batch_size": BATCH_SIZE,
        "use_prefetcher": False,
        "mean": MEAN,
        "std": STD,
        "num_workers": 0,
        "device": torch.device("cpu"),
    }
    train = create_loader(
        sets["train"],
        is_training=True,
        scale=(0.35, 1.0),
        hflip=0.5 if options.flips else 0.0,
        color_jitter=0.4,
        **common,
    )
    optimizer = create_optimizer_v2(network, opt="adamw", lr=options.lr, weight_decay=0.05, layer_decay=0.75)
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=options.passes,
        warmup_epochs=1,
        warmup_lr=options.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=len(train),
    )
    average = ModelEmaV3(network, decay=0.99, use_warmup=True)
    loss_of = LabelSmoothingCrossEntropy(0.1)  # type: ignore[no-untyped-call]
    updates = 0
    for epoch in range(min(epochs, options.passes)):
        network.train()
        for images, targets in train:
            scheduler.step_update(updates)
            optimizer.zero_grad()
            loss_of(network(images), targets).backward()
            optimizer.step()
            updates += 1
            average.update(network, step=updates)
        scheduler.step(epoch + 1)
    scores = {}
    for split in ("val", "test"):
        loader = create_loader(sets[split], is_training=False, crop_pct=1.0, crop_mode="squash", **common)
        scores[split] = _balanced(average.module, loader)
    return scores


def _balanced(network: Any, batches: Any) -> float:
    import torch
    from sklearn.metrics import balanced_accuracy_score

    network.eval()
    with torch.inference_mode():
        parts = [(network(images).argmax(dim=1), targets) for images, targets in batches]
    predicted, true = (torch.cat(column) for column in zip(*parts, strict=True))
    return float(balanced_accuracy_score(true, predicted))


def run_frozen(options: argparse.Namespace) -> dict[str, float]:
    """Fit a linear classifier to the features of the network as it comes; a seed and a learning rate change nothing."""
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = timm.create_model(
        ARCHITECTURE, pretrained=True, pretrained_cfg_overlay={"file": str(options.weights)}, num_classes=0
    ).eval()
    sides = (options.image_size, options.image_size)
    features, labels = {}, {}
    for split in ("train", "val", "test"):
        files = sorted((options.data / split).glob("*/*"))
        labels[split] = [file.parent.name for file in files]
        parts = []
        with torch.inference_mode():
            for start in range(0, len(files), BATCH_SIZE):
                images = [
                    np.asarray(Image.open(file).convert("RGB").resize(sides, Image.Resampling.BILINEAR))
                    for file in files[start : start + BATCH_SIZE]
                ]
                pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
                parts.append(network(pixels).numpy())
        features[split] = np.concatenate(parts)
    best: tuple[float, float] = (-1.0, -1.0)
    for strength in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0):
        fitted = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=1000, class_weight="balanced")
        ).fit(features["train"], labels["train"])
        val, test = (
            float(balanced_accuracy_score(labels[split], fitted.predict(features[split]))) for split in ("val", "test")
        )
        if val > best[0]:
            best = val, test
    return {"val": best[0], "test": best[1]}


if __name__ == "__main__":
    main()
