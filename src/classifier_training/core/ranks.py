"""One of several processes that train together: which one, and which part of each batch is its own."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TypeVar

FOLLOWS_VARIABLE = "CLASSIFIER_TRAINING_FOLLOWS"

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """A part of every batch: all of it, unless there are several processes.

    Args:
        rank: number of this process; 0 leads, and alone writes.
        num_ranks: processes that train together.
    """

    rank: int = 0
    num_ranks: int = 1

    def of(self, keys: list[T]) -> list[T]:
        """Return this process's part of a batch's keys; the parts' sizes differ by one at the most."""
        return keys[self.rank :: self.num_ranks]


@dataclass(frozen=True)
class Follower:
    """What a process is told by the one that leads it.

    Args:
        rank: its number, from 1.
        num_ranks: processes that train together.
        leader: process number of rank 0.
        port: where they meet on this machine.
        checkpoint: to resume from; None for the beginning.
    """

    rank: int
    num_ranks: int
    leader: int
    port: int
    checkpoint: str | None

    def environment(self) -> dict[str, str]:
        """Return the variable by which a process is made this one."""
        return {FOLLOWS_VARIABLE: json.dumps(asdict(self))}


def following() -> Follower | None:
    """Return what this process was told, when another one leads it."""
    told = os.environ.get(FOLLOWS_VARIABLE)
    return Follower(**json.loads(told)) if told else None


def own_share(num_ranks: int) -> Share:
    """Return this process's part of every batch, of so many."""
    told = following()
    return Share(told.rank if told else 0, num_ranks)
