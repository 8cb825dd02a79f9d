"""Opening an exported model, with every file that speaks of it agreeing. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.files import refuse_devices
from classifier_training.core.labels import read_mapping
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.core.run_reader import DamagedFileError, read_values
from classifier_training.core.runtime import command, setting
from classifier_training.export.bundle import ENSEMBLE_KEY, NOVELTY_KEY, NOVELTY_NAME, TEMPERATURE_KEY, read_info
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, open_session

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.export.bundle import BundleInfo, Calibration
    from classifier_training.export.session import Accelerator

RESTORE = "restore it from a copy of the run folder, or export the run again"


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run.

    Args:
        path: the ONNX file.
        sha256: of the file.
        class_names: [K], in the order of the outputs.
        preprocessing: from pixels to input.
        session: ONNX Runtime's.
        temperature: that the logits are to be divided by.
        novelty_threshold: score above which an image is unlike the training data; None where there is no score.
        calibration: all that was fitted on validation; None for a lone file, or a bundle that was not calibrated.
        is_ensemble: whether it averages several models.
    """

    path: Path
    sha256: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    session: Any
    temperature: float = 1.0
    novelty_threshold: float | None = None
    calibration: Calibration | None = None
    is_ensemble: bool = False

    @property
    def gives_novelty(self) -> bool:
        """Whether it scores how unlike the training data an image is."""
        return self.novelty_threshold is not None and NOVELTY_NAME in {out.name for out in self.session.get_outputs()}


def load_model(run: Path, *, accelerator: Accelerator) -> LoadedModel:
    """Open a run folder's model.onnx, or an ONNX file, which need not lie in a run folder.

    A file in a run folder is compared with model_info.json and labels_mapping.json; a lone one speaks for itself by the
    class names and the preprocessing in its metadata.

    Raises:
        UserError: when a file is missing, damaged, not the one that was exported, or disagrees with another.
    """
    run_dir, path = (RunDir(run), RunDir(run).onnx) if run.is_dir() else (RunDir(run.parent), run)
    info = read_info(run_dir) if run.is_dir() or run_dir.model_info.is_file() else None
    if info is not None:
        _check_labels(run_dir, info)
    reason = None if info is None or path.exists() else info.withheld.get(path.name)
    if reason is not None:
        raise UserError(
            f"{path}: was withheld when the run ended ({reason})",
            "a file that passed its check",
            f"{command('export')} {setting('run', run_dir.path)}, which writes and checks it again",
        )
    digest = _digest(path)
    if info is not None:
        _check_digest(path, digest, info)
    # The cores are shared with those who decode the next images.
    session = open_session(path, accelerator=accelerator, spinning=False)
    _check_door(path, session)
    class_names, preprocessing = _read_facts(path, session, info, run_dir)
    (num_outputs,) = [output.shape[-1] for output in session.get_outputs() if output.name == OUTPUT_NAME]
    if isinstance(num_outputs, int) and num_outputs != len(class_names):
        raise UserError(
            f"{path}: gives {num_outputs} values an image, but there are {len(class_names)} class names",
            "one class name for each output",
            RESTORE,
        )
    temperature, novelty_threshold = _doubts(path, session, info)
    calibration = None if info is None else info.calibration
    return LoadedModel(
        path, digest, class_names, preprocessing, session, temperature, novelty_threshold, calibration,
        is_ensemble=ENSEMBLE_KEY in session.get_modelmeta().custom_metadata_map,
    )  # fmt: skip


def _digest(path: Path) -> str:
    refuse_devices(path)
    try:
        return sha256(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing", "the file that the run exported", RESTORE) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror})", "an ONNX file that may be read", RESTORE
        ) from error


def _check_digest(path: Path, digest: str, info: BundleInfo) -> None:
    exported = info.files.get(path.name, {}).get("sha256")
    if exported is not None and exported != digest:
        raise UserError(
            f"{path}: has changed since it was exported; its SHA-256 is {digest[:12]}…, "
            f"model_info.json says {exported[:12]}…",
            "the file that the run exported",
            f"{RESTORE}; to use the file as it is, copy it to a folder of its own: run=/other/folder/{path.name}",
        )


def _check_labels(run_dir: RunDir, info: BundleInfo) -> None:
    path = run_dir.labels_mapping
    try:
        names = read_mapping(read_values(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing", "the file that the run wrote", RESTORE) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(path, f"{type(error).__name__}: {error}", RESTORE) from error
    if names != info.class_names:
        raise _disagree(path, names, run_dir, info)


def _check_door(path: Path, session: Any) -> None:
    given, returned = ([item.name for item in items] for items in (session.get_inputs(), session.get_outputs()))
    if given != [INPUT_NAME] or OUTPUT_NAME not in returned:
        raise UserError(
            f"{path}: goes from {', '.join(given)} to {', '.join(returned)}",
            f"a model from {INPUT_NAME} to {OUTPUT_NAME}, as export writes it; pipeline.onnx is for other programs",
            f"run={path.with_name('model.onnx')}",
        )


def _read_facts(
    path: Path, session: Any, info: BundleInfo | None, run_dir: RunDir
) -> tuple[tuple[str, ...], Preprocessing]:
    """Return class names and preprocessing as the ONNX file and the run folder both say."""
    metadata = session.get_modelmeta().custom_metadata_map
    if info is not None and not metadata.keys() & {"class_names", "preprocessing"}:
        return info.class_names, info.preprocessing
    try:
        class_names = tuple(json.loads(metadata["class_names"]))
        preprocessing = Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: its metadata does not say its class names and preprocessing ({type(error).__name__}: {error})",
            "an ONNX file that this program exported, or one in its run folder",
            "run=/the/run/folder",
        ) from error
    if info is not None and class_names != info.class_names:
        raise _disagree(path, class_names, run_dir, info)
    if info is not None and preprocessing != info.preprocessing:
        raise UserError(
            f"{path}: its preprocessing is not that of {run_dir.model_info}", "files of one and the same run", RESTORE
        )
    return class_names, preprocessing


def _doubts(path: Path, session: Any, info: BundleInfo | None) -> tuple[float, float | None]:
    """Return temperature and novelty threshold: the file's own or, where it says none, those of the run folder."""
    metadata = session.get_modelmeta().custom_metadata_map
    if info is not None and info.calibration is not None and TEMPERATURE_KEY not in metadata:
        novelty = info.calibration.novelty
        return info.calibration.temperature, None if novelty is None else novelty.threshold
    try:
        temperature = float(metadata.get(TEMPERATURE_KEY, 1))
        threshold = float(metadata[NOVELTY_KEY]) if NOVELTY_KEY in metadata else None
    except ValueError as error:
        raise UserError(
            f"{path}: its metadata is damaged ({error})", "the file that the run exported", RESTORE
        ) from error
    if not temperature > 0:
        raise UserError(f"{path}: its metadata has a temperature of {temperature}", "one above 0", RESTORE)
    return temperature, threshold


def _disagree(path: Path, names: tuple[str, ...], run_dir: RunDir, info: BundleInfo) -> UserError:
    pairs = zip(names, info.class_names, strict=False)
    first = next((f"{one!r} and {other!r}" for one, other in pairs if one != other), None)
    return UserError(
        f"{path}: its class names are not those of {run_dir.model_info}: "
        + (f"{first} stand at the same place" if first else f"{len(names)} and {len(info.class_names)} of them"),
        "files of one and the same run",
        RESTORE,
    )
