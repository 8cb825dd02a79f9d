"""Giving a run an alias: the gate, and the record of it in the run's own folder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.metrics import goal_of
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.core.runtime import command, setting, user_name, versions
from classifier_training.registry.record import (
    DAMAGED,
    FINISHED,
    Promotion,
    RunRecord,
    read_promotions,
    write_registration,
)
from classifier_training.registry.references import present_holders

if TYPE_CHECKING:
    from classifier_training.registry.scan import Registry


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


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a run must pass to be given an alias.

    Args:
        metric: on the held-out split, to be compared with the bound.
        bound: least acceptable value; that of the present holder when left out.
        force: promote whatever the checks say.
    """

    metric: str = "balanced_accuracy"
    bound: float | None = None
    force: bool = False

    def check(self, record: RunRecord, holder: RunRecord | None, *, alias: str) -> list[Check]:
        """Check a run against the present holder of an alias.

        Raises:
            CheckFailedError: when a check fails, unless the promotion is forced.
        """
        checks = judge(record, holder, metric=self.metric, bound=self.bound)
        failed = [check for check in checks if not check.passed]
        if failed and not self.force:
            raise CheckFailedError(
                f"{record.version_name} is not promoted to {alias}: {'; '.join(check.words for check in failed)}",
                "a finished run whose exports are proven, that misses none of the targets that were set, with the "
                "holder's classes and a metric at least as good",
                "another run, at_least=… for a bound of your own, or force=true to promote it even so",
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
        holder = present_holders(registry.runs.values()).get((record.scope, alias))
        if record.exported_at is None or record.status == DAMAGED:
            raise CheckFailedError(
                f"{record.version_name} cannot be promoted: {record.problem or 'it has exported nothing'}",
                "a run with its exported model",
                f"{command('export')} {setting('run', registry.folder(record))}, or another run",
            )
        checks = gate.check(record, holder, alias=alias)
        run = RunDir(registry.folder(record))
        others = (other for other in registry.runs.values() if other.scope == record.scope)
        number = 1 + max(
            (held.number for other in others for held in other.promotions if held.alias == alias), default=0
        )
        entry = {
            "alias": alias,
            "number": number,
            "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "user": user_name(),
            "forced": not all(check.passed for check in checks),
            "instead_of": None if holder is None else holder.version_name,
            "checks": {check.name: {"passed": check.passed, "words": check.words} for check in checks},
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
        promoted = record._replace(promotions=(*record.promotions, Promotion(alias, number)))
    return promoted, holder, checks
