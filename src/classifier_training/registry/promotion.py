"""Giving a run an alias: the gate, and the record of it in the run's own folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import CheckFailedError, UserError, enumerate_words
from classifier_training.core.metrics import goal_of
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.core.run_reader import RunReader
from classifier_training.core.runtime import command, setting, user_name, versions
from classifier_training.registry.record import (
    DAMAGED,
    FINISHED,
    Promotion,
    RunRecord,
    read_promotions,
    write_registration,
)
from classifier_training.registry.references import choose, present_holders

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.registry.references import Reference
    from classifier_training.registry.scan import Registry

log = logging.getLogger(__name__)


READY, NOT_READY = "ready", "not ready"
"""Verdicts on a run that reaches all of its targets, and on one that misses a target."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of a promotion.

    Args:
        name: of it.
        passed: whether it holds.
        words: the check in words, with its metrics.
        is_note: whether it only says something that stops nothing.
    """

    name: str
    passed: bool
    words: str
    is_note: bool = False

    @property
    def mark(self) -> str:
        """The outcome in six letters."""
        return "note  " if self.is_note else "passed" if self.passed else "FAILED"


def model_digests(run: RunDir) -> frozenset[str]:
    """SHA-256 of every model file of a run, as its description says, and of model.onnx as it is."""
    try:
        described = {str(file.get("sha256")) for file in RunReader(run).info.get("files", {}).values()}
    except (OSError, UserError):
        # A damaged one has said so.
        described = set()
    return frozenset(described | ({sha256(run.onnx)} if run.onnx.is_file() else set()))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A verdict on a run that served beside the one in production.

    Args:
        passed: whether it says that the run be promoted.
        words: the verdict in words.
        against: digest of the model file that the run was compared with.
        root: folder of all runs.
    """

    passed: bool
    words: str
    against: str
    root: Path

    def check(self, holder: RunRecord | None) -> Check:
        """Return the condition of a promotion: the verdict, and that it is on the present holder."""
        if holder is None or self.against not in model_digests(RunDir(self.root / holder.folder)):
            name = "no run" if holder is None else holder.version_name
            words = f"roll-out: it was compared with another run than the present holder, {name}"
            return Check(name="rollout", passed=False, words=words)
        return Check(name="rollout", passed=self.passed, words=f"roll-out: {self.words}")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a run must pass to be given an alias.

    Args:
        metric: on the held-out split, to be compared with the bound.
        bound: least acceptable value; that of the present holder when left out.
        force: promote whatever the checks say.
        rollout: what the run was seen to do in production beside the present holder; None where nobody asks.
    """

    metric: str = "balanced_accuracy"
    bound: float | None = None
    force: bool = False
    rollout: Trial | None = None

    def check(self, record: RunRecord, holder: RunRecord | None, *, alias: str) -> list[Check]:
        """Check a run against the present holder of an alias.

        Raises:
            CheckFailedError: when a check fails, unless the promotion is forced.
        """
        checks = judge(record, holder, metric=self.metric, bound=self.bound)
        if self.rollout is not None:
            checks.append(self.rollout.check(holder))
        failed = [check for check in checks if not check.passed]
        if failed and not self.force:
            remove = "the run without the files that are not verified, " if record.unproven else ""
            raise CheckFailedError(
                f"{record.version_name} is not promoted to {alias}: {'; '.join(check.words for check in failed)}",
                "a finished run whose exports are proven, that misses none of the targets that were set, with the "
                "holder's classes and a metric at least as good",
                f"{remove}another run, at_least=… for a bound of your own, or force=true to promote it even so",
            )
        return checks


def judge(record: RunRecord, holder: RunRecord | None, *, metric: str, bound: float | None) -> list[Check]:
    """Check a run that shall be given an alias.

    Args:
        record: the run.
        holder: of the alias now.
        metric: on the held-out split, to be compared with the bound.
        bound: least acceptable value; that of the holder when left out.
    """
    checks = [
        Check(name="finished", passed=record.status == FINISHED, words=f"the run is {record.status}"),
        Check(
            name="parity",
            passed=record.exported_at is not None and not record.unproven,
            words="nothing was exported"
            if record.exported_at is None
            else f"not verified against PyTorch: {', '.join(record.unproven)}"
            if record.unproven
            else "every exported file agrees with PyTorch, or passed its accuracy gate",
        ),
    ]
    if record.verdict:
        targets = "the targets that were set" if record.has_own_targets else "the default target, which stops nothing"
        passed = record.verdict != NOT_READY or not record.has_own_targets
        words = f"verdict on {targets}: {record.verdict}: {record.verdict_words}"
        checks.append(Check(name="verdict", passed=passed, words=words, is_note=passed and record.verdict != READY))
    rival = None if holder is None or holder.folder == record.folder else holder
    if rival is not None:
        same = rival.classes == record.classes
        words = f"{rival.version_name} knows {'the same' if same else 'other'} classes"
        checks.append(Check(name="classes", passed=same, words=words))
    if bound is not None or rival is not None:
        checks.append(_judge_metric(record, rival, metric, bound))
    return checks


def _judge_metric(record: RunRecord, rival: RunRecord | None, metric: str, bound: float | None) -> Check:
    value, source = record.metrics.get(metric), "the given bound"
    if bound is None and rival is not None:
        bound, source = rival.metrics.get(metric), rival.version_name
        if bound is not None and rival.split != record.split:
            words = f"{record.split}/{metric} cannot be compared with {source}'s {rival.split}/{metric}"
            return Check(name="metric", passed=False, words=words)
    if value is None or bound is None:
        who = "the run" if value is None else source
        return Check(name="metric", passed=False, words=f"{who} has no {metric}")
    less = goal_of(f"{record.split}/{metric}") == "min"
    passed = value <= bound if less else value >= bound
    words = f"{record.split}/{metric} {value:.4f} against {bound:.4f} of {source}"
    return Check(name="metric", passed=passed, words=words)


def promote(registry: Registry, folder: str, alias: str, gate: Gate) -> tuple[RunRecord, RunRecord | None, list[Check]]:
    """Give a run an alias, which it takes away from the present holder of the same scope.

    Written into the run's registry.json: alias, time in UTC, user of the system, versions, checks with their metrics,
    and the digest of the exported model. The weights are not touched.

    Args:
        registry: of all runs.
        folder: of the run, below the registry's.
        alias: such as production.
        gate: that it must pass; where it is forced, the checks are recorded as they are.

    Returns:
        The promoted run, the former holder, and the checks.

    Raises:
        CheckFailedError: when a check fails; nothing is changed then.
    """
    with registry.locked():
        registry.refresh()
        record = registry.runs[folder]
        holders = present_holders(registry.runs.values())
        holder = holders.get((record.scope, alias))
        if record.exported_at is None or record.status == DAMAGED:
            raise CheckFailedError(
                f"{record.version_name} cannot be promoted: {record.problem or 'it has exported nothing'}",
                "a run with its exported model",
                f"{command('export')} {setting('run', registry.folder(record))}, or another run",
            )
        checks = gate.check(record, holder, alias=alias)
        promoted = _enter(
            registry,
            record,
            alias,
            forced=not all(check.passed for check in checks),
            instead_of=None if holder is None else holder.version_name,
            checks={check.name: {"passed": check.passed, "words": check.words} for check in checks},
        )
    others = [one for (scope, name), one in holders.items() if name == alias and scope != record.scope]
    if others:
        names = [f"{one.scope or one.title}:{alias}" for one in (promoted, *others)]
        log.warning("run=%s alone is not clear any more: it is one of %s", alias, enumerate_words(names))
    return promoted, holder, checks


def _enter(registry: Registry, record: RunRecord, alias: str, **facts: Any) -> RunRecord:
    """Write a promotion into the folder of a run; for who holds the registry's lock. Returns the new record."""
    run = RunDir(registry.folder(record))
    number = 1 + max((number for number, _, _ in _history(registry, record.scope, alias)), default=0)
    entry = {
        "alias": alias,
        "number": number,
        "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": user_name(),
        **facts,
        "sha256": sha256(run.onnx) if run.onnx.is_file() else None,
        "versions": versions(),
    }
    write_registration(
        run,
        title=record.title,
        scope=record.scope,
        version=record.version,
        promotions=[*read_promotions(run), entry],
    )
    return record._replace(promotions=(*record.promotions, Promotion(alias, number)))


def _history(registry: Registry, scope: str, alias: str) -> list[tuple[int, RunRecord, bool]]:
    """Every promotion to an alias, in their order: its number, the run, and whether it was a roll back."""
    found: dict[int, tuple[int, RunRecord, bool]] = {}
    # Of a run and its copy, the original.
    for record in sorted(registry.runs.values(), key=lambda record: (record.started, record.folder)):
        if record.scope == scope and any(held.alias == alias for held in record.promotions):
            for entry in read_promotions(RunDir(registry.folder(record))):
                if entry.get("alias") == alias and isinstance(number := entry.get("number"), int):
                    found.setdefault(number, (number, record, bool(entry.get("rolled_back"))))
    return [found[number] for number in sorted(found)]


def roll_back(registry: Registry, reference: Reference) -> tuple[RunRecord, RunRecord]:
    """Give an alias back to the run that held it before the present holder.

    Rolled back twice, it goes to the one before that: a run that was left by a roll back is not returned to. Deleted
    runs, and those without an exported model, are passed over.

    Args:
        registry: of all runs.
        reference: the alias, or NAME:alias where several names have it.

    Returns:
        The run that holds the alias now, and the one that held it.

    Raises:
        UserError: when no run holds the alias.
        CheckFailedError: when no run held it before.
    """
    with registry.locked():
        registry.refresh()
        holder = choose(reference, registry, setting="alias")
        alias = reference.which
        held: list[RunRecord] = []
        for _, record, is_return in _history(registry, holder.scope, alias):
            while is_return and held and held[-1].folder != record.folder:
                held.pop()
            if not held or held[-1].folder != record.folder:
                held.append(record)
        if not held or held[-1].folder != holder.folder:
            raise UserError(
                f"alias={reference.text}: no alias that a run holds",
                "an alias, such as production, or NAME:production",
                f"{command('registry list')}   shows the aliases",
            )
        before = [one for one in held[:-1] if one.exported_at is not None and one.status != DAMAGED]
        if not before:
            raise CheckFailedError(
                f"{holder.version_name} is the first run that is {alias}, or those before it are gone",
                "a run that held the alias before",
                f"{command('registry promote')} {setting('run', 'RUN')} {setting('alias', alias)}",
            )
        returned = _enter(
            registry, before[-1], alias, forced=False, rolled_back=True, instead_of=holder.version_name, checks={}
        )
    return returned, holder
