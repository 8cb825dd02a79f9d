"""The embedded shirt numbers: rendered crops with JSONL annotations, some without a readable number."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.run_dir import write_text
from classifier_training.core.settings import Resume
from classifier_training.data.formats.jsonl import read_jsonl
from classifier_training.data.formats.source import DataSource
from classifier_training.data.sample_sets.made import in_parallel, made_folder
from classifier_training.data.walk import Walker

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.data.index import SampleIndex
    from classifier_training.data.sample_sets.rendered.jerseys import Jersey

VERSION = "jerseys-1"
"""Of the drawings; another number makes all images anew."""

NUMBERS = ("", "1", "4", "7", "8", "9", "10", "11", "17", "23")
SPLITS = ("train", "train", "train", "valid", "test")
"""Players of each number in turn; a player is on one side of the split."""

QUESTION = "Which number is on the shirt?"


@register(group="data", name="jerseys")
@dataclass(frozen=True, kw_only=True)
class Jerseys(DataSource):
    """Rendered shirt numbers, blurred, tilted and half hidden, in JSONL form; the empty label means no number.

    Every row's metadata has the player, the match and the shot.

    Args:
        num_images: images to render.
        seed: of the drawing.
    """

    num_images: Annotated[int, Field(ge=100, le=100_000), Resume.FIXED] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**31), Resume.FIXED] = 0

    def read(self) -> SampleIndex:
        """List the rows, rendering the images into the cache folder the first time."""
        return read_jsonl(Walker(made_folder(f"{VERSION}-{self.num_images}-{self.seed}", self._render)))

    def _render(self, folder: Path) -> dict[str, Any]:
        from classifier_training.data.sample_sets.rendered.jerseys import write_jersey

        jobs = plan_jerseys(folder, self.num_images, self.seed)
        in_parallel(write_jersey, jobs)
        for split in dict.fromkeys(SPLITS):
            rows = [_row(job) for job in jobs if job.path.parent.parent.name == split]
            write_text(folder / split / "annotations.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
        return {"num_images": len(jobs)}


def plan_jerseys(folder: Path, num_images: int, seed: int) -> list[Jersey]:
    """Which crops to draw: shots of players, low numbers being worn and seen more often."""
    from classifier_training.data.sample_sets.rendered.jerseys import Jersey

    rng = np.random.default_rng([seed, 0])
    # The first crops give each player one, so that every split has every number.
    players = [*range(len(NUMBERS) * len(SPLITS))]
    weights = np.repeat(1 / (1 + np.arange(len(NUMBERS))), len(SPLITS))
    players += rng.choice(players, num_images - len(players), p=weights / weights.sum()).tolist()
    shots = dict.fromkeys(players, 0)
    jobs = []
    for place, player in enumerate(players):
        split = SPLITS[player % len(SPLITS)]
        path = folder / split / "images" / f"{place:05d}.png"
        jobs.append(Jersey(path, NUMBERS[player // len(SPLITS)], player, player % 6, shots[player], seed))
        shots[player] += 1
    return jobs


def _row(job: Jersey) -> dict[str, Any]:
    metadata = {"player": f"player_{job.player:03d}", "match": f"match_{job.player % 10:02d}", "shot": job.shot}
    return {"image": job.path.name, "prefix": QUESTION, "suffix": job.number, "metadata": metadata}
