"""What a run could be told when its data is known: a recipe that is made for such data."""

from __future__ import annotations

TINY_BELOW = 1000
"""Training images."""

LONG_TAIL_FROM = 10
"""Images of the largest class over those of the smallest."""


def recipe_advice(recipe: str, *, num_images: int, ratio: float) -> str | None:
    """Name the recipe that is made for the data, where the one taken is one of those that auto takes.

    Args:
        recipe: the run's.
        num_images: of the training split.
        ratio: images of the largest class over those of the smallest.
    """
    if recipe not in ("finetune", "scratch"):
        return None
    if num_images < TINY_BELOW:
        return f"{num_images:,} training images: recipe=tiny is made for fewer than {TINY_BELOW:,}, and takes longer"
    if ratio >= LONG_TAIL_FROM:
        return f"classes {ratio:.1f}:1: recipe=longtail is made for {LONG_TAIL_FROM}:1 and more, and takes longer"
    return None
