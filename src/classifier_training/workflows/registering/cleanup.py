"""`registry cleanup`: free disk; without apply=true it only says what would go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from classifier_training.core.display import align
from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.registry.cleanup import Removal, clean_up
from classifier_training.registry.runs import DEFAULT_OUTPUT
from classifier_training.registry.scan import Registry


@dataclass(frozen=True)
class CleanupResult:
    """What went, or would go.

    Args:
        removals: runs and logs.
        spared: what was left alone, and why.
        freed_bytes: that this freed; None for a dry run.
    """

    removals: tuple[Removal, ...]
    spared: tuple[str, ...]
    freed_bytes: int | None

    def __str__(self) -> str:
        total = sum(removal.size_bytes for removal in self.removals)
        rows = [(f"{one.size_bytes / 2**20:.1f}", one.reason, str(one.path)) for one in self.removals]
        lines = align(("MiB", "why", "what"), rows, right=frozenset({"MiB"})) if rows else ["nothing to clean up"]
        lines += [f"left alone: {words}" for words in self.spared]
        if self.freed_bytes is not None:
            lines.append(f"freed {self.freed_bytes / 2**20:.1f} MiB")
        elif rows:
            lines.append(f"{len(rows)} would go and free {total / 2**20:.1f} MiB; nothing was removed: add apply=true")
        return "\n".join(lines)


@register(group="registry", name="cleanup")
def cleanup(
    *,
    output: str = DEFAULT_OUTPUT,
    failed: bool = False,
    keep: Annotated[int, Field(ge=1)] | None = None,
    log_days: Annotated[float, Field(ge=0)] | None = None,
    apply: bool = False,
) -> CleanupResult:
    """Remove failed runs, old versions and old logs; never a promoted run, nor one that a process works in.

    It is a dry run that says what would go, unless apply=true. Links are removed, what they lead to is not.

    Args:
        output: folder of all runs.
        failed: remove runs that did not finish, and damaged ones; those that wrote in the last hour stay.
        keep: remove the finished runs of each name and model but for so many of the newest.
        log_days: remove train.log, tensorboard/ and wandb/ of finished runs when they are older than so many days.
        apply: remove them; else only say what would go.
    """
    if not failed and keep is None and log_days is None:
        raise UserError(
            "registry cleanup without a word on what may go",
            "one or more of failed=true, keep=3, log_days=7",
            "classifier-training registry cleanup failed=true   (a dry run, until apply=true is added)",
        )
    registry = Registry.open(Path(output).expanduser())
    removals, spared, freed = clean_up(registry, failed=failed, keep=keep, log_days=log_days, apply=apply)
    return CleanupResult(tuple(removals), tuple(spared), freed if apply else None)
