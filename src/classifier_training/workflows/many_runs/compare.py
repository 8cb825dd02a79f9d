"""`compare`: models x data sets x seeds, each in a process of its own, in one table.

Nothing here imports torch: each run and each timing has its own process.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.conf.overrides import word
from classifier_training.conf.tuned import without_tuned
from classifier_training.core.errors import UserError
from classifier_training.core.manifest import remove_checkpoints
from classifier_training.core.processes import is_held
from classifier_training.core.register import Choice, Replaces, SettingsOf, Word, register
from classifier_training.core.run_dir import RunDir, make_folder
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import Trait, TypedPath
from classifier_training.core.types import TEST
from classifier_training.evaluation.leaderboard import Candidate, Leaderboard, compared_seeds, rank
from classifier_training.export.session import measure_latency_ms
from classifier_training.registry.cleanup import STUDY_LOGS
from classifier_training.registry.record import read_promotions
from classifier_training.workflows.evaluating.finished import (
    finished_runs,
    group_runs,
    read_finished,
    read_run_predictions,
)
from classifier_training.workflows.many_runs.candidates import AGAIN, Planned, chosen_models, is_tuned, plan
from classifier_training.workflows.many_runs.corrections_pairs import Bought, compare_pairs, correction_variants
from classifier_training.workflows.many_runs.jobs import run_jobs
from classifier_training.workflows.many_runs.launch.base import JobSpec, Launcher, read_outcome
from classifier_training.workflows.many_runs.launch.local import LOCAL
from classifier_training.workflows.many_runs.leaderboard_page import table_lines, write_leaderboard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from classifier_training.workflows.evaluating.finished import Finished

log = logging.getLogger(__name__)

DEFAULT_TRIALS = 3

Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class CompareResult:
    """Result of `compare`.

    Args:
        boards: the leaderboard of each data set.
        failures: reasons of failed jobs, by name.
        incomplete: steps after training that failed in finished runs, such as a withheld file; one line each.
        best: folder of the best run on each data set.
        page: leaderboard.html.
        bought: what corrections of the data bought, where runs without them stand beside runs with them.
    """

    boards: Sequence[Leaderboard]
    failures: Mapping[str, str]
    incomplete: Sequence[str]
    best: Mapping[str, Path]
    page: Path
    bought: Sequence[Bought] = ()

    @property
    def exit_code(self) -> int:
        """3 if some jobs failed; 1 if all runs finished, but one is incomplete."""
        return 3 if self.failures else int(bool(self.incomplete))

    def __str__(self) -> str:
        lines = ["", *table_lines(self.boards), ""]
        if self.failures:
            lines += ["failed:", *(f"  {name}: {reason}" for name, reason in self.failures.items()), ""]
        if self.incomplete:
            lines += ["incomplete:", *(f"  {line}" for line in self.incomplete), ""]
        lines += [board.verdict for board in self.boards]
        lines += [line for item in self.bought for line in item.lines]
        lines += [f"the page: {self.page}", "", "next:"]
        lines += [f"  {command('evaluate')} {setting('run', path)}" for path in self.best.values()]
        return "\n".join(lines)


@register(
    group="verb",
    name="compare",
    examples=(
        "compare /my/images 'models=[resnet18,tf_efficientnet_lite0]' 'seeds=[0,1,2]'",
        "compare /my/images /other/images --epochs 5 --jobs 2",
        "compare /my/images 'models=[resnet18]' 'data.corrections=[null,auto]'",
    ),
)
def compare(
    *,
    models: Annotated[list[str] | str | None, Replaces("model")] = None,
    data: Annotated[list[TypedPath] | TypedPath | None, Word(), Replaces("data", "data.root", "data.name")] = None,
    seeds: Annotated[list[Seed] | Seed, Replaces("seed")] = 0,
    jobs: Annotated[int, Field(ge=1)] | None = None,
    launcher: Annotated[Launcher, Choice("local")] = LOCAL,
    tune: bool = False,
    tune_trials: Annotated[int, Field(ge=1)] | None = None,
    cleanup: bool = False,
    keep: Annotated[int, Field(ge=1)] | None = None,
    report_only: bool = False,
    output: Annotated[TypedPath, Trait.PLACE] = "outputs/comparison",
    settings: Annotated[tuple[str, ...], SettingsOf("train", AGAIN)] = (),
) -> CompareResult:
    """Train models x data sets x seeds and rank them: accuracy with its spread, time, size, latency, memory.

    Finished jobs are not run again and interrupted ones resume, so the same command continues a comparison.
    data.corrections=[null,auto] trains each run without the corrections of the data and with them, and says what these
    bought. `train --multirun` makes runs without comparing them; with the same output=, compare report_only=true ranks
    those.

    Args:
        models: their names, timm:NAME for one of a hub; one of each family when left out, all for every model that
            needs no further setting.
        data: names of data sets, and folders; the built-in digits when left out.
        seeds: of the runs of each model on each data set.
        jobs: runs at a time; on this machine 1 when left out, each with its share of the cores or, in turn, one of the
            GPUs; with another launcher as many as there is room for.
        tune: train each model with the settings that tune finds for it on the data; settings found before, in
            conf/experiment/, are used again.
        tune_trials: trials of each search; 3 when left out.
        cleanup: at the end, delete the checkpoints from which finished runs could be trained longer, the files of
            interrupted runs, and the logs of searches.
        keep: with cleanup, also delete finished runs of earlier comparisons in output but for so many of the newest of
            each model, data set and seed; those that were promoted stay.
        report_only: write the leaderboard of finished runs without training; of all runs in output, unless models or
            data choose some.
        output: folder of the runs and of the leaderboard.
        settings: every other setting of train, for all runs; a model without a setting is trained without it.
    """
    if tune_trials is not None and not tune:
        raise UserError(
            f"tune_trials={tune_trials} has no effect without tune=true", "both, or neither", "add tune=true"
        )
    if keep is not None and not cleanup:
        raise UserError(f"keep={keep} has no effect without cleanup=true", "both, or neither", "add cleanup=true")
    folder = Path(output).expanduser()
    planned: list[Planned] = []
    if not report_only or models is not None or data is not None:
        if data is None:
            log.info("no data given: comparing on the built-in sample of handwritten digits")
        planned = [
            run
            for variant in correction_variants(settings)
            for run in plan(
                chosen_models(models),
                ["digits"] if data is None else [data] if isinstance(data, str) else data,
                list(dict.fromkeys([seeds] if isinstance(seeds, int) else seeds)),
                variant,
                tuned=tune,
            )
        ]
        if not planned:
            raise UserError("no model, data set or seed is named: nothing to compare", "one of each", "models=[cnn_v1]")
    elif settings:
        raise UserError(
            f"{settings[0]} has no effect: nothing is trained", "report_only=true alone, or with models and data",
            "leave it out",
        )  # fmt: skip
    make_folder(folder)
    failures: dict[str, str] = {}
    if not report_only:
        failures |= _tune(planned, folder, num_parallel=jobs, launcher=launcher, trials=tune_trials or DEFAULT_TRIALS)
        ready = [run for run in planned if is_tuned(run)]
        done = sum(_finished(_folder(folder, run)) is not None for run in ready)
        log.info("%d runs, %d of them finished before", len(planned), done)
        run_jobs([_job(folder, run) for run in ready], num_parallel=jobs, remedy=AGAIN, launcher=launcher)
    found, missing = _collect(folder, planned)
    # Why a search failed says more than that its run is missing.
    failures = {**missing, **failures}
    if not found:
        reasons = [f"{name}: {reason}" for name, reason in failures.items()]
        raise UserError(
            f"no run to compare; {reasons[0] if reasons else f'nothing is finished below {folder.absolute()}'}",
            "one finished run or more",
            "fix that, and start again",
        )
    for name in sorted({run.data for run in found if run.split != TEST}):
        log.warning("%s: no test split; models are ranked on images that chose their weights: optimistic", name)
    if cleanup:
        _clean(one for run in found for one in [run.run_dir, *run.run_dir.fold_runs])
        for name in STUDY_LOGS:
            for path in (folder / "tuning").glob(f"*/{name}"):
                path.unlink()
        if keep is not None:
            _delete_earlier(folder, found, keep=keep)
    boards, paths = _rank(found, failures)
    if not boards:
        name, reason = next(iter(failures.items()))
        raise UserError(f"no run can be read; {name}: {reason}", "one whole run or more", "start again")
    bought = compare_pairs(found, folder)
    page = write_leaderboard(folder, boards, {key: str(path) for key, path in paths.items()}, failures)
    best = {
        board.data: paths[board.data, leader.model, leader.representative]
        for board in boards
        for leader in [board.standings[0].candidate]
    }
    incomplete = [f"{run.run_dir.path}: {name}: {why}" for run in found for name, why in run.failures.items()]
    return CompareResult(boards, failures, incomplete, best, page, bought)


def _folder(folder: Path, run: Planned) -> Path:
    return folder / "jobs" / run.name


def _job(folder: Path, run: Planned) -> JobSpec:
    own = _folder(folder, run).absolute()
    return JobSpec(name=run.name, folder=own, words=("train", *without_tuned(run.words), word("output", own)))


def _finished(folder: Path) -> RunDir | None:
    return next(iter(reversed(finished_runs(folder))), None)


def _tune(
    planned: Sequence[Planned], folder: Path, *, num_parallel: int | None, launcher: Launcher, trials: int
) -> dict[str, str]:
    """Search for the settings of runs that shall be tuned and have none; returns why some have none still."""
    searches: dict[str, Planned] = {run.tuned: run for run in planned if run.tuned is not None and not is_tuned(run)}
    searching = [_search(name, run, folder, trials) for name, run in searches.items()]
    outcomes = run_jobs(searching, num_parallel=num_parallel, remedy=AGAIN, launcher=launcher)
    reasons = {name: outcome.reason for name, outcome in outcomes.items() if outcome is not None}
    return {
        run.name: f"its tuning failed: {reasons.get(run.tuned or '', 'nothing was found')}"
        for run in planned
        if not is_tuned(run)
    }


def _search(name: str, run: Planned, folder: Path, trials: int) -> JobSpec:
    # All seeds share what is found with the first.
    shared = [typed for typed in run.words if typed.partition("=")[0] != "experiment"]
    tuning = (folder / "tuning").absolute()
    words = ("tune", *shared, word("trials", trials), word("name", name), word("output", tuning))
    return JobSpec(name=name, folder=tuning / name, words=words)


def _collect(folder: Path, planned: Sequence[Planned]) -> tuple[list[Finished], dict[str, str]]:
    """Read the finished runs of a plan, or all where there is none; and say why others are missing."""
    failures: dict[str, str] = {}
    if planned:
        folders = {run.name: _folder(folder, run) for run in planned}
        ends = {name: _finished(own) for name, own in folders.items()}
        runs = [run_dir for run_dir in ends.values() if run_dir is not None]
        missing = {name: folders[name] for name, run_dir in ends.items() if run_dir is None}
    else:
        runs = finished_runs(folder)
        missing = {
            path.parent.name: path.parent
            for path in sorted(folder.glob("jobs/*/job.json"))
            if _finished(path.parent) is None
        }
    for name, own in missing.items():
        outcome = read_outcome(own / "job.json")
        failures[name] = outcome.reason if outcome and outcome.reason else "not run to its end"
    found = []
    for run_dir in runs:
        try:
            found.append(read_finished(run_dir))
        except UserError as error:
            failures[str(run_dir.path)] = error.came
    return found, failures


def _rank(
    found: Sequence[Finished], failures: dict[str, str]
) -> tuple[list[Leaderboard], dict[tuple[str, str, int], Path]]:
    """Rank the runs; those that cannot be read are added to the failures."""
    candidates = []
    paths: dict[tuple[str, str, int], Path] = {}
    groups = group_runs(found)
    scores_of = {key: {run.seed: run.figures for run in runs} for key, runs in groups.items()}
    compared: dict[tuple[str, str], int] = {}
    for name in dict.fromkeys(data for _, data in groups):
        keys = [key for key in groups if key[1] == name]
        compared |= zip(keys, compared_seeds([scores_of[key] for key in keys]), strict=True)
    for (model, data), runs in groups.items():
        scores, seed = scores_of[model, data], compared[model, data]
        run_dir = next(run.run_dir for run in runs if run.seed == seed)
        try:
            predictions = read_run_predictions(run_dir)
        except UserError as error:
            failures[str(run_dir.path)] = error.came
            continue
        paths |= {(data, model, run.seed): run.run_dir.path for run in runs}
        candidates.append(
            Candidate(
                model=model,
                data=data,
                runs=scores,
                representative=seed,
                latency_ms=measure_latency_ms(run_dir.onnx) if run_dir.onnx.exists() else None,
                predictions=predictions,
            )
        )
    return rank(candidates), paths


def _clean(runs: Iterable[RunDir]) -> None:
    """Delete the checkpoints of finished runs, and unfinished runs of the same jobs without a running process."""
    for run in runs:
        remove_checkpoints(
            run.last_checkpoint.parent,
            [
                path.name
                for path in (run.last_checkpoint, run.probe_checkpoint, run.step_checkpoint, run.previous_checkpoint)
            ],
        )
        for path in run.path.parents[1].glob("*/*/config.yaml") if run.path.parents[2].name == "jobs" else ():
            other = RunDir(path.parent)
            if not other.result.exists() and not is_held(other.lock):
                log.info("cleanup: %s", other.path)
                shutil.rmtree(other.path)


def _delete_earlier(folder: Path, found: Sequence[Finished], *, keep: int) -> None:
    """Delete jobs of earlier comparisons but for the newest of each model, data set and seed."""
    present = {run.run_dir.path for run in found}
    ended = [run_dir for own in (folder / "jobs").iterdir() if (run_dir := _finished(own)) is not None]
    counts: dict[tuple[str, str, int], int] = {}
    for run_dir in sorted(ended, key=lambda run_dir: run_dir.path.parts[-2:], reverse=True):
        try:
            run = read_finished(run_dir)
        except UserError as error:
            log.warning("cleanup: %s is left alone: %s", run_dir.path, error.came)
            continue
        key = (run.model, run.data, run.seed)
        counts[key] = counts.get(key, 0) + 1
        is_used = run_dir.path in present or read_promotions(run_dir) or is_held(run_dir.lock)
        if counts[key] > keep and not is_used:
            log.info("cleanup: %s", run_dir.path.parents[1])
            shutil.rmtree(run_dir.path.parents[1])
