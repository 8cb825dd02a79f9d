"""What a roll-out records: FOLDER/rollout/*.jsonl, written by each serving process into a file of its own.

A file begins with what is compared: {"schema", "began", "kind", "share", "present": {"run", "sha256"}, "new": {"run",
"sha256"}}, where sha256 is that of the file that predicts. A line follows for each request: {"id", "at", "arm",
"label", "confidence", "rejected", "seconds"}, or {"id", "at", "arm", "failed"} where the arm gave no answer; of a
shadow with "other": the same of the new run. Lines of {"id", "at", "truth"} are labels that came later. Times are
seconds since 1970. There are no images.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import queue
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.run_dir import make_folder
from classifier_training.data.formats.listing import open_text
from classifier_training.evaluation.intervals import exact_shares
from classifier_training.service.verdict import Answers, check_guardrails, combine, judge_arms, judge_pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from classifier_training.service.verdict import RolloutVerdict, Rules

SUBFOLDER = "rollout"
VERDICT = f"{SUBFOLDER}/verdict.json"
"""What `registry verdict` found last."""

SCHEMA = 1
QUEUE_SIZE = 10_000
"""Records that wait for the disk; more are dropped, and counted."""

MAX_ID = 256
"""Characters of an id or a label that is sent."""

MAX_LABELS = 1000
"""Labels of a request."""

Kind = Literal["shadow", "canary"]

PRODUCTION, CANARY, SHADOW = "production", "canary", "shadow"
"""The arms."""


@dataclass(frozen=True)
class Compared:
    """What a roll-out compares.

    Args:
        kind: shadow, which predicts the images of the present run, too; or canary, which has images of its own.
        share: of the requests that the new run has.
        present: run in production, as it was named.
        present_sha256: of the file that predicts.
        new: the other run.
        new_sha256: of its file.
        began: when the file was begun, in seconds since 1970.
    """

    kind: Kind
    share: float
    present: str
    present_sha256: str
    new: str
    new_sha256: str
    began: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the first line of a file."""
        return {
            "schema": SCHEMA, "began": self.began, "kind": self.kind, "share": self.share,
            "present": {"run": self.present, "sha256": self.present_sha256},
            "new": {"run": self.new, "sha256": self.new_sha256},
        }  # fmt: skip

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Compared:
        """Read what `to_dict` gave."""
        present, new = found["present"], found["new"]
        if found["schema"] != SCHEMA or found["kind"] not in (SHADOW, CANARY):
            raise ValueError("records of another program")
        return cls(
            found["kind"], float(found["share"]), present["run"], present["sha256"], new["run"], new["sha256"],
            float(found["began"]),
        )  # fmt: skip


class Served(NamedTuple):
    """What an arm gave for one image.

    Args:
        label: that was predicted; empty where it failed.
        confidence: in it.
        rejected: whether the prediction was rejected.
        seconds: from the request to the prediction.
        failed: why there is none; empty where there is one.
    """

    label: str = ""
    confidence: float = 0.0
    rejected: bool = False
    seconds: float = 0.0
    failed: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return its part of a line."""
        if self.failed:
            return {"failed": self.failed}
        return {
            "label": self.label, "confidence": round(self.confidence, 6), "rejected": self.rejected,
            "seconds": round(self.seconds, 6),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Served:
        """Read what `to_dict` gave."""
        if "failed" in found:
            return cls(failed=str(found["failed"]) or "unknown")
        return cls(str(found["label"]), float(found["confidence"]), bool(found["rejected"]), float(found["seconds"]))


class RolloutWriter:
    """Appends records to a file of this process, in a thread of its own, so that no request waits for the disk.

    Args:
        folder: that `record=` names.
        compared: what the records are of.

    Attributes:
        dropped: records that found the queue full, or the disk.
    """

    def __init__(self, folder: Path, compared: Compared) -> None:
        make_folder(folder / SUBFOLDER)
        self.dropped = 0
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(QUEUE_SIZE)
        header = dataclasses.replace(compared, began=time.time()).to_dict()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        # Many are begun in a second where production is reloaded under load: none may take the name of another.
        name = f"{stamp}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}.jsonl"
        self.path = folder / SUBFOLDER / name
        with self.path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(header, ensure_ascii=False) + "\n")
        self._thread = threading.Thread(target=self._write, name="rollout records", daemon=True)
        self._thread.start()

    def answered(self, request_id: str, arm: str, served: Served, other: Served | None = None) -> None:
        """Record the prediction of an arm, and that of a shadow beside it."""
        line = {"id": request_id, "at": time.time(), "arm": arm, **served.to_dict()}
        self._put(line if other is None else {**line, "other": other.to_dict()})

    def told(self, request_id: str, truth: str) -> bool:
        """Record a true label; returns whether there was room for it."""
        return self._put({"id": request_id, "at": time.time(), "truth": truth})

    def close(self) -> None:
        """Write what waits, and end."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _put(self, line: dict[str, Any]) -> bool:
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def _write(self) -> None:
        is_open = True
        while is_open:
            lines = [self._queue.get()]
            while not self._queue.empty():
                lines.append(self._queue.get())
            is_open = None not in lines
            texts = [json.dumps(line) + "\n" for line in lines if line is not None]
            try:
                # One write each time, so that only a killed machine leaves half a line.
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("".join(texts))
            except OSError:
                self.dropped += len(texts)


@dataclass
class Rollout:
    """What was recorded of one pair of runs.

    Args:
        compared: the pair.
        served: by request id: arm, what the arm gave, and what the shadow did, in the order of the answers.
        truths: by request id, in the order in which they came.
        left_out: records that are not of this pair or cannot be used, in numbers by name.
    """

    compared: Compared
    served: dict[str, tuple[str, Served, Served | None]] = field(default_factory=dict)
    truths: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def verdict(self, rules: Rules) -> RolloutVerdict:
        """Return the verdict on the new run by these records."""
        return _judge_shadow(self, rules) if self.compared.kind == SHADOW else _judge_canary(self, rules)


def read_rollout(folder: Path, *, new: Collection[str] | None = None, labels: Path | None = None) -> Rollout:
    """Read what all processes recorded of a pair of runs.

    A request id counts once, with its first answer; of several labels for one the last one counts, at the place of the
    first.

    Args:
        folder: that `record=` named.
        new: digests of the new run's files; the run of the newest records when left out.
        labels: a CSV table with columns id and label: more true labels.

    Raises:
        UserError: when there are no such records, or the table is no such one.
    """
    parts = [part for part in map(_read_file, sorted((folder / SUBFOLDER).glob("*.jsonl"))) if part is not None]
    parts.sort(key=lambda part: part[0].began)
    found = [compared for compared, _, _ in parts if new is None or compared.new_sha256 in new]
    if not found:
        named = enumerate_words(sorted({compared.new for compared, _, _ in parts}))
        raise UserError(
            f"{folder}: no records of a roll-out{f' of this run, but of {named}' if parts else ''}",
            "the folder that serve … canary=RUN or shadow=RUN recorded to",
            "serve run=production shadow=RUN record=FOLDER",
        )
    rollout = Rollout(found[-1])
    wanted = _pair(rollout.compared)
    lines: list[tuple[float, dict[str, Any]]] = []
    others = damaged = 0
    for compared, own, num_damaged in parts:
        damaged += num_damaged
        # Labels may have reached a process that has gone on to another pair.
        usable = [line for line in own if "truth" in line or _pair(compared) == wanted]
        others += len(own) - len(usable)
        lines += [(line["at"], line) for line in usable]
    # Stable, so that lines of one file keep their order.
    lines.sort(key=lambda line: line[0])
    repeated = _sort_lines(rollout, lines)
    for request_id, truth in _read_labels(labels) if labels is not None else ():
        rollout.truths[request_id] = truth
    unknown = sum(request_id not in rollout.served for request_id in rollout.truths)
    rollout.left_out = {
        "records of other pairs of runs": others, "damaged lines": damaged,
        "repeated request ids": repeated, "labels of unknown requests": unknown,
    }  # fmt: skip
    return rollout


def _pair(compared: Compared) -> tuple[str, str, str]:
    return compared.kind, compared.present_sha256, compared.new_sha256


def _sort_lines(rollout: Rollout, lines: Iterable[tuple[float, dict[str, Any]]]) -> int:
    """Take lines into a roll-out; returns how many had the id of another."""
    repeated = 0
    for _, line in lines:
        request_id = line["id"]
        if "truth" in line:
            rollout.truths[request_id] = line["truth"]
        elif request_id in rollout.served:
            repeated += 1
        else:
            other = Served.from_dict(line["other"]) if "other" in line else None
            rollout.served[request_id] = (line["arm"], Served.from_dict(line), other)
    return repeated


Part = tuple[Compared, list[dict[str, Any]], int]


def _read_file(path: Path) -> Part | None:
    """Read one file: what it compares, its lines, and how many are damaged; None where it is no such file."""
    lines, damaged, compared = [], 0, None
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                if compared is None:
                    compared = Compared.from_dict(line)
                elif isinstance(line["id"], str) and isinstance(line["at"], float):
                    "truth" in line or Served.from_dict(line)
                    lines.append(line)
            except (ValueError, KeyError, TypeError):
                if compared is None:
                    return None
                damaged += 1
    return None if compared is None else (compared, lines, damaged)


def _read_labels(path: Path) -> Iterator[tuple[str, str]]:
    if not path.exists():
        raise UserError(f"labels={path}: there is no such file", "a CSV table", "check the path")
    table = csv.DictReader(open_text(path))
    if not {"id", "label"} <= set(table.fieldnames or ()):
        raise UserError(
            f"labels={path}: columns {enumerate_words(table.fieldnames or ['none'])}",
            "a table with the columns id and label",
            "the ids are those of the header X-Request-ID",
        )
    for row in table:
        if row["id"] is None or row["label"] is None:
            raise UserError(
                f"labels={path}: line {table.line_num} is shorter than the header", "an id and a label", "complete it"
            )
        yield row["id"], row["label"]


def read_labels(body: bytes) -> list[tuple[str, str]]:
    """Read true labels that a client sent: {"id": …, "label": …}, or a list of such.

    Raises:
        ValueError: when they are something else.
    """
    try:
        found = json.loads(body)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    items = found if isinstance(found, list) else [found]
    if len(items) > MAX_LABELS:
        raise ValueError(f"{len(items):,} labels: a request may have {MAX_LABELS:,}")
    for item in items:
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("id", "label")):
            raise ValueError('expected {"id": "…", "label": "…"}, or a list of these')
        if len(item["id"]) > MAX_ID or len(item["label"]) > MAX_ID:
            raise ValueError(f"an id or a label has more than {MAX_ID} characters")
        # Half a surrogate pair is no text that a file can hold; its error is a ValueError.
        (item["id"] + item["label"]).encode()
    return [(item["id"], item["label"]) for item in items]


def _answers(served: Sequence[Served]) -> Answers:
    return Answers(
        np.array([one.confidence for one in served], dtype=np.float64),
        np.array([one.rejected for one in served], dtype=bool),
        np.array([bool(one.failed) for one in served], dtype=bool),
        np.array([one.seconds for one in served], dtype=np.float64),
    )


def _correct(served: Served, truth: str) -> bool:
    return not served.failed and served.label == truth


def _judge_shadow(rollout: Rollout, rules: Rules) -> RolloutVerdict:
    pairs = {key: (served, other) for key, (_, served, other) in rollout.served.items() if other is not None}
    labelled = [(*pairs[key], truth) for key, truth in rollout.truths.items() if key in pairs]
    new = np.array([_correct(other, truth) for _, other, truth in labelled], dtype=bool)
    present = np.array([_correct(served, truth) for served, _, truth in labelled], dtype=bool)
    both = list(pairs.values())
    agreed = sum(not other.failed and other.label == served.label for served, other in both)
    (agreement,) = exact_shares(np.array([agreed]), np.array([len(both)]))
    alone = len(rollout.served) - len(both)
    return combine(
        judge_pairs(new, present, rules),
        check_guardrails(_answers([other for _, other in both]), _answers([served for served, _ in both]), None, rules),
        rules,
        kind="shadow",
        num_requests=len(both),
        num_present=len(rollout.served),
        agreement=agreement,
        left_out={**rollout.left_out, "requests that the shadow was too busy for": alone},
    )


def _judge_canary(rollout: Rollout, rules: Rules) -> RolloutVerdict:
    arms = [(arm == CANARY, served) for arm, served, _ in rollout.served.values()]
    is_new = np.array([new for new, _ in arms], dtype=bool)
    labelled = [
        (arm == CANARY, _correct(served, truth))
        for (arm, served, _), truth in (
            (rollout.served[key], truth) for key, truth in rollout.truths.items() if key in rollout.served
        )
    ]
    rails = check_guardrails(
        _answers([served for new, served in arms if new]),
        _answers([served for new, served in arms if not new]),
        np.cumsum(~is_new)[is_new],
        rules,
    )
    return combine(
        judge_arms(
            np.array([new for new, _ in labelled], dtype=bool), np.array([good for _, good in labelled], bool), rules
        ),
        rails,
        rules,
        kind="canary",
        num_requests=int(is_new.sum()),
        num_present=int((~is_new).sum()),
        left_out=rollout.left_out,
    )
