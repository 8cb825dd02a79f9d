"""Many runs from one command line, by Hydra's sweepers and launchers, those of its plugins included."""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig

from classifier_training.conf.compose import (
    completed,
    compose_words,
    plain,
    refuse_unknown,
    with_choices,
    with_tuned,
    without_launcher,
)
from classifier_training.conf.overrides import parse_overrides, prepare
from classifier_training.conf.recipes import AUTO, RECIPE, resolve_auto, with_chosen_recipe
from classifier_training.conf.resume import RESUME, refuse_resume, resumed_run
from classifier_training.conf.store import CONF_MODULE, hydra_ready
from classifier_training.conf.unused_settings import refuse_unused
from classifier_training.conf.validate import build_arguments
from classifier_training.core.errors import InterruptedRunError, UserError
from classifier_training.core.run_dir import write_text
from classifier_training.core.secrets import mask, mask_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omegaconf import DictConfig

    from classifier_training.core.register import Entry

log = logging.getLogger(__name__)


def combinations(verb: Entry, overrides: Sequence[str]) -> list[list[str]]:
    """Return the words of each combination of comma-separated values, without those that choose a launcher.

    Args:
        verb: what to run.
        overrides: as typed, with values such as model=resnet18,resnet50.

    Raises:
        UserError: for a group, name or key that does not exist.
    """
    words = prepare(verb, without_launcher(overrides))
    _refuse_passing_on(verb)
    parsed = parse_overrides(words)
    if resumed_run(parsed) is not None:
        refuse_resume({RESUME: resumed_run(parsed)}, "beside --multirun")
    with hydra_ready(verb) as searchpath:
        refuse_unknown(verb, searchpath, words)
    (found,) = BasicSweeper.split_arguments(parsed, None)
    return [list(one) for one in found]


def _refuse_passing_on(verb: Entry) -> None:
    if verb.passes_on is not None:
        raise UserError(
            f"--multirun with {verb.name}, which makes a run of each of its settings by itself",
            "lists of settings",
            f"classifier-training {verb.name} --help says which settings take lists",
        )


def sweep(verb: Entry, overrides: Sequence[str], report: Callable[[Any], None]) -> int:
    """Run a verb once for every combination of comma-separated values.

    A run whose configuration or data is wrong is reported, and the others are run all the same.

    Args:
        verb: what to run.
        overrides: as typed, with values such as model=resnet18,resnet50.
        report: called with the result of each run.

    Returns:
        The largest exit code of the runs.

    Raises:
        UserError: for a group, name or key that does not exist.
        InterruptedRunError: when a signal ended a run; the others are not begun.
    """
    _refuse_passing_on(verb)
    words = prepare(verb, overrides)
    parsed = parse_overrides(words)
    if resumed_run(parsed) is not None:
        refuse_resume({RESUME: resumed_run(parsed)}, "beside --multirun")
    with hydra_ready(verb) as searchpath:
        chosen = refuse_unknown(verb, searchpath, words)
        words = completed(verb, chosen, parsed) or words
    swept = {word.key_or_group for word in parsed if word.is_sweep_override()}
    if "model" not in swept:
        single = [word for word in parsed if word.key_or_group != "callbacks" or not word.is_sweep_override()]
        refuse_unused(verb, chosen, single)
    exit_codes = [0]

    @hydra.main(config_path=f"pkg://{CONF_MODULE}", config_name=verb.name, version_base="1.3")
    def job(config: DictConfig) -> None:
        _mask_record(Path(folder))
        given = list(HydraConfig.get().overrides.task)
        combination = " ".join(word for word in given if word.partition("=")[0] in swept)
        log.info("combination: %s", combination)
        try:
            values = resolve_auto(with_choices(plain(config), HydraConfig.get().runtime.choices))
            if (tuned := with_tuned(verb, values, given, parsed)) is not None:
                given = tuned
                values = resolve_auto(compose_words(verb, [*searchpath, *given]))
            if values.get(RECIPE) == AUTO:
                values = resolve_auto(compose_words(verb, [*searchpath, *with_chosen_recipe(values, given)]))
            refuse_resume(values, "stands in a file of settings")
            result = verb.run(build_arguments(verb, values))
            report(f"combination: {combination}\n{result}")
            exit_codes.append(getattr(result, "exit_code", 0))
        except InterruptedRunError as error:
            raise _SweepInterrupted(error) from error
        except UserError as error:
            log.error("%s", error)  # noqa: TRY400 - the message is for the user, the traceback is not
            exit_codes.append(error.exit_code)

    now = datetime.now().astimezone()
    folder = f"outputs/multirun/{now:%Y-%m-%d}/{now:%H-%M-%S}"
    own = [
        f"hydra.sweep.dir={folder}",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        *searchpath,
    ]
    arguments, sys.argv = sys.argv, [sys.argv[0], "--multirun", *own, *words]
    try:
        job()
    except _SweepInterrupted as stopped:
        raise stopped.error from stopped
    finally:
        sys.argv = arguments
    return max(exit_codes)


def _mask_record(folder: Path) -> None:
    """Take the secrets out of what Hydra wrote down of the command."""
    record = folder / "multirun.yaml"
    if not record.exists():
        return
    values = yaml.safe_load(record.read_text(encoding="utf-8"))
    masked = mask(values)
    masked["hydra"]["overrides"]["task"] = mask_words(values["hydra"]["overrides"]["task"])
    if masked != values:
        write_text(record, yaml.safe_dump(masked, sort_keys=False, allow_unicode=True))


class _SweepInterrupted(BaseException):
    """Goes through Hydra, which turns an Exception of a job into a traceback of its own."""

    def __init__(self, error: InterruptedRunError) -> None:
        super().__init__(error)
        self.error = error
