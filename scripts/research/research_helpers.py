"""What the research notebooks share: settings from the command line, tables of runs, and saved plots."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.runtime import in_notebook, log_to_screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

FOLDER = Path("research")
"""All outputs lie here, below the working folder."""

ALIASES = {"epochs": "trainer.max_epochs"}
"""Short names of settings, as scripts are used to."""

log_to_screen()


def typed(settings: Sequence[str], **own: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return settings, and lists of the notebook's own, with those typed behind the script's name in their places.

    key=value, --key=value and --key value are the same; epochs stands for trainer.max_epochs. In a notebook nothing is
    typed: there the cell with the parameters is edited.

    Args:
        settings: of verbs, such as data.root=/my/images; typed ones are added and override them.
        own: lists by the names under which they may be typed, as in models=resnet18,student.
    """
    words = [] if in_notebook() else _joined(sys.argv[1:])
    lists = {name: list(values) for name, values in own.items()}
    left = list(settings)
    for word in words:
        name, _, value = word.partition("=")
        if name in lists:
            lists[name] = value.strip("[]").split(",")
        else:
            left.append(f"{ALIASES.get(name, name)}={value}")
    return left, lists


def _joined(words: Sequence[str]) -> list[str]:
    """Write --key value as key=value."""
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        is_open = word.startswith("--") and "=" not in word
        found.append(f"{word.removeprefix('--')}={next(rest, '')}" if is_open else word.removeprefix("--"))
    return found


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table with a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def save(figure: Figure, name: str) -> Path:
    """Save a plot below the folder of outputs, and return its path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(FOLDER / name, dpi=120)
    return FOLDER / name


def tidy(axes: Any, title: str) -> None:
    """Give a plot its title, and no frame on the right and above."""
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
