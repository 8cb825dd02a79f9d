"""Frames of a video file, by OpenCV."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.preprocess import import_opencv

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

EXTENSIONS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm"})
"""File name endings that count as videos, in lower case."""


class UnreadableVideoError(UserError):
    """A file that OpenCV cannot read as a video; `reason` says so in a few words."""

    def __init__(self, path: str) -> None:
        self.reason = "cannot be read as a video"
        super().__init__(
            f"{path}: {self.reason}",
            f"a video that OpenCV reads ({', '.join(sorted(EXTENSIONS))})",
            "mend the file, or write it anew in another format",
        )


def read_frames(path: str, *, every_s: float | None = None) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield the time in seconds and the pixels, uint8 [H, W, 3], RGB, of a video's frames in their order.

    Args:
        path: video file.
        every_s: seconds from one frame to the next that is taken; every frame when left out.

    Raises:
        UserError: when OpenCV is not installed.
        UnreadableVideoError: when it cannot read the file.
    """
    cv2 = import_opencv("a video as source")
    capture = cv2.VideoCapture(path)
    try:
        if not capture.isOpened():
            raise UnreadableVideoError(path)
        rate, stated = capture.get(cv2.CAP_PROP_FPS) or 1.0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted, number = 0.0, 0
        # grab() steps on; only frames that are wanted are paid for in full.
        while capture.grab():
            # Files of a changing frame rate carry the times of their frames; some others carry none at all.
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / rate
            number += 1
            if every_s is not None and seconds < wanted - 1e-6:
                continue
            read, frame = capture.retrieve()
            if read:
                yield seconds, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            wanted += every_s or 0.0
        if number < stated:
            log.warning("%s: %d frames could be read, of %d that its header speaks of", path, number, stated)
    finally:
        capture.release()
