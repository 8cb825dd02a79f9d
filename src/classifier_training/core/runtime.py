"""The environment of a run: derived seeds, logging, limits of the process, versions of packages."""

from __future__ import annotations

import functools
import getpass
import logging
import os
import platform
import resource
import shlex
import signal
import struct
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, entry_points, version
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import InterruptedRunError, UserError, first_line
from classifier_training.core.secrets import mask_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from rich.console import Console

IMPORTED = time.monotonic()
"""Approximate start of this process."""

COMMAND_STARTED: ContextVar[float | None] = ContextVar("COMMAND_STARTED", default=None)
"""Start of the current command line; None in a program that calls verbs itself."""

LOGGER_NAME = "classifier_training"
LOGGED = (LOGGER_NAME, "py.warnings")
"""Loggers of the screen and of a run's log: ours, and Python's warnings, which Lightning and torch use."""

DETAIL = {"detail": True}
"""`extra` of a message that the screen leaves out: it stands in train.log alone."""

FEW_OPEN_FILES = 2048

CORES_VARIABLE = "CLASSIFIER_TRAINING_CORES"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

RECORDED_PACKAGES = (
    "classifier-training", "torch", "torchvision", "timm", "pytorch-lightning", "hydra-core", "numpy", "pillow",
    "onnx", "onnxscript", "onnxruntime", "scikit-learn", "safetensors",
)  # fmt: skip

COMPLETION_REQUEST = "_CLASSIFIER_TRAINING_COMPLETE"
"""Environment variable that holds the line to complete, up to the cursor."""

PLUGIN_GROUP = "classifier_training.plugins"
"""The entry points of packages that add components; see `core.plugins`."""


def _command_started() -> float:
    started = COMMAND_STARTED.get()
    COMMAND_STARTED.set(None)
    return time.monotonic() if started is None else started


@dataclass
class Clock:
    """Measures the seconds of the parts of a command.

    Attributes:
        started: start of the command by time.monotonic(); for the first command of a process, the start of the process.
        seconds: by part.
    """

    started: float = field(default_factory=_command_started)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to a part."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def so_far(self) -> dict[str, float]:
        """Return the seconds of each part and, as total, those since the start; rounded to milliseconds."""
        found = {**self.seconds, "total": time.monotonic() - self.started}
        return {name: round(value, 3) for name, value in found.items()}


def derive_seed(*parts: int) -> int:
    """Mix integers (seed, epoch, position, …) into one 63-bit seed, the same on every machine."""
    packed = struct.pack(f"<{len(parts)}q", *parts)
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little") >> 1


def command(verb: str) -> str:
    """Return the command line of a verb, to be pasted: with uv or pixi if they started this process."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        return f"uv run classifier-training {verb}"
    if "PIXI_PROJECT_MANIFEST" in os.environ:
        return f"pixi run {verb}"
    return f"classifier-training {verb}"


def setting(key: str, value: object) -> str:
    """Return key=value, to be pasted: quoted for the shell if needed."""
    return f"{key}={shlex.quote(str(value))}"


def num_cores() -> int:
    """Processor cores this process may use, which in a container is fewer than the machine has.

    A container's limit of processor time, such as `docker run --cpus=2`, counts as so many cores.
    $CLASSIFIER_TRAINING_CORES lowers it further, as a share for each of several processes.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    found = min([found, *cores_by_quota()])
    share = os.environ.get(CORES_VARIABLE, "")
    return min(found, max(1, int(share))) if share.isdecimal() else found


PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


@functools.cache
def cores_by_quota(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[int, ...]:
    """Cores that the limits of processor time of the control groups above this process come to, rounded up.

    Args:
        proc: where the kernel describes itself.
        cgroups: where it describes control groups, of version 1 or 2.
    """
    found = []
    for group in control_groups("cpu", proc=proc, cgroups=cgroups):
        with suppress(OSError, ValueError):
            # "max" where there is no limit.
            quota, period = (group / "cpu.max").read_text().split()
            found.append((int(quota), int(period)))
        with suppress(OSError, ValueError):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((group / name).read_text() for name in names)
            found.append((int(quota), int(period)))
    return tuple(max(1, -(-quota // period)) for quota, period in found if quota > 0 and period > 0)


def control_groups(controller: str, *, proc: Path = PROC, cgroups: Path = CGROUPS) -> list[Path]:
    """Folders of the control groups that limit this process, and of all above them; none where there are none.

    Args:
        controller: cpu or memory, each of which has groups of its own in version 1.
        proc: where the kernel describes itself.
        cgroups: where it describes control groups.
    """
    folders: list[Path] = []
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Inside a container the path is often the host's, and only the mounted root is there.
        root = cgroups / controller if controllers else cgroups
        own = root / path.lstrip("/")
        folders += [own, *(parent for parent in own.parents if parent == root or root in parent.parents)]
    return folders


def share_of_cores(num_threads: int) -> dict[str, str]:
    """Return the environment variables that limit a process and its libraries to a number of threads."""
    return dict.fromkeys((CORES_VARIABLE, *THREAD_VARIABLES), str(num_threads))


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files to the hard one: workers pass tensors as file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError) as error:
            # macOS caps the limit below what it reports; the old limit still holds.
            logging.getLogger(LOGGER_NAME).debug("open file limit stays at %d: %s", soft, error)


def few_open_files() -> bool:
    """Whether the limit of open files is too low for workers to pass tensors as descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and soft < FEW_OPEN_FILES


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def keep_large_blocks() -> None:
    """Have malloc keep the memory of large tensors for the next ones, instead of returning it to the system.

    glibc maps each block of more than 32 MiB anew, and the system fills all of its pages with zeros, for each layer of
    a step on the CPU; `scripts/bench/allocator.py` measures it. Nothing is done where malloc's settings are in the
    environment ($MALLOC_…), and another malloc in place of glibc's stays as it is.
    """
    import ctypes

    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def leave_interrupts() -> None:
    """Ignore Ctrl-C, which the parent handles; called first in each process of a pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def starts_quietly() -> Iterator[None]:
    """Start processes in the block that Ctrl-C does not reach, not even before `leave_interrupts` is called there.

    A process takes over which signals are blocked; one that comes in the block waits for its end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def cache_dir() -> Path:
    """Folder of the cache: $CLASSIFIER_TRAINING_CACHE, else the user's cache folder.

    Raises:
        UserError: when it cannot be created or written to.
    """
    chosen = os.environ.get("CLASSIFIER_TRAINING_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    path = Path(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "classifier-training"
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UserError(
            f"{path}: the cache folder cannot be written to",
            "a folder for sample data and other files that can be created again",
            "export CLASSIFIER_TRAINING_CACHE=/some/folder",
        )
    return path


def user_name() -> str | None:
    """Name of the system's user; None where there is none: a container may run as a number that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python, the system and the packages that affect results, those of plug-ins among them."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {point.dist.name: point.dist.version for point in entry_points(group=PLUGIN_GROUP) if point.dist}


class _Masked(logging.Formatter):
    """Formats messages without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return mask_text(super().format(record))


class _RunFile(logging.FileHandler):
    """A log file that ignores a full disk, which the run reports when it cannot write other files."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


FAILED_WORDS, INTERRUPTED_WORDS = "the run has failed: ", "the run was interrupted: "
"""What the last message of the log of a run begins with that did not come to its end, unless it was killed."""


class RunLog:
    """Copies every message of the package and every warning into a run's log file, and the error that ends the run.

    Use it in a `with` block; messages before `open` are buffered.
    """

    def __init__(self) -> None:
        self._waiting = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
        self._file: _RunFile | None = None

    def __enter__(self) -> RunLog:
        self._attach(self._waiting)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is not None and self._file is not None:
            self._file.handle(_ended_by(error))
        for handler in (self._waiting, self._file):
            if handler is not None:
                self._detach(handler)
                # On a full disk the last lines do not fit; this error must not replace the one that is being raised.
                with suppress(OSError):
                    handler.close()

    def open(self, path: Path) -> None:
        """Write the messages so far, and later ones, to the file."""
        self._file = _RunFile(path, encoding="utf-8")
        self._file.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._waiting.setTarget(self._file)
        self._waiting.flush()
        self._detach(self._waiting)
        self._attach(self._file)

    @staticmethod
    def _attach(handler: logging.Handler) -> None:
        for name in LOGGED:
            logging.getLogger(name).addHandler(handler)

    @staticmethod
    def _detach(handler: logging.Handler) -> None:
        for name in LOGGED:
            logging.getLogger(name).removeHandler(handler)


def _ended_by(error: BaseException) -> logging.LogRecord:
    """Return the message of an error that ends a run, with where it came from unless it is a message for users."""
    is_interrupt = isinstance(error, (InterruptedRunError, KeyboardInterrupt, SystemExit))
    level, begin = (logging.WARNING, INTERRUPTED_WORDS) if is_interrupt else (logging.ERROR, FAILED_WORDS)
    is_told = is_interrupt or isinstance(error, UserError)
    words = str(error) if isinstance(error, UserError) else first_line(error)
    origin = None if is_told else (type(error), error, error.__traceback__)
    return logging.LogRecord(LOGGER_NAME, level, "", 0, begin + words, None, origin)


@functools.cache
def console() -> Console:
    """Return the one console that log lines and progress share: standard error, so that results can be piped.

    In a notebook it is standard output as plain text: standard error is shown there as errors are, and rich would make
    an output of its own of every line.
    """
    from rich.console import Console

    notebook = in_notebook()
    return Console(stderr=not notebook, force_jupyter=False if notebook else None, highlight=False)


def in_notebook() -> bool:
    """Whether the code runs in a Jupyter kernel."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return hasattr(get_ipython(), "kernel")


@contextmanager
def main_hidden() -> Iterator[None]:
    """Let processes that are started in the block not import the script that runs.

    Each would run a script without `if __name__ == "__main__"` again, from its beginning.
    """
    main = vars(sys.modules["__main__"])
    hidden = {"__file__": main.pop("__file__", None), "__spec__": main.get("__spec__")}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update({name: value for name, value in hidden.items() if value is not None})


MARKS = {logging.ERROR: ("error: ", "red"), logging.WARNING: ("warning: ", "yellow")}


class ScreenHandler(logging.Handler):
    """Prints the package's messages as plain lines on the console of the progress bars; warnings are marked.

    Secrets are masked, as in a run's log file. Details are left out; see `DETAIL`.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, unless it is a detail."""
        if hasattr(record, "detail"):
            return
        word, style = next((mark for level, mark in MARKS.items() if record.levelno >= level), ("", ""))
        console().print(f"{word}{mask_text(record.getMessage())}", markup=False, soft_wrap=True, style=style)


@contextmanager
def quiet_screen(*, but: str) -> Iterator[None]:
    """Print only messages of the loggers below `but` inside the block; log files get all of them."""

    def passes(record: logging.LogRecord) -> bool:
        return record.name.startswith(but)

    handlers = [
        handler for name in LOGGED for handler in logging.getLogger(name).handlers if isinstance(handler, ScreenHandler)
    ]
    for handler in handlers:
        handler.addFilter(passes)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(passes)


def log_to_screen() -> None:
    """Print the package's messages from level INFO on, and warnings."""
    logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    # These are for the developers of the libraries that raise them.
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)
    # What tqdm says in a notebook without ipywidgets; no bar of its is shown here.
    warnings.filterwarnings("ignore", "IProgress not found")
    for name in LOGGED:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(ScreenHandler())
    # Lightning prints its messages itself unless the root logger has a handler.
    logging.getLogger().addHandler(logging.NullHandler())
