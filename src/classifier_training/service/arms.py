"""A new run beside the one in production: which of them answers a request, and what of both is recorded.

A canary answers a share of the requests. A shadow answers requests behind production's response, and nobody gets its
answer. Which requests they get follows from the request's id alone, so that every replica decides alike.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from classifier_training.core.errors import reason_of
from classifier_training.core.run_dir import make_folder
from classifier_training.core.runtime import num_cores
from classifier_training.service.engine import PRODUCTION
from classifier_training.service.records import (
    CANARY,
    SHADOW,
    SUBFOLDER,
    VERDICT,
    Compared,
    Kind,
    RolloutWriter,
    Served,
)
from classifier_training.service.verdict import ROLL_BACK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from classifier_training.service.engine import Engine
    from classifier_training.service.metrics import Metrics
    from classifier_training.service.observing import Answer

log = logging.getLogger(__name__)

MAX_PENDING = 1000
"""Answers of production that wait for the shadow's; the oldest of more is recorded alone."""

LOWEST_PRIORITY = 19


def is_chosen(request_id: str, sha256: str, share: float) -> bool:
    """Whether a request belongs to the share of a run: a hash of its id and the run's digest decides.

    The digest has each run choose anew; otherwise the same clients would have every canary there ever is.
    """
    digest = hashlib.blake2b(f"{sha256}/{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def lower_priority() -> None:
    """Have this thread, and those that it begins, compute only where nobody else wants the core (Linux)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)


def low_priority_pool() -> ThreadPoolExecutor:
    """Threads for the shadow's images: they take no core from those of requests."""
    return ThreadPoolExecutor(num_cores(), thread_name_prefix="shadow", initializer=lower_priority)


class RolloutArms:
    """Production and a new run.

    The roll-out ends by itself once production is the new run, and once it was rolled back; then production answers.

    Args:
        production: engine of the run in production.
        new: engine of the other.
        kind: canary or shadow.
        share: of the requests that the new run has.

    Attributes:
        engines: by arm.
        ended: why the roll-out was ended; empty until then.
    """

    def __init__(self, production: Engine, new: Engine, *, kind: Kind, share: float) -> None:
        self.engines = {PRODUCTION: production, kind: new}
        self.kind, self.share = kind, share
        self.ended = ""

    @property
    def compared(self) -> Compared:
        """What is compared now."""
        present, new = self.engines[PRODUCTION], self.engines[self.kind]
        return Compared(
            self.kind, self.share, present.run, present.predictor.model_sha256, new.run, new.predictor.model_sha256
        )

    @property
    def is_active(self) -> bool:
        """Whether there are two runs to compare."""
        compared = self.compared
        return not self.ended and compared.present_sha256 != compared.new_sha256

    def takes(self, request_id: str) -> bool:
        """Whether the new run answers a request."""
        return self.is_active and is_chosen(request_id, self.compared.new_sha256, self.share)

    def choose(self, request_id: str) -> str:
        """Return the arm whose answer a request gets."""
        return CANARY if self.kind == CANARY and self.takes(request_id) else PRODUCTION

    def shadows(self, request_id: str) -> Sequence[str]:
        """Return the shadow, where it has its share."""
        return (SHADOW,) if self.kind == SHADOW and self.takes(request_id) else ()


class RolloutRecorder:
    """Records what both arms answered; an observer of the answers.

    Args:
        folder: that records go to; None counts alone.
        arms: of the server.
        metrics: that it adds its own to.

    Raises:
        UserError: when the folder cannot be written.
    """

    def __init__(self, folder: Path | None, arms: RolloutArms, metrics: Metrics) -> None:
        if folder is not None:
            make_folder(folder / SUBFOLDER)
        self._folder, self._arms = folder, arms
        self._writer: RolloutWriter | None = None
        self._written: Compared | None = None
        self._dropped_before = 0
        self._lock = threading.Lock()
        self._pending: dict[str, tuple[Served, Compared]] = {}
        self._failed: dict[str, str] = {}
        self._agreement = Counter(
            "classifier_shadow_predictions", "Answers of the shadow, by whether production's label is the same",
            ("agrees",), registry=metrics.registry,
        )  # fmt: skip
        self._failures = Counter(
            "classifier_arm_failures", "Images that an arm failed to answer", ("arm",), registry=metrics.registry
        )
        self._alone = Counter(
            "classifier_shadow_missed_images", "Images that the shadow was too busy for", registry=metrics.registry
        )
        dropped = Gauge("classifier_unrecorded", "Records that were dropped", registry=metrics.registry)
        dropped.set_function(lambda: self.dropped)
        active = Gauge(
            "classifier_rollout_active", "1 while a new run has requests", ("arm",), registry=metrics.registry
        )
        active.labels(arms.kind).set_function(lambda: int(arms.is_active))

    @property
    def is_recording(self) -> bool:
        """Whether there are records, which labels can be added to."""
        return self._folder is not None

    @property
    def dropped(self) -> int:
        """Records that found the queue full, or the disk."""
        return self._dropped_before + (0 if self._writer is None else self._writer.dropped)

    def seen(self, request_id: str, arm: str, answer: Answer) -> None:
        """Record an answer, a shadow's with production's."""
        key = key_of(request_id, answer.place)
        prediction = answer.prediction
        served = Served(
            # With unknown=true the label is no class.
            prediction.top_k[0][0], prediction.confidence or 0.0, bool(prediction.rejected), answer.seconds
        )  # fmt: skip
        compared = self._arms.compared
        compared = (
            replace(compared, present_sha256=answer.model)
            if arm == PRODUCTION
            else replace(compared, new_sha256=answer.model)
        )
        if compared.present_sha256 == compared.new_sha256 or self._arms.ended:
            return
        with self._lock:
            if arm == SHADOW:
                self._pair(key, served)
            elif self._arms.kind == CANARY:
                # A request that the canary failed at has its record already, and production had no choice.
                if arm == CANARY or self._failed.pop(key, None) is None:
                    self._write(compared, key, arm, served)
            elif is_chosen(request_id, compared.new_sha256, self._arms.share):
                self._pending[key] = served, compared
                if reason := self._failed.pop(key, None):
                    self._pair(key, Served(failed=reason))
                elif reason is not None:
                    self._give_up(key)
                if len(self._pending) > MAX_PENDING:
                    self._give_up(next(iter(self._pending)))

    def failed(self, request_id: str, arm: str, places: Iterable[int], reason: str) -> None:
        """Record that an arm could not answer images of a request, for a reason that is not theirs."""
        for key in [key_of(request_id, place) for place in places]:
            with self._lock:
                if arm == CANARY:
                    self._write(self._arms.compared, key, arm, Served(failed=reason))
                if key in self._pending:
                    self._pair(key, Served(failed=reason))
                    continue
                self._expect(key, reason)

    def missed(self, request_id: str, places: Iterable[int]) -> None:
        """Record that the shadow does not answer images of a request, because there is no time."""
        for key in [key_of(request_id, place) for place in places]:
            with self._lock:
                if key in self._pending:
                    self._give_up(key)
                else:
                    self._expect(key, "")

    def told(self, request_id: str, label: str) -> bool:
        """Record a true label; returns whether there was room for it."""
        with self._lock:
            return self._open(self._arms.compared).told(request_id, label)

    def close(self) -> None:
        """Write what is left."""
        with self._lock:
            for key in list(self._pending):
                self._give_up(key)
            if self._writer is not None:
                self._writer.close()

    def _expect(self, key: str, reason: str) -> None:
        """Remember what became of an image whose answer by production is still on its way here."""
        self._failed[key] = reason
        if len(self._failed) > MAX_PENDING:
            del self._failed[next(iter(self._failed))]

    def _pair(self, key: str, shadow: Served) -> None:
        if key not in self._pending:
            return  # it was given up
        served, compared = self._pending.pop(key)
        self._agreement.labels(str(shadow.label == served.label and not shadow.failed).lower()).inc()
        self._write(compared, key, PRODUCTION, served, shadow)

    def _give_up(self, key: str) -> None:
        served, compared = self._pending.pop(key)
        self._alone.inc()
        self._write(compared, key, PRODUCTION, served)

    def _write(self, compared: Compared, key: str, arm: str, served: Served, other: Served | None = None) -> None:
        for name, one in ((arm, served), (SHADOW, other)):
            if one is not None and one.failed:
                self._failures.labels(name).inc()
        if self._folder is not None:
            self._open(compared).answered(key, arm, served, other)

    def _open(self, compared: Compared) -> RolloutWriter:
        """Return the writer of a pair of runs: another one once production was reloaded."""
        assert self._folder is not None
        if self._writer is None or compared != self._written:
            if self._writer is not None:
                self._writer.close()
                self._dropped_before += self._writer.dropped
            self._writer, self._written = RolloutWriter(self._folder, compared), compared
        return self._writer


def key_of(request_id: str, place: int) -> str:
    """The id of an image: that of its request, and of the second image on with its place."""
    return request_id if not place else f"{request_id}/{place}"


async def follow_verdict(arms: RolloutArms, folder: Path, *, every_s: float) -> None:
    """End the roll-out once `registry verdict` has found that the new run is to be rolled back.

    Args:
        arms: of the server.
        folder: that records go to.
        every_s: seconds between two looks.
    """
    while not arms.ended:
        words = await asyncio.to_thread(_rolled_back, folder / VERDICT, arms.compared)
        if words:
            arms.ended = words
            log.warning("%s of %s ends: %s", arms.kind, arms.compared.new, words)
        await asyncio.sleep(every_s)


def _rolled_back(file: Path, compared: Compared) -> str:
    """Why a verdict rolls back this new run; empty where it does not."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        other, verdict = Compared.from_dict(found), found["verdict"]
        is_own = (other.kind, other.new_sha256) == (compared.kind, compared.new_sha256)
        return str(verdict["words"]) if is_own and verdict["state"] == ROLL_BACK else ""
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: cannot be read (%s)", file, reason_of(error))
        return ""
