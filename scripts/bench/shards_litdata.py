"""What scripts/bench/shards.py starts in an environment of its own, which has LitData: write its chunks, or read them.

python scripts/bench/shards_litdata.py write FOLDER_OF_IMAGES CHUNKS
python scripts/bench/shards_litdata.py read CHUNKS --side 224 --batch 64 --workers 2 --epochs 3
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset, optimize  # type: ignore[import-not-found]
from PIL import Image


def load(path: str) -> dict[str, object]:
    """One sample: the bytes of the file as they are, and its class."""
    return {"image": Path(path).read_bytes(), "label": Path(path).parent.name}


class Images(StreamingDataset):  # type: ignore[misc]
    """Decodes as the other side does: Pillow, RGB, bilinear to a square."""

    side = 224

    def __getitem__(self, index: object) -> torch.Tensor:
        with Image.open(io.BytesIO(super().__getitem__(index)["image"])) as image:
            pixels = image.convert("RGB").resize((self.side, self.side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["write", "read"])
    parser.add_argument("folder")
    parser.add_argument("chunks", nargs="?")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    if given.what == "write":
        paths = sorted(str(path) for path in Path(given.folder).rglob("*.jpg"))
        optimize(fn=load, inputs=paths, output_dir=given.chunks, chunk_bytes="64MB", num_workers=1)
        return
    torch.set_num_threads(1)
    Images.side = given.side
    images = Images(given.folder, shuffle=True, seed=0)
    loader = StreamingDataLoader(images, batch_size=given.batch, num_workers=given.workers)
    rates = []
    for _ in range(given.epochs):
        started, number = time.perf_counter(), 0
        for batch in loader:
            number += len(batch)
        rates.append(number / (time.perf_counter() - started))
    print(json.dumps({"rates": rates, "images": number}))


if __name__ == "__main__":
    main()
