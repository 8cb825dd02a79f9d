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

log_to_screen()


def typed(settings: Sequence[str], **own: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return settings, and lists of the notebook's own, with those typed behind the script's name in their places.

    In a notebook nothing is typed: there the cell with the parameters is edited.

    Args:
        settings: of verbs, such as data.root=/my/images; typed ones are added and override them.
        own: lists by the names under which they may be typed, as in models=resnet18,student.
    """
    words = [] if in_notebook() else joined(sys.argv[1:])
    lists = {name: list(values) for name, values in own.items()}
    left = list(settings)
    for word in words:
        name, _, value = word.partition("=")
        if name in lists:
            lists[name] = value.strip("[]").split(",")
        else:
            left.append(word)
    return left, lists


SHORT = {"epochs": "trainer.max_epochs", "batch_size": "data.batch_size", "lr": "optimizer.lr", "data": "data.root"}
"""Names that scripts of this kind have for settings of train."""


def joined(words: Sequence[str]) -> list[str]:
    """Return key=value for each setting of a command line, which may be written --key value, too."""
    found: list[str] = []
    waiting = ""
    for word in words:
        if waiting:
            found.append(f"{waiting}={word}")
            waiting = ""
        elif word.startswith("--") and "=" not in word:
            waiting = word.removeprefix("--")
        else:
            found.append(word.removeprefix("--"))
    if waiting:
        raise SystemExit(f"--{waiting} has no value")
    pairs = [word.partition("=") for word in found]
    return [f"{SHORT.get(key, key)}{equals}{value}" for key, equals, value in pairs]


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
