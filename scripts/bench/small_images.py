"""Compare settings of `train` on small images: balanced accuracy on the test split, and seconds of the run.

Every variant is run with every setting and seed, each in a process of its own that is forked from one that has imported
torch. Exports, figures and the store of decoded pixels are switched off. With --short-side the images are shrunk first.
Runs are added to those that the output file has, so that a long comparison can be measured in parts:

    python scripts/bench/small_images.py --data /my/images --short-side 64 --seeds 0 1 --output sizes.json \\
        --settings transfer=linear_probe trainer.max_epochs=3 --variants data.image_size=64 data.image_size=128

A variant or setting is one argument; several words in it are parted by blanks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl  # noqa: F401 - imported once, before the forks
import timm  # noqa: F401
import torch
import torchvision  # noqa: F401
from PIL import Image

from classifier_training.cli import perform
from classifier_training.data.index import is_image

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

BARE = ("callbacks=[early_stopping,checkpoint,ema]", "data.store=off", "trainer.accelerator=cpu")
"""What differs from the defaults: nothing is exported or drawn, and no run finds the decoded pixels of another."""


def shrink(source: Path, target: Path, side: int) -> Path:
    """Write a folder's images with a short side of so many pixels, as PNG; smaller ones are left as they are."""
    for path in sorted(path for path in source.rglob("*") if path.is_file() and is_image(path)):
        image = Image.open(path).convert("RGB")
        scale = min(1.0, side / min(image.size))
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        out = (target / path.relative_to(source)).with_suffix(".png")
        out.parent.mkdir(parents=True, exist_ok=True)
        image.resize(size, Image.Resampling.LANCZOS).save(out)
    return target


def run(words: list[str], threads: int, answer: Connection) -> None:
    """Train once and send back the score and the seconds."""
    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)
    started = time.perf_counter()
    result = perform("train", words)
    seconds = time.perf_counter() - started
    metrics = result.scored.metrics
    answer.send({"accuracy": metrics["balanced_accuracy"], "top1": metrics["acc_top1"], "seconds": seconds})


def measure(words: list[str], threads: int) -> dict[str, float]:
    """Train in a process that is forked, and return what it sends back."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(words, threads, sender))
    process.start()
    sender.close()
    try:
        found: dict[str, float] = receiver.recv()
    finally:
        process.join()
    return found


def row(name: str, done: list[dict[str, Any]]) -> str:
    """One line of the table."""
    found = [one["accuracy"] for one in done]
    return (
        f"{name:<64} n {len(done)}  balanced accuracy {statistics.fmean(found):.4f} "
        f"({min(found):.4f} to {max(found):.4f})  {statistics.median(one['seconds'] for one in done):6.0f} s"
    )


def main() -> None:
    """Train with each variant, setting and seed in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train, val and test; the digits sample when left out")
    parser.add_argument("--short-side", type=int, help="shrink the images to this short side in pixels first")
    parser.add_argument("--settings", nargs="+", default=[""])
    parser.add_argument("--variants", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="JSON with all runs, to which these are added")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {}
    if options.output.exists():
        runs = json.loads(options.output.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="small-images-") as name:
        os.environ["CLASSIFIER_TRAINING_CACHE"] = str(Path(name, "cache"))
        data = options.data
        if data and options.short_side:
            data = shrink(data, Path(name, "data"), options.short_side)
        for seed, setting, variant in itertools.product(options.seeds, options.settings, options.variants):
            key = " ".join(filter(None, (setting, variant)))
            if any(one["seed"] == seed for one in runs.get(key, [])):
                continue
            words = [*BARE, *key.split(), f"seed={seed}", f"output={name}/outputs"]
            words += [f"data.root={data}"] if data else ["data=digits"]
            found = {"seed": seed, **measure(words, options.threads), "load": os.getloadavg()[0]}
            runs.setdefault(key, []).append(found)
            options.output.write_text(json.dumps(runs, indent=1), encoding="utf-8")
            print(f"{key} seed={seed}: {found['accuracy']:.4f}, {found['seconds']:.0f} s", flush=True)
    print(f"\n{options.data or 'digits'}, {options.short_side or 'whole'}; {options.threads} threads")
    for key, done in runs.items():
        print(row(key, done))


if __name__ == "__main__":
    main()
