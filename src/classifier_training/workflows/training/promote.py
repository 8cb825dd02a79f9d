"""`train promote=true`: a finished run is given the alias production, through the gate of `registry promote`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.runtime import command, setting
from classifier_training.registry.promotion import Check, Gate, judge, promote
from classifier_training.registry.references import PRODUCTION
from classifier_training.registry.scan import Registry

if TYPE_CHECKING:
    from classifier_training.core.run_dir import RunDir
    from classifier_training.registry.record import RunRecord
    from classifier_training.workflows.evaluating.trained_again import TrainedAgain

log = logging.getLogger(__name__)

REMEDIES = {
    "finished": "look at what failed above, and resume the run",
    "parity": "look at the exports: registry show names the file that does not agree with PyTorch",
    "verdict": "label more images of the classes that miss the target, or set another target",
    "held-out images": "label more images, raise replay, or train longer: trainer.max_epochs",
    "old classes": "label more images of these classes, or raise replay, as in replay=0.8",
    "holder": "train again from the run that is in production now: init_from=production",
    "classes": "add replay=0.2 to keep the classes of the run in production",
    "metric": "label more images, or train longer: trainer.max_epochs",
}
"""What to do where a check fails, by its name."""


@dataclass(frozen=True, kw_only=True)
class PairedGate(Gate):
    """The gate for a run that was trained again.

    The run before may know fewer classes and was scored on fewer images, so that their classes and metrics say
    nothing; the checks of a paired comparison on the images of both take their place.

    Args:
        again: that comparison; None for a run that was not trained again.
        before: folder of the run before, below the folder of all runs.
    """

    again: TrainedAgain | None = None
    before: str = ""

    def check(self, record: RunRecord, holder: RunRecord | None, *, alias: str) -> list[Check]:
        """Check a run against the present holder of an alias; see the base class.

        Raises:
            CheckFailedError: when a check fails.
        """
        rival = holder
        checks: list[Check] = []
        if self.again is not None:
            checks += self.again.checks
            if holder is not None and holder.folder == self.before:
                rival = None
            elif holder is not None and holder.folder != record.folder:
                words = f"{alias} is {holder.version_name}, and the run was compared with {self.again.before}"
                checks.append(Check(name="holder", passed=False, words=words))
        checks = [*judge(record, rival, metric=self.metric, bound=self.bound), *checks]
        failed = [check for check in checks if not check.passed]
        if failed:
            raise CheckFailedError(
                f"{record.version_name} is not promoted to {alias}: "
                + "; ".join(f"{check.name}: {check.words}" for check in failed),
                "a run that passes every check of the gate",
                "; ".join(dict.fromkeys(REMEDIES[check.name] for check in failed if check.name in REMEDIES)),
            )
        return checks


@dataclass(frozen=True)
class Promoted:
    """What came of promote=true.

    Args:
        words: lines for people.
        refused: whether a check failed.
    """

    words: tuple[str, ...]
    refused: bool = False


def promote_finished(run_dir: RunDir, again: TrainedAgain | None, *, output: str) -> Promoted:
    """Give a finished run the alias production if it passes the gate; what refuses it is logged and changes nothing.

    Args:
        run_dir: the run.
        again: the run against the one before; None for a run that was not trained again.
        output: folder of all runs.
    """
    root, folder = Path(output).expanduser().resolve(), run_dir.path.resolve()
    forced = f"{command('registry')} promote {setting('run', run_dir.path)} alias={PRODUCTION}"
    if output != "outputs":
        forced += f" {setting('output', output)}"
    try:
        _refuse_outside(folder, root)
        before = Path(again.before).resolve() if again else root
        inside = before.relative_to(root).as_posix() if before.is_relative_to(root) else ""
        record, former, checks = promote(
            Registry.open(root), folder.relative_to(root).as_posix(), PRODUCTION, PairedGate(again=again, before=inside)
        )
    except (UserError, OSError) as error:
        log.error("promote: %s", error)  # noqa: TRY400 - the message is for the user, the traceback is not
        why = error.came if isinstance(error, UserError) else str(error)
        return Promoted(
            (
                f"NOT PROMOTED: {why}",
                *([f"  to do: {error.remedy}"] if isinstance(error, UserError) else []),
                f"  or promote it even so: {forced} force=true",
            ),
            refused=True,
        )
    instead = f", instead of {former.version_name}" if former is not None and former.folder != record.folder else ""
    log.info("promote: %s is %s now%s", record.version_name, PRODUCTION, instead)
    return Promoted(
        (
            f"promoted: {record.version_name} is {PRODUCTION} now{instead}",
            *(f"  {check.mark}  {check.words}" for check in checks),
        )
    )


def _refuse_outside(folder: Path, root: Path) -> None:
    if not folder.is_relative_to(root):
        raise UserError(
            f"promote=true: {folder} is not below {root}",
            "a run in the folder of all runs, where its alias is looked for",
            "output=FOLDER that the run is in",
        )
