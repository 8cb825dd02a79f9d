"""`completion`: completion for shells."""

from __future__ import annotations

from typing import Literal

from classifier_training.conf.complete import script
from classifier_training.core.register import register


@register(group="verb", name="completion")
def completion(*, shell: Literal["bash", "zsh", "fish"]) -> str:
    """Print code for a shell, as in: eval "$(classifier-training completion shell=bash)".

    Args:
        shell: the shell that will read it.
    """
    return script(shell)
