"""Our training loop against a bare PyTorch loop over the same tensors, in turn, in one process.

Both train resnet18 at 32 px in batches of 64 with the same optimizer, schedule, precision, memory format and averaged
weights, and validate after each epoch. Ours also computes metrics, logs, writes metrics.csv and keeps checkpoints.

    python scripts/bench/loop.py --repeats 5
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import Batch
from classifier_training.models.torchvision_models import IMAGENET, ResNet18
from classifier_training.training.checkpoint_files import AtomicCheckpointIO
from classifier_training.training.checkpoints import ExponentialMovingAverage, RunCheckpoints
from classifier_training.training.device import Device, choose_device
from classifier_training.training.losses import cross_entropy
from classifier_training.training.module import ClassifierModule
from classifier_training.training.optim import SchedulePlan, adamw, cosine, warmup_cosine
from classifier_training.training.run_callbacks import EpochRecorder

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_CLASSES, IMAGE_SIZE, BATCH_SIZE = 10, 32, 64
NUM_TRAIN, NUM_VAL = 40, 4
"""Batches in an epoch."""


def make_batches(number: int, size: int = IMAGE_SIZE) -> list[Batch]:
    """Random images with random labels, uint8 [64, 3, size, size] each, laid out as decoded images are."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH_SIZE, size, size, 3)
    return [
        Batch(
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2),
            torch.randint(0, NUM_CLASSES, (BATCH_SIZE,), generator=generator),
            torch.arange(BATCH_SIZE),
        )
        for _ in range(number)
    ]


def bare(train: Sequence[Batch], val: Sequence[Batch], device: Device, epochs: int) -> float:
    """Train with nothing around it; returns seconds."""
    network = ResNet18(pretrained=False)(NUM_CLASSES).network.to(memory_format=torch.channels_last)
    optimizer = adamw(network, True)  # noqa: FBT003
    total = epochs * len(train)
    factor = functools.partial(warmup_cosine, total_steps=total, warmup_fraction=0.1, final_lr_ratio=0.01)
    scheduler = LambdaLR(optimizer, factor)
    average = AveragedModel(network, multi_avg_fn=ExponentialMovingAverage(0.999)._update, use_buffers=True)  # noqa: SLF001
    std = torch.tensor(IMAGENET.std).view(1, 3, 1, 1)
    scale, shift = 1 / (255 * std), -torch.tensor(IMAGENET.mean).view(1, 3, 1, 1) / std
    mixed = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=device.precision == "bf16-mixed")
    started = time.perf_counter()
    for _ in range(epochs):
        network.train()
        for batch in train:
            optimizer.zero_grad()
            with mixed():
                logits = network(torch.addcmul(shift, batch.images.float(), scale))
                loss = functional.cross_entropy(logits.float(), batch.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            average.update_parameters(network)
        average.eval()
        with torch.inference_mode(), mixed():
            for batch in val:
                average(torch.addcmul(shift, batch.images.float(), scale))
    return time.perf_counter() - started


def ours(train: Sequence[Batch], val: Sequence[Batch], device: Device, epochs: int) -> float:
    """Train as the program does, from the first step to the end of the last epoch; returns seconds."""
    names = tuple(map(str, range(NUM_CLASSES)))
    preprocessing = Preprocessing(size=(IMAGE_SIZE, IMAGE_SIZE), mean=IMAGENET.mean, std=IMAGENET.std)
    module = ClassifierModule(
        ResNet18(pretrained=False)(NUM_CLASSES).network,
        loss=cross_entropy,
        optimizer=adamw,
        fused=True,
        scheduler=cosine,
        plan=SchedulePlan(epochs * len(train), "val/loss", "min"),
        class_names=names,
        class_weights=None,
        preprocessing=preprocessing,
        channels_last=device.channels_last,
        seed=0,
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder))
        checkpoints = RunCheckpoints(
            run_dir, monitor="val/loss", mode="min", every_seconds=30, every_minutes=10, keep_last=True, metadata={}
        )
        trainer = pl.Trainer(
            accelerator=device.accelerator,
            precision=device.precision,  # type: ignore[arg-type]
            max_epochs=epochs,
            callbacks=[clock, ExponentialMovingAverage(0.999), EpochRecorder(run_dir.metrics), checkpoints],
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, loader(train), loader(val))
    return clock.seconds


class Clock(pl.Callback):
    """Time from the start of training to its end."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self.started = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self.seconds = time.perf_counter() - self.started


def loader(batches: Sequence[Batch]) -> DataLoader[Batch]:
    """Hand finished batches on."""
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def main() -> None:
    """Measure in turn and print the ratio of images a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5, help="of each measured run")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    # Lightning puts its notes on the screen unless somebody else handles them.
    logging.getLogger().addHandler(logging.NullHandler())
    torch.set_num_threads(options.threads)
    train, val, device = make_batches(NUM_TRAIN), make_batches(NUM_VAL), choose_device("cpu", "auto")
    for measure in (bare, ours):
        measure(train[:5], val, device, 1)
    images = options.epochs * NUM_TRAIN * BATCH_SIZE
    ratios = []
    for repeat in range(options.repeats):
        # Whoever comes second may find a warmer or a slower machine, so the order changes.
        order = (bare, ours) if repeat % 2 == 0 else (ours, bare)
        seconds = {measure.__name__: measure(train, val, device, options.epochs) for measure in order}
        ratios.append(seconds["bare"] / seconds["ours"])
        print(
            f"bare {images / seconds['bare']:7.0f} images/s, ours {images / seconds['ours']:7.0f} images/s, "
            f"ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(
        f"ours / bare, images/s: median {statistics.median(ratios):.3f} "
        f"(min {min(ratios):.3f}, max {max(ratios):.3f}, n {len(ratios)}); {device.words}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
