"""Time training steps and forward passes on the CPU with and without `keep_large_blocks`, in processes taken in turn.

python scripts/bench/allocator.py --rounds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

CASES = (
    ("tf_efficientnet_lite0", 224, 32),
    ("tf_efficientnet_lite0", 128, 64),
    ("tf_efficientnet_lite0", 96, 16),
    ("resnet18", 64, 64),
    ("mobilenetv4_conv_small", 224, 64),
)
"""Network of timm, side of the images in pixels, images in a batch."""

SECONDS = 4.0
"""That each of the two is timed for."""


def measure(name: str, side: int, batch_size: int, *, keeps: bool) -> dict[str, float]:
    """Return images a second, with gradients and without, and the largest memory of this process in MB."""
    from classifier_training.core.runtime import keep_large_blocks, peak_memory_mb

    if keeps:
        keep_large_blocks()
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    images = torch.randn(batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(batch_size) % 10

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def forward() -> None:
        with torch.inference_mode():
            network(images)

    found = {}
    for what, run, prepare in (("train", step, network.train), ("forward", forward, network.eval)):
        prepare()
        run()
        run()
        number, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            run()
            number += 1
        found[what] = number * batch_size / (time.perf_counter() - started)
    return {**found, "memory_mb": peak_memory_mb()}


def main() -> None:
    """Print the ratios of all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=4, help="network, side, batch size and 0 or 1: one measurement, printed as JSON")
    options = parser.parse_args()
    if options.one:
        name, side, batch_size, keeps = options.one
        print(json.dumps(measure(name, int(side), int(batch_size), keeps=keeps == "1")))
        return
    for name, side, batch_size in CASES:
        rows: list[tuple[dict[str, float], dict[str, float]]] = []
        for _ in range(options.rounds):
            pair = []
            for keeps in (0, 1):
                command = [sys.executable, __file__, "--one", name, str(side), str(batch_size), str(keeps)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                pair.append(json.loads(done.stdout.splitlines()[-1]))
            rows.append((pair[0], pair[1]))
        words = [f"{name}, {side} px, {batch_size} images:"]
        for what in ("train", "forward", "memory_mb"):
            ratios = [kept[what] / usual[what] for usual, kept in rows]
            usual = statistics.median(usual[what] for usual, _ in rows)
            words.append(
                f"{what} {usual:.0f}, x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f});"
            )
        print(*words, flush=True)


if __name__ == "__main__":
    main()
