"""A finished run's network, with the weights that it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier_training.conf.resume import saved_values
from classifier_training.conf.validate import build_node
from classifier_training.core.preprocess import Preprocessing
from classifier_training.export.bundle import BundleInfo, read_info, withheld_reason

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from classifier_training.core.run_dir import RunDir


def load_trained(run_dir: RunDir, checkpoint: Path | None = None) -> tuple[nn.Module, BundleInfo]:
    """Build a run's network again, on the CPU, in float32 and evaluation mode, and say what it is.

    The weights are those of the checkpoint, if one is given; else the exported ones, or those of best.ckpt where a run
    exported nothing.

    Raises:
        UserError: when the folder lacks its configuration or weights, or they do not belong together.
    """
    from classifier_training.export.onnx import evaluation_copy
    from classifier_training.models.meta import fit_input
    from classifier_training.models.weights import load_trained_weights, without_weights

    info, weights = describe_trained(run_dir)
    config = saved_values(run_dir.config)
    # Trained weights take the place of those that the run started from, which may be out of reach here.
    built = without_weights(build_node("model", config.get("model"), "model"))(len(info.class_names))
    fit_input(built, image_size=info.preprocessing.size[0], batch_size=2)
    load_trained_weights(built.network, checkpoint or weights)
    return evaluation_copy(built.network), info


def describe_trained(run_dir: RunDir) -> tuple[BundleInfo, Path]:
    """Say what a run's network is and where its weights are: exported, or in best.ckpt where they were not.

    Raises:
        UserError: when the folder has neither.
    """
    if not run_dir.model_info.exists() and run_dir.best_checkpoint.exists():
        return _checkpoint_info(run_dir), run_dir.best_checkpoint
    # A run that exported nothing may have been exported since, without its weights.
    has_weights = run_dir.weights.exists() and withheld_reason(run_dir, run_dir.weights.name) is None
    use_checkpoint = not has_weights and run_dir.best_checkpoint.exists()
    return read_info(run_dir), run_dir.best_checkpoint if use_checkpoint else run_dir.weights


def _checkpoint_info(run_dir: RunDir) -> BundleInfo:
    from classifier_training.training.checkpoint_files import read_checkpoint, share_of
    from classifier_training.training.decisions import read_decisions

    best = read_checkpoint(run_dir.best_checkpoint)
    started = read_decisions(run_dir.decisions).weights
    return BundleInfo(
        class_names=tuple(best["class_names"]),
        preprocessing=Preprocessing.from_dict(best["preprocessing"]),
        architecture=best["architecture"],
        training_info={
            "best_metric": {"name": best["monitor"], "value": best["score"]},
            "epoch": best["epoch"],
            "share": share_of(best),
            "config": saved_values(run_dir.config),
            "weights": started.to_dict() if started else None,
        },
    )
