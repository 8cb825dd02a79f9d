"""Many runs from one command line, by Hydra's sweepers and launchers, those of its plugins included."""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import hydra

from classifier_training.conf.compose import CONF_MODULE, build_arguments, hydra_ready, plain, refuse_unknown
from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omegaconf import DictConfig

    from classifier_training.core.register import Entry

log = logging.getLogger(__name__)


def sweep(verb: Entry, overrides: Sequence[str], report: Callable[[Any], None]) -> int:
    """Run a verb once for every combination of comma-separated values.

    A run whose configuration or data is wrong is reported, and the others go on.

    Args:
        verb: what to run.
        overrides: as typed, with values such as model=resnet18,resnet50.
        report: called with the result of each run.

    Returns:
        The largest exit code of the runs.

    Raises:
        UserError: for a group, name or key that does not exist.
    """
    exit_codes = [0]
    with hydra_ready(verb) as searchpath:
        refuse_unknown(verb, searchpath, overrides)

    @hydra.main(config_path=f"pkg://{CONF_MODULE}", config_name=verb.name, version_base="1.3")
    def job(config: DictConfig) -> None:
        try:
            report(verb.target(**build_arguments(verb, plain(config))))
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
    arguments, sys.argv = sys.argv, [sys.argv[0], "--multirun", *own, *overrides]
    try:
        job()
    finally:
        sys.argv = arguments
    return max(exit_codes)
