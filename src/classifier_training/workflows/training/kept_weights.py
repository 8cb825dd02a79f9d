"""Which weights a run keeps after its last epoch: the best epoch's, a mean of weights, with a head fitted anew."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from classifier_training.core.runtime import DETAIL
from classifier_training.core.types import PROBE_EPOCH, VAL, SplitResult, epoch_name
from classifier_training.workflows.training.heads import (
    oriented,
    retrain_head,
    score_error,
    score_of,
    validation_result,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from classifier_training.callbacks.observer import RunContext
    from classifier_training.training.module import ClassifierModule
    from classifier_training.workflows.training.job import TrainingJob

log = logging.getLogger(__name__)

State = dict[str, Any]

HALF, LESS, MORE = 0.5, (0.25,), (0.75, 1.0)
"""Shares of the weights after fine-tuning in the mean: the one that is kept unless another scores clearly higher, and
those that are tried where the weights before, or after, fine-tuning score higher than the half."""

CLEARLY = 1.2
"""Standard errors by which a score is clearly higher; one image that is classified otherwise makes about one."""

NUM_COMPARED = 2_000
"""Most validation images that shares are compared on; more say little more."""


def num_predicted(wanted: float | Literal["auto"], num_validation: int) -> int:
    """Images that `keep_interpolated` predicts, so that time can be planned for them."""
    return num_validation + (len(MORE) * min(num_validation, NUM_COMPARED) if wanted == "auto" else 0)


def interpolate(before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return (1 - share) * before + share * after; what is no floating-point number is that of after."""
    return {
        name: before[name].to(value).lerp(value, share) if value.is_floating_point() else value
        for name, value in after.items()
    }


def choose_share(run: RunContext, results: Mapping[float, SplitResult]) -> float:
    """Return the first share, or the one with the highest score of those that score clearly higher.

    Args:
        run: names the metric.
        results: on the same images, by share.
    """
    base, *_ = results.values()
    scores = {share: score_of(run, result) for share, result in results.items()}
    chosen = next(iter(results))
    for share, result in results.items():
        gain = scores[share] - score_of(run, base)
        if scores[share] > scores[chosen] and gain > CLEARLY * score_error(run, result, base):
            chosen = share
    return chosen


def keep_interpolated(
    job: TrainingJob, module: ClassifierModule, best: State, last: State, *, wanted: float | Literal["auto"]
) -> State:
    """Keep a mean of the weights before and after fine-tuning, unless the best epoch or the linear probe score higher.

    An epoch must do so clearly: it is the best of many on the same images.

    Args:
        job: its monitored metric, on validation, decides.
        module: predicts with all weights in turn; it holds others afterwards.
        best: what best.ckpt holds.
        last: state_dict, epoch and global_step of the end of training, and the score of its last epoch, None where it
            had none.
        wanted: share of the weights after fine-tuning, or auto.

    Returns:
        What best.ckpt now holds.
    """
    from classifier_training.training.checkpoint_files import AtomicCheckpointIO, read_checkpoint

    run = job.run
    if best.get("interpolation", {}).get("step") == last["global_step"]:
        return best  # The run was stopped after this.
    if not run.run_dir.probe_checkpoint.exists():
        log.info("checkpoints/probe.ckpt is not there any more: the weights of the best epoch are kept")
        return best
    probe = read_checkpoint(run.run_dir.probe_checkpoint)

    def mean_of(share: float) -> dict[str, Tensor]:
        return interpolate(probe["state_dict"], last["state_dict"], share)

    def result_of(state: Mapping[str, Tensor], limit: int | None = None) -> SplitResult:
        module.load_state_dict(state)
        return validation_result(job, module, limit=limit)

    epoch_score, probe_score = oriented(run, best["score"]), oriented(run, probe["score"])
    results: dict[float, SplitResult] = {}
    share = wanted
    if share == "auto":
        results[HALF] = result_of(mean_of(HALF), NUM_COMPARED)
        half = score_of(run, results[HALF])
        is_higher = last["score"] is not None and oriented(run, last["score"]) > half
        tried = [*(LESS if probe_score > half else ()), *(MORE if is_higher else ())]
        results |= {share: result_of(mean_of(share), NUM_COMPARED) for share in tried}
        share = choose_share(run, results)
    state = mean_of(share)
    is_whole = share in results and len(results[share].targets) == len(run.tables[VAL])
    result = results[share] if is_whole else result_of(state)
    score = score_of(run, result)
    scores = f"{run.monitor} {oriented(run, score):.4f}, the linear probe {probe['score']:.4f}"
    is_other = best["epoch"] not in (PROBE_EPOCH, last["epoch"]) and epoch_score > score
    if is_other and epoch_score - score > CLEARLY * score_error(run, result_of(best["state_dict"]), result):
        log.info(
            "weights kept: those of %s, %.4f (the mean has %s)",
            epoch_name(best["epoch"]), best["score"], scores, extra=DETAIL,
        )  # fmt: skip
        return best
    if score < probe_score:
        others = f", {epoch_name(best['epoch'])} {best['score']:.4f}, which is not clearly higher" if is_other else ""
        log.info("weights kept: those of the linear probe (the mean has %s%s)", scores, others, extra=DETAIL)
        kept = {**probe, "interpolation": {"share": 0.0, "step": last["global_step"]}}
    else:
        log.info("weights kept: %g before and %g after fine-tuning (%s)", 1 - share, share, scores, extra=DETAIL)
        kept = {
            **best,
            "state_dict": {name: value.cpu() for name, value in state.items()},
            "epoch": last["epoch"],
            "global_step": last["global_step"],
            "score": oriented(run, score),
            "interpolation": {"share": share, "step": last["global_step"]},
        }
    AtomicCheckpointIO().save_checkpoint(kept, run.run_dir.best_checkpoint)
    return kept


def keep_new_head(job: TrainingJob, module: ClassifierModule, best: State) -> State:
    """Fit the head anew and keep it in best.ckpt if it is better; returns what that holds, and so does the network."""
    from classifier_training.training.checkpoint_files import AtomicCheckpointIO

    try:
        score = retrain_head(job, module, best["epoch"])
        if score is None:
            return best
        found = {**best, "state_dict": module.state_dict(), "score": score}
        AtomicCheckpointIO().save_checkpoint(found, job.run.run_dir.best_checkpoint)
    except Exception:
        module.load_state_dict(best["state_dict"])
        raise
    return found
