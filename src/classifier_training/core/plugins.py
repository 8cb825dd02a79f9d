"""Packages that add components: those that have an entry point in the group `classifier_training.plugins`.

An entry point names a module whose import registers components, or a function that does so. A package registers all of
its components or none: what is wrong with one is said in a warning, and everything else works as without that package.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.metrics import metrics_all_or_none
from classifier_training.core.register import all_or_none, entries
from classifier_training.core.runtime import LOGGER_NAME, PLUGIN_GROUP

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

log = logging.getLogger(__name__)


def load_plugins() -> None:
    """Register the components of all packages; one that fails is named in a warning and adds nothing."""
    groups = {known.group for known in entries()}
    for point in _points():
        try:
            with all_or_none(), metrics_all_or_none():
                _load(point, groups)
        # Code of other people may raise anything, and a command that does not need it shall go on.
        except (Exception, SystemExit) as error:
            log.warning("%s", _failed(point, error))
            log.debug("plug-in %s", point.name, exc_info=True)


def _points() -> list[EntryPoint]:
    return sorted(entry_points(group=PLUGIN_GROUP), key=lambda point: (_package(point), point.name))


def _package(point: EntryPoint) -> str:
    return point.value if point.dist is None else point.dist.name


def _load(point: EntryPoint, groups: set[str]) -> None:
    # What it logs goes where our own messages go: to the screen, and into the log of a run.
    logging.getLogger(point.module.partition(".")[0]).parent = logging.getLogger(LOGGER_NAME)
    before = set(entries())
    loaded = point.load()
    if callable(loaded):
        loaded()
    for added in set(entries()) - before:
        if added.group not in groups:
            raise ValueError(
                f"{added.group}={added.name}: there is no such group, only {enumerate_words(sorted(groups), limit=99)}"
            )
        try:
            # Types that cannot be read would end every command that looks at this component.
            _ = added.options
        except Exception as error:
            raise TypeError(f"{added.group}={added.name}: the types of its settings cannot be read: {error}") from error


def _failed(point: EntryPoint, error: BaseException) -> UserError:
    what, _, call = point.value.replace(" ", "").partition(":")
    again = f"import {what}" if not call else f"from {what} import {call}; {call}()"
    said = " ".join(str(error).split())
    package = _package(point)
    return UserError(
        f"the plug-in {package} ({point.value}) cannot be loaded, and adds nothing: {type(error).__name__}"
        + (f": {said}" if said else ""),
        "a package whose module can be imported and registers each name once",
        f"fix or remove it (pip uninstall {package}); this shows where it fails: "
        f'python -c "import classifier_training.conf.catalogue; {again}"',
    )
