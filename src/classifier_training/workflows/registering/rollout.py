"""registry verdict and rollback: what a roll-out has shown, and the way back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import Word, register
from classifier_training.core.run_dir import RunDir, write_json
from classifier_training.core.run_reader import read_values
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.registry.promotion import Trial, model_digests, roll_back
from classifier_training.registry.record import RunRecord
from classifier_training.registry.references import Reference
from classifier_training.registry.runs import DEFAULT_OUTPUT, find_run
from classifier_training.registry.scan import Registry
from classifier_training.service.records import VERDICT, Compared, read_rollout
from classifier_training.service.verdict import PROMOTE, ROLL_BACK, RolloutVerdict, Rules

NO_VERDICT = 4
"""Exit code of a roll-out that has to go on."""

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class VerdictResult:
    """Result of `registry verdict`.

    Args:
        verdict: on the new run.
        compared: which runs.
        file: that it was written to.
    """

    verdict: RolloutVerdict
    compared: Compared
    file: Path

    @property
    def exit_code(self) -> int:
        """0 to promote, 1 to roll back, 4 as long as there is no verdict."""
        return {PROMOTE: 0, ROLL_BACK: 1}.get(self.verdict.state, NO_VERDICT)

    def __str__(self) -> str:
        compared = self.compared
        share = f" of {compared.share:.0%} of the requests" if compared.kind == "canary" else ""
        head = f"{compared.new} as {compared.kind}{share}, beside {compared.present}"
        lines = [head, *self.verdict.lines(), f"written to {self.file}"]
        if self.verdict.state == PROMOTE:
            promote = f"{command('registry promote')} {setting('run', compared.new)} alias=production"
            lines.append(f"\nnext:\n  {promote} {setting('rollout', self.file.parent.parent)}")
        return "\n".join(lines)


@register(
    group="registry",
    name="verdict",
    examples=(
        "registry verdict served/",
        "registry verdict served/ labels=labels.csv margin=0.01",
    ),
)
def verdict(
    *,
    folder: Annotated[TypedPath, Word()],
    run: RunText | None = None,
    output: TypedPath = DEFAULT_OUTPUT,
    labels: TypedPath | None = None,
    min_images: Annotated[int, Field(ge=10)] = 100,
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05,
    margin: Share = 0.0,
    needs_truth: bool = True,
    max_rejected: Share = 0.05,
    max_failed: Share = 0.01,
    max_confidence_drop: Share = 0.1,
    max_slower: Annotated[float, Field(ge=1)] = 1.5,
) -> VerdictResult:
    """Say whether a run that serves as shadow or canary is to be promoted, rolled back, or watched further.

    It may be asked as often as one likes: there are fixed looks, at min_images, twice as many and so on, and alpha is
    the error of all of them together. The verdict is written beside the records, where `registry promote
    rollout=FOLDER` asks for it, and where `serve` reads it: a run that is to be rolled back gets no more requests.

    The exit code is 0 to promote, 1 to roll back, and 4 as long as there is no verdict.

    Args:
        folder: that serve recorded to.
        run: the new run; that of the newest records when left out.
        output: folder of all runs.
        labels: CSV table with columns id and label: true labels beside those that were sent to /feedback.
        min_images: labelled images, and predictions of the new run, before the first look.
        alpha: largest chance of promoting or rolling back a run that is equal to the present one.
        margin: loss of accuracy that is accepted: the run is promoted once it is shown to lose less. At 0 it must be
            better.
        needs_truth: whether only true labels promote; without them, keeping to all guardrails does.
        max_rejected: largest rise of the share of rejected predictions; more is rolled back, as in the following.
        max_failed: largest share of requests that the new run cannot answer.
        max_confidence_drop: largest fall of the mean confidence.
        max_slower: how many times as long 95 % of a canary's requests may take.
    """
    place = Path(folder).expanduser()
    digests = None if run is None else model_digests(find_run(run, output=output))
    rollout = read_rollout(place, new=digests, labels=None if labels is None else Path(labels).expanduser())
    rules = Rules(
        min_images=min_images, alpha=alpha, margin=margin, needs_truth=needs_truth, max_rejected=max_rejected,
        max_failed=max_failed, max_confidence_drop=max_confidence_drop, max_slower=max_slower,
    )  # fmt: skip
    found = rollout.verdict(rules)
    file = place / VERDICT
    write_json(file, {**rollout.compared.to_dict(), "verdict": found.to_dict(), "rules": asdict(rules)})
    return VerdictResult(found, rollout.compared, file)


def read_trial(folder: Path, run: RunDir, root: Path) -> Trial:
    """Read the verdict on a run that served beside the one in production.

    Args:
        folder: that serve recorded to.
        run: that is to be promoted.
        root: folder of all runs.

    Raises:
        UserError: when there is no verdict, or it is on another run.
    """
    ask = f"{command('registry verdict')} {setting('folder', folder)}"
    file = folder / VERDICT
    try:
        found = read_values(file)
        compared, verdict = Compared.from_dict(found), found["verdict"]
        trial = Trial(
            passed=verdict["state"] == PROMOTE,
            words=f"{verdict['state']}: {verdict['words']}",
            against=compared.present_sha256,
            root=root,
        )
    except FileNotFoundError as error:
        raise UserError(f"rollout={folder}: there is no verdict yet", f"{file}, which this writes", ask) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: {type(error).__name__}: {error}", "what registry verdict writes", ask) from error
    if compared.new_sha256 not in model_digests(run):
        raise UserError(
            f"rollout={folder}: the verdict is on {compared.new}, and not on {run.path}",
            "the run that served as shadow or canary",
            f"{ask} {setting('run', run.path)}",
        )
    return trial


@dataclass(frozen=True)
class RollbackResult:
    """Result of `registry rollback`.

    Args:
        alias: as it was typed.
        record: the run that holds it now.
        former: the run that held it.
    """

    alias: str
    record: RunRecord
    former: RunRecord

    def __str__(self) -> str:
        return f"{self.record.version_name} is {self.alias} again, instead of {self.former.version_name}"


@register(
    group="registry",
    name="rollback",
    examples=("registry rollback production",),
)
def rollback(*, alias: Annotated[str, Word()], output: TypedPath = DEFAULT_OUTPUT) -> RollbackResult:
    """Give an alias back to the run that held it before; a server that serves it reloads.

    Rolled back again, it goes to the run before that. No check is made: the run held the alias already.

    Args:
        alias: such as production, or NAME:production where several names have it.
        output: folder of all runs.
    """
    registry = Registry.open(Path(output).expanduser())
    record, former = roll_back(registry, Reference.parse(alias))
    return RollbackResult(alias, record, former)
