"""`registry.json` of a run folder: what the registry says of a run and nobody else knows."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from classifier_training.core.run_dir import RunDir


class Promotion(NamedTuple):
    """That a run was given an alias.

    Args:
        alias: such as production.
        number: counted in each scope, so that the highest is the present holder.
    """

    alias: str
    number: int


class Registration(NamedTuple):
    """A run's registration.

    Args:
        title: name that its versions are counted under.
        scope: what its aliases are of.
        version: counted under its title; None while it has none.
        promotions: all that it ever had.
    """

    title: str = ""
    scope: str = ""
    version: int | None = None
    promotions: tuple[Promotion, ...] = ()


def read_registration(run: RunDir) -> Registration:
    """Read a run's registration; an empty one where the file is missing or damaged."""
    try:
        found = json.loads(run.registration.read_text(encoding="utf-8"))
        version = found["version"]
        return Registration(
            title=str(found["title"]),
            scope=str(found["scope"]),
            version=version if isinstance(version, int) else None,
            promotions=tuple(Promotion(str(item["alias"]), int(item["number"])) for item in found["promotions"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        # The version is then given anew.
        return Registration()


def read_promotions(run: RunDir) -> list[dict[str, Any]]:
    """All promotions of a run, as they were recorded; none where the file is missing or damaged."""
    try:
        found = json.loads(run.registration.read_text(encoding="utf-8"))["promotions"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return found if isinstance(found, list) else []


def write_registration(
    run: RunDir, *, title: str, scope: str, version: int | None, promotions: list[dict[str, Any]]
) -> None:
    """Write what the registry says of a run: at once and whole, but not waiting for the disk.

    A crash of the machine may lose a version number, which is then given again; thousands of runs would wait minutes.
    """
    found = {"title": title, "scope": scope, "version": version, "promotions": promotions}
    temporary = run.registration.with_name(f".{run.registration.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(run.registration)
    finally:
        temporary.unlink(missing_ok=True)
