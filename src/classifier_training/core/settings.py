"""Types of settings that several components share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator


def absolute(path: str) -> str:
    """Return a path that means the same wherever the run is taken up again."""
    return str(Path(path).expanduser().absolute())


PathText = Annotated[str, AfterValidator(absolute)]
"""A file or folder of the user's."""

Pretrained = bool | Literal["auto"]
"""Whether a network starts from trained weights; auto: yes where there are some, unless a file or a run gives them."""
