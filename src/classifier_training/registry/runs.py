"""Finding runs by word, name or path."""

from __future__ import annotations

from pathlib import Path

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.registry.references import Reference, resolve

DEFAULT_OUTPUT = "outputs"


def find_run(reference: str, *, output: str = DEFAULT_OUTPUT, setting: str = "run") -> RunDir:
    """Return the run that a word, name or path stands for.

    Args:
        reference: a run folder; latest (the newest exported run); best (the one with the best monitored metric); NAME
            (its newest version); NAME:v2; an alias such as production, or NAME:production where several names have it.
        output: folder of all runs, which everything but a path is looked for in.
        setting: what the user set, for messages.

    Raises:
        UserError: when there is none, or several.
    """
    path = Path(reference).expanduser()
    word = Reference.parse(reference)
    # A folder of that name is what the shell's completion gave; only latest and best are words before all.
    if path.is_dir() and not word.is_reserved:
        return RunDir(path)
    return RunDir(resolve(word, Path(output), setting=setting))


def find_model(reference: str, *, output: str = DEFAULT_OUTPUT, setting: str = "run") -> Path:
    """Return the run folder, or the ONNX file, that a word, name or path stands for.

    Args:
        reference: as for `find_run`, or an .onnx file.
        output: folder of all runs, which everything but a path is looked for in.
        setting: what the user set, for messages.

    Raises:
        UserError: when there is none, or several.
    """
    path = Path(reference).expanduser()
    if path.suffix.lower() != ".onnx" or path.is_dir():
        return find_run(reference, output=output, setting=setting).path
    if not path.is_file():
        raise UserError(
            f"{setting}={reference}: there is no such file",
            "an .onnx file, a run folder, latest, best, NAME, NAME:v2, or an alias",
            f"{setting}=latest takes the newest run below outputs/",
        )
    return path


def find_unfinished(reference: str, *, output: str = DEFAULT_OUTPUT) -> RunDir:
    """Return the run to go on with: a folder, or latest for the unfinished one whose checkpoint is the newest.

    Raises:
        UserError: when there is none, or it has not begun.
    """
    if reference == "latest":
        checkpoints = [path for path in Path(output).rglob("*.ckpt") if path.name in ("last.ckpt", "step.ckpt")]
        found = [path for path in checkpoints if not RunDir(path.parent.parent).result.exists()]
        if not found:
            raise UserError(
                f"resume=latest: no unfinished run below {Path(output).absolute()}",
                "a run that was interrupted after it was saved for the first time",
                "name a run elsewhere by its folder: resume=FOLDER",
            )
        return RunDir(max(found, key=lambda path: path.stat().st_mtime).parent.parent)
    run_dir = RunDir(Path(reference).expanduser())
    if not run_dir.config.is_file() and not run_dir.resumable:
        raise UserError(
            f"resume={reference}: {run_dir.config} does not exist",
            "the folder of a run that had begun",
            "check the path, or train anew without resume=",
        )
    return run_dir


VARYING_KEYS = ("resume:", "extend:")
"""Keys of a configuration that say how a run was taken up, not what it is."""


def unfinished_like(config_text: str, folder: Path) -> RunDir | None:
    """Return the newest unfinished run of a configuration, if there is one that can be gone on with.

    It looks at two files a run and reads only the configurations of unfinished ones, so thousands of runs are quick.

    Args:
        config_text: what its config.yaml holds.
        folder: folder of the days with runs.
    """
    wanted = _without_varying(config_text)
    for path in sorted(folder.glob("*/*"), reverse=True):
        run = RunDir(path)
        if run.result.exists() or not run.resumable:
            continue
        try:
            text = run.config.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        if _without_varying(text) == wanted:
            return run
    return None


def _without_varying(config_text: str) -> list[str]:
    return [line for line in config_text.splitlines() if not line.startswith(VARYING_KEYS)]
