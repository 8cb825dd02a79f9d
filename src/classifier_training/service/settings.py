"""Settings of `serve`. Needs no web server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from classifier_training.core.register import register


@register(group="serve_limits", name="default")
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What clients may send; more is refused with a status of 4xx.

    Args:
        body_mb: largest body of a request, in MB (413).
        megapixels: largest image, in millions of pixels, as its header states them (413).
        images: most images of a request (413).
        queue: images that are being answered or wait; from there on requests are refused (429, with Retry-After).
        memory_mb: bodies that are held at the same time, in MB (429).
        seconds: for the body of a request to arrive (408).
    """

    body_mb: Annotated[float, Field(gt=0)] = 32
    megapixels: Annotated[float, Field(gt=0)] = 50
    images: Annotated[int, Field(ge=1)] = 64
    queue: Annotated[int, Field(ge=1)] = 256
    memory_mb: Annotated[float, Field(gt=0)] = 512
    seconds: Annotated[float, Field(gt=0)] = 30
