"""The command line: parse, dispatch, exit code.

`VERB key=value …`, read by `conf.command_line`. A verb is a function of `workflows`; its signature is what can be set.
What loads no verb, such as `--help`, imports none.
"""

from __future__ import annotations

import atexit
import gc
import io
import logging
import os
import shlex
import signal
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from classifier_training import __version__
from classifier_training.core import runtime
from classifier_training.core.errors import InterruptedRunError, UserError, enumerate_words, nearest, system_error
from classifier_training.core.processes import process_rank
from classifier_training.core.register import VERB, entries, entry, when_asked
from classifier_training.core.runtime import COMMAND_STARTED, COMPLETION_REQUEST, command, log_to_screen
from classifier_training.core.secrets import mask_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from classifier_training.core.register import Entry

log = logging.getLogger(__name__)

HELP, MULTIRUN, VERSION = {"--help", "-h"}, {"--multirun", "-m"}, {"--version", "-V"}

DELETE = ("delete", "remove", "rm", "prune", "clean")
"""Words of other programs for `registry cleanup`."""

VERBS = {
    "train": ("training.train", "train a classifier on a folder of images"),
    "evaluate": ("evaluating.evaluate", "score a run on its held-out or other images"),
    "predict": ("serving.predict", "label images, folders and videos"),
    "export": ("serving.export", "write ONNX, TorchScript and others, compared with PyTorch"),
    "analyze": ("datasets.analyze", "check a data set before training"),
    "review": ("reviewing.review", "correct labels on a local page"),
    "prepare": ("datasets.prepare", "decode a data set before training"),
    "compare": ("many_runs.compare", "rank models on data sets, over several seeds"),
    "tune": ("many_runs.tune", "search for good settings"),
    "distill": ("many_runs.distill", "train a small network on a run's predictions"),
    "benchmark": ("serving.benchmark", "time a run in each exported form"),
    "serve": ("serving.serve", "answer over HTTP with a run"),
    "watch": ("serving.watch", "find shifts in what was predicted, estimate the accuracy"),
    "registry": ("registering", "list, show, promote, export and delete runs"),
    "models": ("models", "list what model= accepts"),
    "info": ("info", "show versions and devices"),
    "completion": ("completion", "print shell completion"),
}
"""Each verb with the module of `workflows` that registers it, and its line in the help."""


ONE_JOB = ("train", "distill")
"""Verbs that launcher= runs as a whole, but for cross-validation; the others with that setting launch jobs."""


def load_verbs() -> None:
    """Import the verbs, each of which registers itself."""
    for module, _ in VERBS.values():
        import_module(f"classifier_training.workflows.{module}")


when_asked(load_verbs)


def entry_point() -> NoReturn:
    """Be the console script: `main`, with Python's slow ways in and out cut short."""
    _exit_at_sigterm()
    COMMAND_STARTED.set(runtime.IMPORTED)
    # Importing torch and Lightning makes a million objects that stay. Looking through them for garbage again and
    # again takes a sixth of the import.
    gc.set_threshold(50_000, 20, 100)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A class or file may be called what the terminal's encoding cannot say.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = main()
    for number in (signal.SIGINT, signal.SIGTERM):
        # All is done; one that comes now would only show a traceback.
        signal.signal(number, signal.SIG_IGN)
    if code >= 128 or not sys.modules.keys().isdisjoint(("torch", "ray", "obstore")):
        # Taking torch's modules apart takes up to two seconds and frees what the system frees by itself, and a thread
        # of Ray or obstore, or of ONNX Runtime that was interrupted, that wants the interpreter meanwhile aborts the
        # process. These two are what the interpreter runs of other people's code before it does that.
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _exit_at_sigterm() -> None:
    """Let SIGTERM end the program as an exit does, so that nothing is left half written."""
    own = os.getpid()

    def leave(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != own:
            # A process that was forked ends as if nothing had been set up here.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def main() -> int:
    """Run the command line of this process; returns its exit code."""
    if COMPLETION_REQUEST in os.environ:
        from classifier_training.workflows.completion import print_candidates

        return print_candidates()
    log_to_screen()
    try:
        return _run_as_interrupted(sys.argv[1:])
    except InterruptedRunError as error:
        log.info("%s", error)
        return error.exit_code
    except UserError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is for the user, the traceback is not
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output, such as head, has gone; nothing is left to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        told = system_error(error)
        if told is None:
            raise
        log.error("%s", told)  # noqa: TRY400 - as above
        return told.exit_code
    except KeyboardInterrupt:
        log.info("interrupted (SIGINT)")
        return 128 + signal.SIGINT
    except SystemExit as error:
        # After SIGTERM, and in the processes of a run that end with rank 0.
        if not isinstance(error.code, int):
            raise
        return error.code


def _run_as_interrupted(argv: Sequence[str]) -> int:
    """Run as `run` does; a signal that Python's locks hid behind an error of their own is raised again."""
    try:
        return run(argv)
    except RuntimeError as error:
        # A signal that comes while `Condition.wait` takes its lock back leaves it free, and the end of the lock's block
        # then raises "cannot release un-acquired lock" (https://github.com/python/cpython/issues/118433).
        if isinstance(error.__context__, InterruptedRunError | KeyboardInterrupt | SystemExit):
            raise error.__context__ from None
        raise


def run(argv: Sequence[str]) -> int:
    """Do what the words say; returns the exit code.

    Raises:
        UserError: when they are wrong.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    flags = {word for word in argv[:end] if word in HELP | MULTIRUN | VERSION}
    words = [word for place, word in enumerate(argv) if place >= end or word not in flags]
    if flags & VERSION:
        report(__version__)
    elif flags & HELP or _asks_for_help(words):
        report(help_text([word for word in words if word != "help"]))
    elif not words:
        report(overview())
        return 2
    else:
        from classifier_training.conf.command_line import read_words

        verb, words = find_verb(words)
        if flags & MULTIRUN:
            return execute_many(verb, read_words(verb, words, multirun=True))
        return execute(verb, read_words(verb, words))
    return 0


def _asks_for_help(words: Sequence[str]) -> bool:
    """Whether help stands in the place of a verb, or follows one and is no path."""
    verbs = {"registry"} if words[:1] == ["registry"] else set()
    place = words.index("help") if "help" in words else None
    return place is not None and place <= 1 + len(verbs) and (place == 0 or not os.path.lexists("help"))


def help_text(words: Sequence[str]) -> str:
    """Return the help on a verb or, without one, on the program; with the word all, everything.

    Raises:
        UserError: when there is no such verb.
    """
    wanted = [word for word in words if word != "all"]
    if not words:
        return overview()
    from classifier_training.conf import help as texts

    if not wanted:
        return texts.overview(__version__)
    verb, _ = find_verb(wanted)
    return texts.verb_help(verb) if "all" in words else texts.short_help(verb)


def overview() -> str:
    """Return the text of `--help`, without an import of what it speaks of."""
    width = max(map(len, VERBS))
    this = command("")
    return "\n".join(
        [
            f"classifier-training {__version__}: from a folder of images to a trusted classifier",
            "",
            "usage: classifier-training VERB [PATH or RUN] [key=value or --key value …]",
            "",
            f"  {this}train /my/images --epochs 10",
            f"  {this}evaluate latest",
            f"  {this}predict photo.jpg",
            "",
            *(f"  {name:<{width}}  {line}" for name, (_, line) in VERBS.items()),
            "",
            "VERB --help         usage, examples and the settings used most",
            "VERB --help all     every setting; --help all: those of all verbs",
            "VERB --multirun     a run for each of the values that commas separate",
            "--version           the version",
            "",
            "Read on: README.md and docs/first-run.md; as a site: uv run mkdocs serve",
        ]
    )


def find_verb(words: Sequence[str]) -> tuple[Entry, list[str]]:
    """Take the verb, and its sub-verb where it has some, off the words.

    Raises:
        UserError: when there is no such verb.
    """
    from classifier_training.conf.foreign_commands import refuse_foreign

    refuse_foreign(words)
    verbs = [known.name for known in entries(VERB)]
    if any(mark in words[0] for mark in "=/.") or (words[0] not in verbs and os.path.lexists(words[0])):
        raise UserError(
            f"{words[0]}: the first word is no verb",
            f"one of {enumerate_words(verbs, limit=20)}",
            shlex.join([*shlex.split(command("train")), *words]),
        )
    if words[0].startswith("-"):
        flags = sorted(word for word in HELP | MULTIRUN | VERSION if word.startswith("--"))
        raise UserError(
            f"{words[0]}: there is no such flag, and a setting follows its verb",
            f"a verb, or one of {enumerate_words(flags)}",
            command(close[0]) if (close := nearest(words[0], flags)) else f"{command('train')} {shlex.join(words)}",
        )
    verb, settings = entry(VERB, words[0]), list(words[1:])
    if settings and settings[0] in DELETE and any(sub.name == "cleanup" for sub in entries(verb.name)):
        raise UserError(
            f"{command(verb.name)} {settings[0]}: there is no sub-verb of that name",
            f"one of {enumerate_words(sub.name for sub in entries(verb.name))}",
            f"{command(verb.name)} cleanup   lists the runs that may go; apply=true deletes them",
        )
    if settings and entries(verb.name) and "=" not in settings[0]:
        verb = entry(verb.name, settings.pop(0))
    return verb, settings


def execute(verb: Entry, overrides: Sequence[str]) -> int:
    """Compose, run and report one verb; returns the exit code."""
    from classifier_training.conf.compose import compose, without_launcher
    from classifier_training.workflows.many_runs.jobs import run_command
    from classifier_training.workflows.many_runs.launch.local import LOCAL
    from classifier_training.workflows.training.settings import TrainSettings
    from classifier_training.workflows.training.torchrun import launched_settings
    from classifier_training.workflows.training.unfinished import offer_unfinished

    is_train = verb.settings is TrainSettings
    if not is_train and not process_rank().is_alone:
        raise UserError(
            f"{verb.name}: torchrun started {process_rank().num_ranks} processes, and each would do it anew",
            "train, which several processes can share",
            f"{command(verb.name)} … without torchrun",
        )
    if is_train and (settings := launched_settings()) is not None:
        result = verb.target(settings)
    else:
        arguments = compose(verb, overrides)
        launcher = arguments.get("launcher", LOCAL)
        is_one = verb.name in ONE_JOB and not (is_train and arguments["data"].trains_all_folds)
        if is_one and launcher != LOCAL:
            words = without_launcher(overrides)
            result = run_command(verb.name, words, launcher=launcher, output=arguments["output"])
        elif is_train and process_rank().is_alone:
            result = verb.run(offer_unfinished(arguments))
        else:
            result = verb.run(arguments)
    report(result)
    return getattr(result, "exit_code", 0)


def execute_many(verb: Entry, overrides: Sequence[str]) -> int:
    """Run one verb once for every combination of comma-separated values; returns the largest exit code."""
    from classifier_training.conf.compose import chosen_launcher
    from classifier_training.conf.multirun import combinations, sweep

    launcher = chosen_launcher(verb, overrides)
    # predict shares the images of each combination among the machines, and writes where its output= says.
    if launcher is None or verb.name == "predict":
        return sweep(verb, overrides, report)
    from classifier_training.workflows.many_runs.jobs import run_commands

    result = run_commands(verb.command, combinations(verb, overrides), launcher=launcher)
    report(result)
    return result.exit_code


def perform(verb: str, words: Sequence[str]) -> Any:
    """Run a verb by its words and return its result, as scripts and notebooks want it.

    Raises:
        UserError: when the words are wrong.
    """
    from classifier_training.conf.command_line import read_words
    from classifier_training.conf.compose import compose

    known = entry(VERB, verb)
    with runtime.main_hidden():
        return known.run(compose(known, read_words(known, words)))


def report(result: Any) -> None:
    """Write a result to standard output, without secrets."""
    if text := str(result):
        sys.stdout.write(f"{mask_text(text)}\n")
    sys.stdout.flush()
