"""How fast exported models answer, each measured alone in a fresh process, so that none disturbs another."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.runtime import leave_interrupts
from classifier_training.export.session import INPUT_NAME, measure_side_by_side, open_session

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


def measure_latency_ms(model: Path) -> float | None:
    """Return the median time of an answer for one image on the CPU with all cores, in ms; None where it fails.

    The model is opened in another process: it may take more memory than this one should.
    """
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=leave_interrupts)
    with pool:
        try:
            return pool.submit(_measure, model).result()
        except (UserError, BrokenProcessPool) as error:
            log.warning("%s: its latency cannot be measured: %s", model, error)
            return None


def _measure(model: Path) -> float:
    session = open_session(model)
    (wanted,) = [item for item in session.get_inputs() if item.name == INPUT_NAME]
    dtype = np.float16 if "float16" in wanted.type else np.float32
    # Answers to noise take as long as others.
    pixels = np.random.default_rng(0).standard_normal((1, *wanted.shape[1:])).astype(dtype)
    (found,) = measure_side_by_side([lambda: session.run(None, {INPUT_NAME: pixels})])
    return found.median_ms
