"""What `run=` may say besides a path: latest, best, NAME, NAME:v2, an alias, NAME:alias."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.metrics import goal_of
from classifier_training.registry.record import DAMAGED, FINISHED, RunRecord
from classifier_training.registry.scan import Registry

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

LATEST, BEST = "latest", "best"
PRODUCTION = "production"
"""The usual alias: whoever types it means a run, whether or not there is one."""
VERSION = re.compile(r"v([1-9]\d*)")


@dataclass(frozen=True)
class Reference:
    """A reference in its parts.

    Args:
        text: as typed.
        name: before the last colon; empty where there is none, and `which` is all.
        which: a version, an alias, latest, best or a name.
    """

    text: str
    name: str
    which: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Take a reference apart."""
        name, _, which = text.rpartition(":")
        return cls(text, name, which)

    @property
    def is_reserved(self) -> bool:
        """Whether it is latest or best, which no folder takes away."""
        return self.text in (LATEST, BEST)


def resolve(reference: Reference, output: Path, *, setting: str = "run") -> Path:
    """Return the run folder that a reference stands for.

    Args:
        reference: no path.
        output: folder of all runs.
        setting: what the user set, for messages.

    Raises:
        UserError: when there is none, or several.
    """
    if not output.is_dir():
        raise _nothing_there(reference, output, setting)
    registry = Registry.open(output)
    record = choose(reference, registry, setting=setting)
    folder = registry.folder(record)
    if record.status == DAMAGED:
        raise UserError(
            f"{setting}={reference.text} is {folder}, which is damaged: {record.problem}",
            "the folder as the run left it",
            "restore it from a copy, or name another run",
        )
    return folder


def choose(reference: Reference, registry: Registry, *, setting: str = "run") -> RunRecord:
    """Return the run of a registry that a reference stands for; see `resolve`.

    Raises:
        UserError: when there is none, or several.
    """
    records = list(registry.runs.values())
    if reference.is_reserved:
        return _chosen(reference.which, records, reference, registry, setting)
    if not reference.name:
        holders = present_holders(records)
        found = [record for (_, alias), record in holders.items() if alias == reference.which]
        if len(found) > 1:
            names = [f"{record.scope or record.title}:{reference.which}" for record in found]
            raise UserError(
                f"{setting}={reference.text}: {len(found)} names have a run of that alias",
                f"one of {enumerate_words(names)}",
                f"{setting}={names[0]}",
            )
        if found:
            return found[0]
        named = [record for record in records if reference.which in (record.title, record.scope, record.folder)]
        if named:
            return _chosen(LATEST, named, reference, registry, setting)
        raise _unknown(reference, records, registry, setting)
    named = [record for record in records if reference.name in (record.title, record.scope)]
    if not named:
        raise _unknown(reference, records, registry, setting)
    if reference.which in (LATEST, BEST):
        return _chosen(reference.which, named, reference, registry, setting)
    if version := VERSION.fullmatch(reference.which):
        found = [record for record in named if record.version == int(version[1])]
        words = [f"{reference.name}:v{record.version}" for record in named if record.version is not None]
    else:
        holders = present_holders(named)
        found = [record for (_, alias), record in holders.items() if alias == reference.which]
        words = [f"{reference.name}:{alias}" for _, alias in holders] or [f"{reference.name}:{LATEST}"]
    if not found:
        raise UserError(
            f"{setting}={reference.text}: {reference.name} has no {reference.which}",
            f"one of {enumerate_words(words)}",
            f"classifier-training registry list name={reference.name}   shows what there is",
        )
    return found[0]


def present_holders(records: Iterable[RunRecord]) -> dict[tuple[str, str], RunRecord]:
    """Return the run that holds each alias now, by the alias's scope and the alias."""
    found: dict[tuple[str, str], tuple[int, RunRecord]] = {}
    for record in sorted(records, key=lambda record: (record.started, record.folder)):
        for alias, number in record.promotions:
            key = (record.scope, alias)
            # Of a run and its copy, the original.
            if key not in found or number > found[key][0]:
                found[key] = (number, record)
    return {key: record for key, (_, record) in found.items()}


def best_score(record: RunRecord) -> float:
    """How good a run's monitored metric is: more is better; minus infinity where it has none."""
    if record.monitor is None:
        return float("-inf")
    name, value = record.monitor
    return value if goal_of(name) == "max" else -value


def _chosen(which: str, records: list[RunRecord], reference: Reference, registry: Registry, setting: str) -> RunRecord:
    exported = [record for record in records if record.exported_at is not None and record.status != DAMAGED]
    damaged = [record for record in records if record.status == DAMAGED]
    for record in damaged[:3]:
        log.warning("left out %s: %s", registry.folder(record), record.problem)
    if not exported:
        raise _nothing_there(reference, registry.root, setting)
    if which == BEST:
        return max(exported, key=best_score)
    return max(exported, key=lambda record: record.exported_at or 0)


def _nothing_there(reference: Reference, output: Path, setting: str) -> UserError:
    if not reference.is_reserved:
        return _no_such(reference, output, setting, [])
    return UserError(
        f"{setting}={reference.text}: no finished run below {output.absolute()}",
        "a run with its exported model there",
        f"name a run elsewhere by its folder: {setting}=FOLDER; or make one: classifier-training train",
    )


def _unknown(reference: Reference, records: list[RunRecord], registry: Registry, setting: str) -> UserError:
    names = {record.title for record in records if record.status == FINISHED}
    aliases = {alias for _, alias in present_holders(records)}
    close = nearest(reference.name or reference.which, sorted(names | aliases))
    return _no_such(reference, registry.root, setting, close)


def _no_such(reference: Reference, output: Path, setting: str, close: list[str]) -> UserError:
    return UserError(
        f"{setting}={reference.text}: there is no such folder, and no run of that name or alias below {output}/",
        "a run folder, latest, best, NAME, NAME:v2, or an alias such as production",
        f"{setting}={close[0]}"
        if close
        else f"classifier-training registry list output={output}   shows names and aliases"
        if setting == "alias"
        else f"{setting}=latest takes the newest run below {output}/",
    )
