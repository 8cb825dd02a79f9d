"""`registry promote`: give a run an alias, through a gate."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from classifier_training.core.errors import UserError
from classifier_training.core.register import Choice, Word, register
from classifier_training.core.run_dir import RunDir
from classifier_training.core.runtime import command, setting
from classifier_training.registry.promotion import Check, promote
from classifier_training.registry.record import RunRecord
from classifier_training.registry.references import BEST, LATEST, VERSION
from classifier_training.registry.runs import DEFAULT_OUTPUT, find_run
from classifier_training.registry.scan import Registry

ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class PromoteResult:
    """A promotion.

    Args:
        record: the run that holds the alias now.
        alias: which.
        former: the run that held it.
        checks: of the gate.
        published: what a registry elsewhere was told.
    """

    record: RunRecord
    alias: str
    former: RunRecord | None
    checks: tuple[Check, ...]
    published: str

    def __str__(self) -> str:
        others = self.former is not None and self.former.folder != self.record.folder
        instead = f", instead of {self.former.version_name}" if self.former is not None and others else ""
        checks = [f"  {'passed' if check.passed else 'FAILED'}  {check.words}" for check in self.checks]
        word = self.alias if not self.record.scope else f"{self.record.scope}:{self.alias}"
        lines = [f"{self.record.version_name} is {word} now{instead}", *checks]
        lines += [self.published] if self.published else []
        return "\n".join([*lines, f"\nnext:\n  {command('predict')} {setting('run', word)} source=…"])


@register(group="registry", name="promote")
def promote_run(
    *,
    run: Annotated[str, Word()],
    alias: str,
    output: str = DEFAULT_OUTPUT,
    metric: str = "balanced_accuracy",
    at_least: float | None = None,
    force: bool = False,
    publish: Annotated[Callable[..., Any] | None, Choice(None)] = None,
) -> PromoteResult:
    """Give a run an alias such as production, which run=production then stands for in every verb.

    The gate: a finished run; every exported file shown to answer as PyTorch does; the classes of the present holder;
    and a metric at least as good as the holder's, or as the bound that is given.

    Args:
        run: run folder, latest, best, NAME, NAME:v2 or an alias.
        alias: a word, such as production or staging.
        output: folder of all runs.
        metric: figure that is compared, of the split that the run was scored on.
        at_least: what the metric must reach instead of the holder's; for a loss, what it must not pass.
        force: promote even if a check fails; the record says so.
        publish: a registry elsewhere that is told too, mlflow or wandb.
    """
    if not ALIAS.fullmatch(alias) or alias in (LATEST, BEST) or VERSION.fullmatch(alias):
        raise UserError(
            f"alias={alias}: cannot be an alias",
            f"letters, digits, - and _, beginning with a letter; {LATEST}, {BEST} and v1, v2, … have a meaning",
            "alias=production",
        )
    root = Path(output).expanduser()
    folder = find_run(run, output=output).path.resolve()
    if not root.is_dir() or not folder.is_relative_to(root.resolve()):
        raise UserError(
            f"run={run}: {folder} is not below {root.absolute()}",
            "a run of the registry's folder: aliases are looked for there",
            "output=FOLDER that the run is in",
        )
    registry = Registry.open(root)
    relative = folder.relative_to(root.resolve()).as_posix()
    if relative not in registry.runs:
        raise UserError(f"{folder}: no run folder", "a folder with config.yaml and model_info.json", "run=latest")
    try:
        record, former, checks = promote(registry, relative, alias, metric=metric, bound=at_least, force=force)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be written ({error.strerror})",
            "a run folder that can be written to: the promotion is recorded there",
            "mend the permissions, or work on a copy: output=…",
        ) from error
    published = "" if publish is None else str(publish(RunDir(folder), record, alias))
    return PromoteResult(record, alias, former, tuple(checks), published)
