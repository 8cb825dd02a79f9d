"""Whole commands of other programs, and the one that does the same here: `yolo classify train data=images`.

They are not run. The error names the command to type, so that it is known the next time.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.conf.aliases import resolve
from classifier_training.conf.foreign_values import ForeignWordError, foreign_words
from classifier_training.core.errors import UserError
from classifier_training.core.register import VERB, entries, entry
from classifier_training.core.runtime import command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifier_training.core.register import Entry

LAUNCHERS = ("python", "python3", "-m", "uv", "pixi", "run", "yolo", "accelerate", "launch", "classifier-training")

TASKS = ("detect", "segment", "semantic", "depth", "pose", "obb")
"""What a detection program does besides classifying."""

NUMBERS = {"input_size": 3, "mean": 3, "std": 3, "scale": 2, "ratio": 2, "opt_betas": 2}
"""Flags of argparse that take several numbers, with how many."""

BLOCKS = {"resnet": "residual", "densenet": "dense", "hybrid": "hybrid"}
"""The kinds of the network that four families had as the second deep one, and those of cnn_v2."""

OF_FAMILY = ("architecture", "model_variation", "variation")

HELP = "help"

SCRIPTS_DATA = "dataset"

HARDLY_USED = ("install", "settings", "checks")


def refuse_foreign(words: Sequence[str]) -> None:
    """Raise when words are a command of another program.

    Args:
        words: of the command line, without flags of this program.

    Raises:
        UserError: with the command that does the same here.
    """
    found = translate(words)
    if found is not None:
        raise UserError(
            f"{shlex.join(words)}: a command of another program",
            "a verb, such as train, predict, evaluate and export, and its settings",
            found,
        )


def translate(words: Sequence[str]) -> str | None:
    """Return the command that does the same as one of another program.

    Args:
        words: with or without the program that starts it, such as python or docker exec.

    Returns:
        The command line; None where the words begin with a verb of this program, or nobody has such a command.

    Raises:
        UserError: for something that a classifier cannot do.
    """
    if not words or words[0] in {known.name for known in entries(VERB)}:
        return None
    left = _without_launcher(list(words))
    if not left:
        return command("--help")
    task, left = _take(left, "task", ("classify", *TASKS))
    if task in TASKS:
        raise UserError(
            f"{shlex.join(words)}: {task} finds objects in images",
            "labels of whole images; a folder with a subfolder for each class",
            f"{command('train')} data.root=FOLDER",
        )
    names = [name for program in foreign_words()["programs"] for name in program["names"]]
    mode, left = _take(left, "mode", [*names, HELP])
    if mode == "train" and left and _plain(left[0]) in names:
        # train_models.py FAMILY: the family says more.
        mode, left = _plain(left[0]), left[1:]
    if mode == HELP:
        return command("--help")
    program = next((one for one in foreign_words()["programs"] if mode in one["names"]), None)
    return None if program is None else _translated(program, str(mode), left)


def corrected(words: Sequence[str], read: Callable[[Sequence[str]], object]) -> tuple[list[str], list[str]]:
    """Replace the words of other programs that have no setting of the same meaning.

    Args:
        words: as typed after a verb.
        read: raises for the first such word.

    Returns:
        What stands before the command, and the words.
    """
    left, before = list(words), []
    for _ in words:
        try:
            read(left)
        except ForeignWordError as error:
            left = _replaced(left, error)
            before += [error.before] if error.before else []
        except UserError:
            break
        else:
            break
    return before, left


def with_command(
    error: ForeignWordError, verb: Entry, words: Sequence[str], read: Callable[[Sequence[str]], object]
) -> UserError:
    """Return the error for a foreign word with the whole command to type instead; see `corrected`."""
    before, corrected_words = corrected(words, read)
    remedy = " ".join([*before, command(verb.command), shlex.join(corrected_words)])
    return UserError(error.came, error.expected, remedy.strip())


def joined(words: Sequence[str]) -> list[str]:
    """Put the values of flags that take several into one word: --input-size 3 224 224, --models a b."""
    found: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name = word.lstrip("-").replace("-", "_")
        number = NUMBERS.get(name, 0) if word.startswith("--") and "=" not in word else 0
        values = left[:number]
        if number and len(values) == number and all(re.fullmatch(r"-?[\d.]+", value) for value in values):
            found.append(f"{word}={'x'.join(values)}" if name == "input_size" else f"{word}=[{','.join(values)}]")
            left = left[number:]
        elif word in ("--models", "--datasets") and left:
            number = next((place for place, value in enumerate(left) if value[:1] == "-" or "=" in value), len(left))
            found.append(f"{word}=[{','.join(left[:number])}]" if number > 1 else f"{word}={left[0]}")
            left = left[max(number, 1) :]
        else:
            found.append(word)
    return found


def _replaced(words: list[str], error: ForeignWordError) -> list[str]:
    for place, word in enumerate(words):
        key, equals, _ = word.lstrip("-").partition("=")
        if key == error.key and (equals or word.startswith("-")):
            takes_next = not equals and error.value is not None and words[place + 1 : place + 2] == [error.value]
            others = [*words[:place], *words[place + 1 + takes_next :]]
            instead = [new for new in error.instead if new not in others]
            return [*others[:place], *instead, *others[place:]]
    return words


def _without_launcher(words: list[str]) -> list[str]:
    if words[:2] == ["docker", "exec"]:
        words = words[2:]
        while words and words[0].startswith("-"):
            words = words[1:]
        words = words[1:]
    while words and words[0] in LAUNCHERS:
        words = words[1:]
    return words


def _take(words: list[str], key: str, names: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take what is typed as NAME at the beginning, or as key=NAME anywhere."""
    for place, word in enumerate(words):
        name = _plain(word.removeprefix(f"{key}="))
        if name in names and (place == 0 or word.startswith(f"{key}=")):
            return name, [*words[:place], *words[place + 1 :]]
    return None, words


def _plain(word: str) -> str:
    """Return the name of a script or module: train for scripts/train.py."""
    name = word.rpartition("/")[2].removesuffix(".py").removeprefix("classifier_training.")
    return {"train_models": "train"}.get(name, name.replace("-", "_").casefold())


def _translated(program: dict[str, Any], mode: str, words: list[str]) -> str:
    group, _, sub = program["verb"].rpartition(" ")
    verb = entry(group or VERB, sub)
    if mode in HARDLY_USED:
        words = []
    if verb.name == "train" and Path(SCRIPTS_DATA).is_dir():
        # Where a script that is replaced looks unless told.
        program = {**program, "defaults": [f"data.root={SCRIPTS_DATA}"]}
    own = list(program.get("words", []))
    settings = _settings_of(verb, [*own, *joined(words)])
    defaults = [word for word in program.get("defaults", []) if not _says(settings, word.partition("=")[0])]
    return " ".join([command(verb.command), shlex.join([*settings, *defaults])]).strip()


def _says(words: Sequence[str], key: str) -> bool:
    return any(word.partition("=")[0] == key or "=" not in word for word in words)


def _settings_of(verb: Entry, words: list[str]) -> list[str]:
    """Write each word as a setting of a verb; those that have none are left out."""
    found: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        key, equals, value = word.lstrip("-").partition("=")
        if not equals and not word.startswith("-"):
            found.setdefault(word, word)
            continue
        typed: str | None = value if equals else None
        if not equals and left and not left[0].startswith("-") and "=" not in left[0] and _waits(verb, key):
            typed = left.pop(0)
        for name, given in _meant(verb, key, typed, found):
            found[name] = f"{name}={'true' if given is None else given}"
    if found.get("model") in ("model=svm", "model=random_forest"):
        found.pop("trainer.max_epochs", None)
    return list(found.values())


def _waits(verb: Entry, key: str) -> bool:
    try:
        meant = resolve(verb, key, None)
    except ForeignWordError:
        return False
    targets = [name for name, given in meant if given is None] if meant is not None else [key.replace("-", "_")]
    return any(not option.accepts(bool) for name in targets for option in verb.settings_at(name)) or (
        bool(targets) and not any(verb.settings_at(name) for name in targets)
    )


def _meant(verb: Entry, key: str, value: str | None, found: dict[str, str]) -> list[tuple[str, str | None]]:
    name = key.replace("-", "_")
    if name in OF_FAMILY and found.get("model") == "model=cnn_v2" and value in BLOCKS:
        return [("model.kind", BLOCKS[value])]
    try:
        meant = resolve(verb, key, value)
    except ForeignWordError as error:
        return [(word.partition("=")[0], word.partition("=")[2]) for word in error.instead]
    return [(name, value)] if meant is None else meant
