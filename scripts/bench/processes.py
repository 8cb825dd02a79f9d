"""Our step with several processes against PyTorch's DDP alone under torchrun, and two processes against one.

All train resnet18 on the same random images of --size pixels, in batches of 64 that the processes share, one thread
each on the CPU (gloo), with the same optimizer and schedule. In each repeat both are timed in turn in the same
processes; then one process trains alone.

    python scripts/bench/processes.py --repeats 5
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from loop import BATCH_SIZE, NUM_CLASSES, Clock, loader, make_batches
from pytorch_lightning.strategies import DDPStrategy
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.processes import process_rank
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import Batch
from classifier_training.models.torchvision_models import IMAGENET, ResNet18
from classifier_training.training.checkpoints import RunCheckpoints
from classifier_training.training.losses import cross_entropy
from classifier_training.training.module import ClassifierModule
from classifier_training.training.optim import SchedulePlan, adamw, cosine, warmup_cosine
from classifier_training.training.run_callbacks import EpochRecorder, Interrupts


def image_size() -> int:
    """Side of the images in pixels, as this process was told."""
    return int(os.environ["IMAGE_SIZE"])


def own_batches(number: int) -> list[Batch]:
    """This process's part of each batch."""
    rank = process_rank()
    parts = slice(rank.rank, None, rank.num_ranks)
    return [
        Batch(batch.images[parts].contiguous(), batch.targets[parts], batch.indices[parts])
        for batch in make_batches(number, image_size())
    ]


def plain(batches: list[Batch]) -> float:
    """Train with DDP and nothing around it; returns seconds."""
    network = ResNet18(pretrained=False)(NUM_CLASSES).network.to(memory_format=torch.channels_last)
    optimizer = adamw(network, True)  # noqa: FBT003
    factor = functools.partial(warmup_cosine, total_steps=len(batches), warmup_fraction=0.1, final_lr_ratio=0.01)
    scheduler = LambdaLR(optimizer, factor)
    several = process_rank().num_ranks > 1
    shared = DistributedDataParallel(network) if several else network
    std = torch.tensor(IMAGENET.std).view(1, 3, 1, 1)
    scale, shift = 1 / (255 * std), -torch.tensor(IMAGENET.mean).view(1, 3, 1, 1) / std
    shared.train()
    started = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(shared(torch.addcmul(shift, batch.images.float(), scale)), batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    return time.perf_counter() - started


def ours(batches: list[Batch]) -> float:
    """Train an epoch as the program does, without its validation; returns seconds."""
    module = ClassifierModule(
        ResNet18(pretrained=False)(NUM_CLASSES).network,
        loss=cross_entropy,
        optimizer=adamw,
        fused=True,
        scheduler=cosine,
        plan=SchedulePlan(len(batches), "val/loss", "min"),
        class_names=tuple(map(str, range(NUM_CLASSES))),
        class_weights=None,
        preprocessing=Preprocessing(size=(image_size(), image_size()), mean=IMAGENET.mean, std=IMAGENET.std),
        channels_last=True,
        seed=0,
    )
    rank, clock = process_rank(), Clock()
    strategy = "auto" if rank.is_alone else _strategy()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder))
        checkpoints = RunCheckpoints(
            run_dir, monitor="val/loss", mode="min", every_seconds=30, every_minutes=10, keep_last=True, metadata={}
        )
        recorder = [EpochRecorder(run_dir.metrics)] if rank.leads else []
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=rank.num_local,
            strategy=strategy,
            max_epochs=1,
            limit_val_batches=0,
            callbacks=[clock, *recorder, Interrupts(run_dir, checkpoints)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, loader(batches))
    return clock.seconds


def _strategy() -> DDPStrategy:
    return DDPStrategy(cluster_environment=TorchElasticEnvironment(), broadcast_buffers=False)


def be_a_rank() -> None:
    """Measure in turn; rank 0 prints the seconds."""
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    torch.set_num_threads(1)
    if process_rank().num_ranks > 1:
        distributed.init_process_group("gloo")
    batches = own_batches(int(os.environ["STEPS"]))
    for measure in (plain, ours):
        measure(batches[:5])
    order = (plain, ours) if os.environ["REPEAT"] == "0" else (ours, plain)
    seconds = {measure.__name__: measure(batches) for measure in order}
    if process_rank().leads:
        print(json.dumps(seconds), flush=True)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def measure(processes: int, *, size: int, steps: int, repeat: int) -> dict[str, float]:
    """Seconds of each way with a number of processes."""
    own = {"IMAGE_SIZE": str(size), "STEPS": str(steps), "REPEAT": str(repeat % 2)}
    env = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__],
        env=env, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of each measured epoch")
    parser.add_argument("--size", type=int, default=32, help="side of the images")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    steps, speedups = [], []
    for repeat in range(options.repeats):
        several = measure(options.processes, size=options.size, steps=options.steps, repeat=repeat)
        alone = measure(1, size=options.size, steps=options.steps, repeat=repeat)
        steps.append(several["ours"] / several["plain"])
        speedups.append(alone["ours"] / several["ours"])
        images = options.steps * BATCH_SIZE
        speeds = {key: f"{images / value:.0f} images/s" for key, value in several.items()}
        print(
            f"{options.processes} processes: DDP {speeds['plain']}, ours {speeds['ours']}; "
            f"one process: {images / alone['ours']:.0f} images/s",
            flush=True,
        )
    for name, values in (("our step / that of DDP", steps), (f"{options.processes} processes / one", speedups)):
        print(
            f"{name}: median {statistics.median(values):.3f} (min {min(values):.3f}, max {max(values):.3f}, "
            f"n {len(values)}); torch {torch.__version__}, one thread a process"
        )


if __name__ == "__main__":
    be_a_rank() if "RANK" in os.environ else main()
