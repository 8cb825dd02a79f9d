"""A run's model: its network built again, or a predictor from its ONNX file, another of its files, or a checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.conf.resume import saved_values
from classifier_training.conf.validate import build_node
from classifier_training.core.errors import UserError, plural
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir, atomic_path, make_folder, sha256
from classifier_training.core.runtime import keep_large_blocks
from classifier_training.export.bundle import BundleInfo, read_info, withheld_reason
from classifier_training.export.session import OUTPUT_NAME
from classifier_training.inference.ensemble import Ensemble
from classifier_training.inference.model import LoadedModel
from classifier_training.inference.predictor import Predictor
from classifier_training.inference.rows import Extras, to_row, write_csv
from classifier_training.models.prune import is_pruned, with_widths
from classifier_training.registry.runs import find_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from classifier_training.data.index import SampleIndex
    from classifier_training.export.session import Accelerator

log = logging.getLogger(__name__)

ENSEMBLE = "ensemble"
"""In place of a file: several runs, in the folder of the first."""


def load_trained(run_dir: RunDir, checkpoint: Path | None = None) -> tuple[nn.Module, BundleInfo]:
    """Build a run's network again, on the CPU, in float32 and evaluation mode, and say what it is.

    The weights are those of the checkpoint, if one is given; else the exported ones, or those of best.ckpt where a run
    exported nothing.

    Raises:
        UserError: when the folder lacks its configuration or weights, or they do not belong together.
    """
    from classifier_training.export.formats.onnx import evaluation_copy
    from classifier_training.models.meta import fit_input
    from classifier_training.models.weights import load_trained_weights, trained_state, without_weights

    info, weights = describe_trained(run_dir)
    config = saved_values(run_dir.config)
    # Trained weights take the place of those that the run started from, which may be out of reach here.
    built = without_weights(build_node("model", config.get("model"), "model"))(len(info.class_names))
    fit_input(built, image_size=info.preprocessing.size[0], batch_size=2)
    state = trained_state(checkpoint or weights)
    if is_pruned(info.architecture):
        built = with_widths(built, state)
    load_trained_weights(built.network, checkpoint or weights, state=state)
    return evaluation_copy(built.network), info


def describe_trained(run_dir: RunDir) -> tuple[BundleInfo, Path]:
    """Say what a run's network is and where its weights are: exported, or in best.ckpt where they were not.

    Raises:
        UserError: when the folder has neither, or is a cross-validation, which has a network for each fold.
    """
    if run_dir.is_cross_validation:
        raise UserError(
            f"{run_dir.path}: a cross-validation has a network for each fold, and no weights of its own",
            "a run with one network, such as one of its folds; predict, evaluate and export take all of them",
            str(run_dir.fold(0).path),
        )
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


@dataclass(frozen=True)
class RunModel:
    """A model and where it lies.

    Args:
        predictor: of images.
        path: the file.
        run_dir: the run that it is of; of a lone file, the folder that it lies in.
    """

    predictor: Predictor
    path: Path
    run_dir: RunDir

    @property
    def is_main(self) -> bool:
        """Whether it is what the run stands for: model.onnx, or the best weights that it was made from."""
        return self.path in (self.run_dir.onnx, self.run_dir.weights, self.run_dir.best_checkpoint)

    @property
    def title(self) -> str:
        """A short name for people: of the run, and of the file where that is another one."""
        folder = self.run_dir.path.absolute().name
        return folder if self.is_main else f"{folder}/{self.path.name}"


def open_model(reference: str | Sequence[str], *, setting: str = "run") -> RunModel:
    """Open what a word or path stands for.

    Args:
        reference: latest, best, a run folder, an .onnx file or a .ckpt file. Of a run folder it is model.onnx; where
            that was withheld or the run exported nothing, its weights in PyTorch. Of several in a list it is their
            ensemble, in the folder of the first.
        setting: what the user set, for messages.

    Raises:
        UserError: when there is no such model, or it cannot be opened.
    """
    if not isinstance(reference, str):
        if len(reference) != 1:
            predictor = open_runs(reference)
            first = find_model(reference[0], setting=setting)
            run_dir = RunDir(first if first.is_dir() else first.parent)
            return RunModel(predictor, run_dir.path / ENSEMBLE, run_dir)
        (reference,) = reference
    path = Path(reference).expanduser()
    if path.suffix.lower() == ".ckpt":
        if not path.is_file():
            raise UserError(
                f"{setting}={reference}: there is no such file",
                "a checkpoint, an .onnx file, a run folder, latest or best",
                f"{setting}=latest takes the newest run below outputs/",
            )
        run_dir = RunDir(path.absolute().parent.parent)
        return RunModel(CheckpointPredictor(run_dir, path), run_dir.path / "checkpoints" / path.name, run_dir)
    found = find_model(reference, setting=setting)
    run_dir = RunDir(found if found.is_dir() else found.parent)
    if found.is_dir() and not run_dir.model_info.exists() and run_dir.best_checkpoint.exists():
        return RunModel(CheckpointPredictor(run_dir, run_dir.best_checkpoint), run_dir.best_checkpoint, run_dir)
    predictor = open_exported(found)
    return RunModel(predictor, predictor.model_path, run_dir)


def open_exported(path: Path, *, accelerator: Accelerator = "auto") -> Predictor:
    """Open an ONNX file, or that of a run folder; where it was withheld PyTorch predicts, with a line in the log.

    Of a cross-validation without an ONNX file of its own the folds predict, one by one.

    Args:
        path: of the file or folder.
        accelerator: where to compute.

    Raises:
        UserError: when it cannot be opened.
    """
    run_dir = RunDir(path)
    reason = withheld_reason(run_dir, run_dir.onnx.name) if path.is_dir() else None
    if reason is None:
        return Predictor(path, accelerator=accelerator)
    if run_dir.is_cross_validation:
        members = [open_exported(fold.path, accelerator=accelerator) for fold in run_dir.fold_runs]
        return Ensemble(members, path=path, calibration=read_info(run_dir).calibration)
    _, weights = describe_trained(run_dir)
    log.warning(
        "%s was withheld when the run ended (%s); PyTorch predicts, with %s", run_dir.onnx.name, reason, weights.name
    )
    return CheckpointPredictor(run_dir, weights, accelerator=accelerator)


def open_runs(references: str | Sequence[str], *, accelerator: Accelerator = "auto") -> Predictor:
    """Open a run, or several as an ensemble, which gives the mean of their calibrated probabilities.

    Args:
        references: a word, name or path of a run, or a list of them; see `find_model`.
        accelerator: where to compute.

    Raises:
        UserError: when a run cannot be opened, is named twice, or has other classes than the first.
    """
    named = [references] if isinstance(references, str) else list(references)
    paths = [find_model(reference) for reference in named]
    if len(paths) == 1:
        return open_exported(paths[0], accelerator=accelerator)
    refuse_twice(paths)
    members = [open_exported(path, accelerator=accelerator) for path in paths]
    return Ensemble(members, path=Path(", ".join(named)))


def refuse_twice(paths: Sequence[Path]) -> None:
    """Raise when a run is named twice, which would count twice in a mean."""
    places = [path.resolve() for path in paths]
    twice = next((path for number, path in enumerate(paths) if places[number] in places[:number]), None)
    if twice is not None:
        raise UserError(f"run={twice} is named twice", "each run once: all count alike", "leave one of them out")


def paths_of(references: str | Sequence[str]) -> list[str]:
    """Return absolute paths of the runs that `open_runs` opens, which mean the same in other folders and processes."""
    named = [references] if isinstance(references, str) else list(references)
    return [str(find_model(reference).absolute()) for reference in named]


def write_test_predictions(run_dir: RunDir, index: SampleIndex) -> None:
    """Predict the test images that have no labels, as `predict` does, and write test_predictions.csv.

    Args:
        run_dir: the run, with its exported model.
        index: the data.

    Raises:
        UserError: when the model cannot be opened.
    """
    number = plural(len(index.unlabelled), "test image")
    if not run_dir.model_info.exists():
        log.warning("%s without labels are not predicted: the model was not exported", number)
        return
    paths = [index.root / path for path in index.unlabelled]
    predictions = list(open_exported(run_dir.path).predict(paths))
    make_folder(run_dir.evaluation)
    with atomic_path(run_dir.test_predictions) as temporary:
        write_csv((to_row(prediction, probabilities=False) for prediction in predictions), temporary, Extras())
    errors = sum(prediction.error is not None for prediction in predictions)
    unread = f"; {errors:,} of them cannot be read" if errors else ""
    log.info("%s without labels: predictions in %s%s", number, run_dir.test_predictions, unread)


class CheckpointPredictor(Predictor):
    """Classifies images with a run's weights, in PyTorch, as `Predictor` does with an ONNX file.

    Args:
        run_dir: the run, whose config.yaml says what network it is.
        weights: a checkpoint, or model.safetensors.
        accelerator: where to compute: auto takes CUDA where it is there, else the CPU.

    Raises:
        UserError: when a file is missing, damaged or does not go with the others, or the accelerator is not there.
    """

    def __init__(self, run_dir: RunDir, weights: Path, *, accelerator: Accelerator = "auto") -> None:
        import torch

        network, info = load_trained(run_dir, weights)
        available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        available += ["mps"] if torch.backends.mps.is_available() else []
        if accelerator not in ("auto", *available):
            raise UserError(
                f"trainer.accelerator={accelerator}: PyTorch sees no such device here",
                f"one of {', '.join(available)}",
                "trainer.accelerator=auto",
            )
        self._device = torch.device(accelerator if accelerator != "auto" else "cuda" if "cuda" in available else "cpu")
        if self._device.type == "cpu":
            keep_large_blocks()
        self._network = network.to(self._device)
        # The calibration was fitted to the exported file's predictions, which are the same.
        super().__init__(
            LoadedModel(
                path=weights,
                sha256=sha256(weights),
                class_names=info.class_names,
                preprocessing=info.preprocessing,
                session=None,
                temperature=1.0 if info.calibration is None else info.calibration.temperature,
                calibration=info.calibration,
            )
        )

    @property
    def device(self) -> str:
        """Where the network runs, in words."""
        return f"PyTorch on {self._device.type}"

    def _run(self, inputs: NDArray[np.float32], outputs: list[str]) -> list[NDArray[np.float32]]:
        import torch

        assert outputs == [OUTPUT_NAME]

        with torch.inference_mode():
            logits = self._network(torch.from_numpy(inputs).to(self._device))
        return [np.asarray(logits.float().cpu().numpy())]

    def run_with_features(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the network on inputs, float32 [B, 3, H, W]; returns what its last layer is shown [B, D] and logits.

        Raises:
            UserError: when the network does not end in one linear layer.
        """
        from classifier_training.training.linear_head import linear_head, shown_to

        with shown_to(linear_head(self._network, setting=str(self.model_path))) as shown:
            logits = self.run(inputs)
        return np.asarray(shown[-1].flatten(1).float().cpu().numpy()), logits
