"""What a person types, in words that Hydra reads.

    read_words(verb, ["My Photos, 2026", "--epochs", "5", "model=resnet18"])
    ['data.root="My Photos, 2026"', 'trainer.max_epochs=5', 'model=resnet18']

Paths, names of runs and other texts are taken as they are typed. All other values, such as numbers, lists, names of
components and searches, are in Hydra's grammar.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from classifier_training.conf import aliases
from classifier_training.conf.foreign_commands import joined, with_command
from classifier_training.conf.foreign_values import ForeignWordError
from classifier_training.conf.near_values import near_value
from classifier_training.conf.overrides import quoted
from classifier_training.conf.recipes import RECIPE
from classifier_training.conf.store import EXPERIMENT, takes_experiments
from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import VERB, entries, entry
from classifier_training.core.runtime import command
from classifier_training.core.settings import Names
from classifier_training.registry.mlflow_models import PREFIX
from classifier_training.registry.references import BEST, LATEST, PRODUCTION, Reference
from classifier_training.registry.runs import DEFAULT_OUTPUT, find_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from classifier_training.core.register import Entry, Option

TRUTHS = ("true", "false")

SWEEP = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag)\(.*\)")
"""Values of several runs in Hydra's grammar."""

MANY = 50
"""Paths from which on a list is written with quotes, so that it can be read without the grammar."""

RUN_WORDS = (LATEST, BEST)

REFERENCE = re.compile(r"\$\{([^{}]+)\}")


def read_words(verb: Entry, words: Sequence[str], *, multirun: bool = False) -> list[str]:
    """Return the overrides, in Hydra's grammar, that the words after a verb stand for.

    Args:
        verb: that they were typed after.
        words: as the shell gives them, without flags of the program.
        multirun: whether a comma separates values of several runs. An existing path with a comma is one value.

    Raises:
        UserError: for a word that is no setting and no path, with the nearest right spelling.
    """
    words = joined(words)
    try:
        return _Reader(verb, multirun=multirun).read(words)
    except ForeignWordError as error:
        raise with_command(error, verb, words, lambda left: _Reader(verb, multirun=multirun).read(left)) from error


def is_flag(verb: Entry, key: str) -> bool:
    """Whether a setting is true or false, so that it needs no value after --key."""
    options = verb.settings_at(key)
    return bool(options) and all(option.accepts(bool) for option in options)


@dataclass
class _Reader:
    verb: Entry
    multirun: bool
    overrides: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)

    def read(self, words: Sequence[str]) -> list[str]:
        """See `read_words`."""
        left = list(words)
        place = 0
        only_words = False
        while left:
            text = left.pop(0)
            if text == "--" and not only_words:
                only_words = True
            elif text.startswith("-") and not (_exists(text) and (only_words or not self._is_option(text))):
                self._read_option(text, left)
            elif self._is_setting(text):
                self._set(*_parted(text))
            else:
                if not self.bare:
                    place = len(self.overrides)
                self.bare.append(text)
        if self.bare:
            self.overrides[place:place] = self._read_bare()
        return self.overrides

    def _is_setting(self, text: str) -> bool:
        """Whether a word is key=value, or ~key, and no path with an equals sign in it."""
        key, equals, _ = text.partition("=")
        name = key.lstrip("+~")
        if self._knows(name) or _is_hydras(name):
            return bool(equals) or key.startswith("~")
        if not equals or "/" in name or _exists(text) or _exists(text.rpartition("/")[0]) or _matches(text):
            # Whoever has no such setting and no such path is told so by Hydra, as ~data.nonsense.
            return key.startswith("~") and not equals and not _exists(text) and "/" not in key and not _is_home(key)
        return True

    def _knows(self, key: str) -> bool:
        verb = self.verb if self.verb.settings_of is None else entry(VERB, self.verb.settings_of.verb)
        return (
            key in self.verb.options
            or bool(self.verb.settings_at(key))
            or (key in (RECIPE, EXPERIMENT) and takes_experiments(verb))
            or ("." in key and key.partition(".")[0] in {**self.verb.options, **verb.options})
        )

    # --key, --key value, --key=value

    def _is_option(self, text: str) -> bool:
        key = text.lstrip("-").partition("=")[0]
        return self._knows(self._spelt(key)) or aliases.resolve(self.verb, key, None) is not None

    def _spelt(self, key: str) -> str:
        """Return a key with the underscores that it has here, as in --batch-size."""
        spelt = key.replace("-", "_")
        return spelt if self.verb.settings_at(spelt) and not self.verb.settings_at(key) else key

    def _read_option(self, text: str, left: list[str]) -> None:
        if not text.startswith("--") and (len(text) != 2 or aliases.resolve(self.verb, text[1:], None) is None):
            raise self._unknown(text)
        key, equals, value = text.removeprefix("-").removeprefix("-").partition("=")
        if equals:
            self._set(key, value)
            return
        meant = aliases.resolve(self.verb, key, None)
        if meant is not None and all(given is not None for _, given in meant):
            self._set_all(meant)
            return
        waiting = [name for name, given in meant if given is None] if meant else [self._spelt(key)]
        if all(is_flag(self.verb, name) for name in waiting):
            truth = left.pop(0) if left and left[0] in self._truths(waiting[0]) else "true"
            self._set(key, truth)
        elif not meant and not self._knows(waiting[0]):
            positive = self._turned_off(key)
            if positive is None:
                raise self._unknown(text, left)
            self._set(positive, "false")
        elif not left or (left[0].startswith("--") and not _exists(left[0])):
            example = f"resume={LATEST}" if waiting[0] == "resume" else f"--{key} …"
            raise UserError(f"{text} has no value", self._wanted(waiting[0]), example)
        else:
            self._set(key, left.pop(0))

    def _turned_off(self, key: str) -> str | None:
        """The setting that --no-key turns off, by its key or by a word for it."""
        positive = key.removeprefix("no-").removeprefix("no_")
        if positive == key:
            return None
        meant = aliases.resolve(self.verb, positive, None) if not aliases.is_answered(self.verb, positive) else None
        name = meant[0][0] if meant and meant[0][1] is None else self._spelt(positive)
        return name if is_flag(self.verb, name) else None

    def _truths(self, key: str) -> tuple[str, ...]:
        return (*TRUTHS, *(str(value) for option in self.verb.settings_at(key) for value in option.literals))

    def _wanted(self, key: str) -> str:
        helps = [option.help for option in self.verb.settings_at(key) if option.help]
        return f"a value: {helps[0]}" if helps else "a value"

    # key=value

    def _set(self, key: str, value: str) -> None:
        prefix = key[: len(key) - len(key.lstrip("+~"))]
        meant = None if prefix else aliases.resolve(self.verb, key, value)
        if meant is None and not prefix and not self._knows(key) and not _is_hydras(key):
            short = aliases.nearest_short_word(self.verb, key)
            if short is not None:
                raise UserError(
                    f"{key}={value}: there is no such setting", f"a setting, such as {short}", f"{short}={value}"
                )
        self._set_all(meant if meant is not None else [(prefix + self._spelt(key[len(prefix) :]), value)])

    def _set_all(self, settings: Sequence[tuple[str, str | None]]) -> None:
        for key, value in settings:
            if value is None or key.startswith("~"):
                self.overrides.append(key if value is None else f"{key}={value}".removesuffix("="))
            else:
                self.overrides.append(f"{key}={self._value(key.lstrip('+'), value)}")

    def _value(self, key: str, text: str) -> str:
        """Return a value in Hydra's grammar."""
        options = self.verb.settings_at(key)
        several = self._several(key)
        if self._names(key) is not None:
            return self._text(text, _path, several=several)
        if not any(option.accepts(str) for option in options) or key == RECIPE or (several and not self.multirun):
            if options and not _parses(text):
                self._refuse_unreadable(key, text)
            return text if options or key == RECIPE or self._knows(key) or _parses(text) else quoted(text)
        return self._text(text, str, several=several)

    def _refuse_unreadable(self, key: str, text: str) -> None:
        """Raise for a value that is not in Hydra's grammar, such as 1e-3, or [64, where it is clear what was meant."""
        for option in self.verb.settings_at(key):
            near = near_value(option.annotation, text)
            if near is not None:
                raise UserError(f"{key}={text}: not a value", f"{key}: {option.help}", f"{key}={near}")

    def _text(self, text: str, normal: Callable[[str], str], *, several: bool) -> str:
        """Return a text as it was typed, quoted where needed.

        Args:
            text: that was typed.
            normal: makes an existing path the same for all that read it; for other texts, what gives them back.
            several: whether a list may be given.
        """
        is_path = normal is not str
        if not text or (text == "null" and not (is_path and _exists(text))):
            return text
        if is_path and _exists(text):
            return quoted(normal(text), as_text=True)
        if several and text.startswith("[") and text.endswith("]"):
            items = _items(text[1:-1], is_path=is_path)
            return _list(items) if is_path else f"[{','.join(map(quoted, items))}]"
        if self._is_reference(text) and _parses(text):
            return text
        if self.multirun and SWEEP.fullmatch(text) and _parses(text):
            return text
        if self.multirun and "," in text:
            return ",".join(quoted(normal(item), as_text=is_path) for item in _items(text, is_path=is_path))
        inner = _unquoted(text)
        if inner is not None and (not is_path or "://" in inner or _exists(inner) or _matches(inner)):
            return quoted(normal(inner))
        return quoted(normal(text))

    def _is_reference(self, text: str) -> bool:
        """Whether a text takes over the value of a setting or of the environment, as ${seed} and ${oc.env:HOME}."""
        found = REFERENCE.findall(text)
        return bool(found) and all(":" in name or self._knows(name) for name in found)

    # a word without a key

    def _read_bare(self) -> list[str]:
        keys = self.verb.words
        if not keys:
            raise self._no_word(self.bare[0])
        given = {item.partition("=")[0] for item in self.overrides}
        found = []
        left, literals = list(self.bare), self._literals()
        # What is given by its key needs no word: `promote run=a:v1 production`.
        for key in [key for key in keys if key not in given] if len(self.bare) < len(keys) else keys:
            several = self._several(key)
            now, left = (left, []) if several else (left[:1], left[1:])
            if self._names(key) is Names.RUN and any(text in literals and not _exists(text) for text in now[1:]):
                raise self._too_many(key)
            wrong = next((text for text in now if not self._may_be(text, key)), None)
            if wrong is not None:
                raise self._no_word(wrong)
            if now and key in given:
                raise self._too_many(key)
            if len(now) > 1:
                found.append(f"{key}={_list(now)}")
            elif now:
                (text,) = now
                found.append(f"{key}={self._value(key, text) if text != 'null' else quoted(text, as_text=True)}")
        if left:
            raise self._too_many(keys[-1])
        return found

    def _too_many(self, key: str) -> UserError:
        helps = [option.help for option in self.verb.settings_at(key)]
        meant = [self._literals().get(text, text) for text in self.bare[1:]]
        if len(self.bare) > 1 and meant != self.bare[1:]:
            words = [self.bare[0], *meant]
            return UserError(
                f"{shlex.join(self.bare)}: {key} is given more than once",
                "one value, and settings as key=value",
                f"{command(self.verb.command)} {shlex.join(words)}",
            )
        unfit = next((text for text in self.bare[1:] if not self._may_be(text, key)), None)
        if unfit is not None:
            return self._no_word(unfit)
        return UserError(
            f"{' '.join(map(shlex.quote, self.bare))}: {key} is given more than once",
            f"one value: {helps[0]}" if helps else "one value",
            f"{command(self.verb.command)} {shlex.quote(self.bare[0])}",
        )

    def _names(self, key: str) -> Names | None:
        return next((option.names for option in self.verb.settings_at(key) if option.names), None)

    def _several(self, key: str) -> bool:
        return any(option.accepts(list) for option in self.verb.settings_at(key))

    def _may_be(self, text: str, key: str) -> bool:
        """Whether a word without a key is a value of this setting, and not a setting that is misspelt."""
        names = self._names(key)
        if names is None:
            return "=" not in text
        if _exists(text) or "/" in text or _is_home(text) or (self._several(key) and re.fullmatch(r"\[.*\]", text)):
            return True
        if names is Names.PATH:
            return glob.has_magic(text) or text.startswith(PREFIX)
        if Reference.parse(text).is_reserved or text == PRODUCTION or ":" in text or text.endswith(".onnx"):
            return True
        # Whoever names no run and nothing like a setting is told by the verb which runs there are.
        return not self._alike(text) or self._names_run(text)

    def _names_run(self, text: str) -> bool:
        output = self.verb.options.get("output")
        folder = DEFAULT_OUTPUT
        if output is not None and output.default == DEFAULT_OUTPUT:
            typed = [item.removeprefix("output=") for item in self.overrides if item.startswith("output=")]
            folder = (_unquoted(typed[-1]) or typed[-1]) if typed else folder
        try:
            find_model(text, output=folder)
        except UserError:
            return False
        return True

    # what is wrong

    def _choices(self) -> dict[str, str]:
        """What stands without a value or key by mistake, and how it is written."""
        verbs = [self.verb]
        if self.verb.settings_of is not None:
            verbs.append(entry(VERB, self.verb.settings_of.verb))
        found: dict[str, str] = {}
        for verb in reversed(verbs):
            for name, option in verb.options.items():
                if option.choice is not None and option.fixed is None:
                    found |= {known.name: f"{name}={known.name}" for known in entries(name)}
            for key, option in _all_options(verb):
                found.setdefault(key.rpartition(".")[2], f"--{key}" if option.accepts(bool) else f"{key}=…")
            for name in verb.options:
                found[name] = f"--{name}" if is_flag(self.verb, name) else f"{name}=…"
            if "resume" in verb.options:
                found["resume"] = f"resume={LATEST}"
        return {**found, "help": "--help", "version": "--version", "multirun": "--multirun"}

    def _literals(self) -> dict[str, str]:
        """The values that a setting of the verb itself alone has, such as int8, and how they are written."""
        found: dict[str, list[str]] = {}
        for name, option in self.verb.options.items():
            names = [known.name for known in entries(name)] if option.choice and option.fixed is None else []
            for value in [*names, *(value for value in option.literals if isinstance(value, str))]:
                found.setdefault(value, []).append(f"{name}={value}")
        return {value: words[0] for value, words in found.items() if len(words) == 1}

    def _alike(self, text: str) -> list[str]:
        choices = self._choices()
        name = text.partition("=")[0].strip("-").replace("-", "_")
        return [choices[close] for close in ([name] if name in choices else nearest(name, choices))]

    def _unknown(self, text: str, left: Sequence[str] = ()) -> UserError:
        """The error for a word with dashes that is no setting; `left` are the words after it."""
        short = aliases.nearest_short_word(self.verb, text.lstrip("-"))
        if short is not None and text.startswith("--"):
            value = shlex.quote(left[0]) if left and not left[0].startswith("-") and "=" not in left[0] else "…"
            return UserError(f"{text}: there is no such setting", f"a setting, such as --{short}", f"--{short} {value}")
        alike = self._alike(text)
        keys = list(self.verb.options)
        return UserError(
            f"{text}: there is no such setting",
            f"one of {enumerate_words(alike or keys)}",
            alike[0] if alike else f"{command(self.verb.command)} --help all   lists them",
        )

    def _no_word(self, text: str) -> UserError:
        """The error for a word without a key that is nothing at all."""
        alike = self._alike(text)
        this = command(self.verb.command)
        if not self.verb.words:
            wanted = f"settings: {self.verb.command} takes no word without a key"
            return UserError(f"{text}: not a setting", wanted, alike[0] if alike else this)
        key = self.verb.words[0]
        names, (option, *_) = self._names(key), self.verb.settings_at(key)
        here = sorted(os.listdir()) if names is Names.PATH else []  # noqa: PTH208 - names are enough
        files = [name for name in here if name.startswith(text)] or nearest(text, here)
        runs = [name for name in self.verb.options if self._names(name) is Names.RUN and name not in self.verb.words]
        remedies = [
            *(f"{this} {shlex.quote(name)}" for name in files),
            *(f"{this} {name}" for name in nearest(text, RUN_WORDS) if names is Names.RUN),
            *(f"{name}={text}" for name in runs if text in RUN_WORDS),
            *self._with_run(text),
            *alike,
            *(command(name) for name in nearest(text, [known.name for known in entries(VERB)])),
            f"{this} --help   shows what may stand here",
        ]
        return UserError(
            f"{text}: not a setting, and no file or folder of that name",
            f"a setting, or {'a run' if names is Names.RUN else 'a path'}: {option.help}",
            remedies[0],
        )

    def _with_run(self, text: str) -> list[str]:
        """The command in which a word before an existing path names a run: predict run=exp1 photo.jpg."""
        place = self.bare.index(text) if text in self.bare else -1
        others = self.bare[place + 1 :]
        if place < 0 or "run" not in self.verb.options or "run" in self.verb.words or not others:
            return []
        if not all(map(_exists, others)) or self._alike(text):
            return []
        words = [*self.bare[:place], f"run={text}", *others]
        return [f"{command(self.verb.command)} {shlex.join(words)}"]


def _all_options(verb: Entry) -> Iterator[tuple[str, Option]]:
    for name, option in verb.options.items():
        components = [option.fixed] if option.fixed else entries(name) if option.choice else []
        for known in components:
            middle = f".{known.name}" if option.choice and option.choice.many else ""
            yield from ((f"{name}{middle}.{own}", setting) for own, setting in known.options.items())


def _parted(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _exists(path: str) -> bool:
    return bool(path) and "\0" not in path and os.path.lexists(path)


def _matches(pattern: str) -> bool:
    """Whether a glob finds something."""
    return glob.has_magic(pattern) and any(True for _ in glob.iglob(os.path.expanduser(pattern)))  # noqa: PTH111, PTH207


def _is_home(path: str) -> bool:
    return os.path.expanduser(path) != path  # noqa: PTH111


def _is_hydras(key: str) -> bool:
    return key.partition(".")[0].partition("/")[0] == "hydra"


def _path(text: str) -> str:
    """Return a path with the home folder that ~ stands for, unless it exists as it was typed."""
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib raises for a user that there is not
    if expanded != text and not _exists(text):
        return expanded
    # Pathlib makes ~x of ./~x, and would then look for a user of that name.
    return os.path.abspath(text) if os.path.normpath(text).startswith("~") else text  # noqa: PTH100


def _list(paths: Sequence[str]) -> str:
    """Return a list of paths in Hydra's grammar."""
    many = len(paths) > MANY
    return f"[{','.join(quoted(_path(path), as_text=True, always=many) for path in paths)}]"


def _unquoted(text: str) -> str | None:
    """Return what stands in quotation marks; None where the whole text does not."""
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return None
    return re.sub(rf"\\([\\{text[0]}])", r"\1", text[1:-1])


def _items(text: str, *, is_path: bool) -> list[str]:
    """Part a list at its commas, but not those within quotation marks or within the name of an existing path."""
    parts = [
        part.strip()
        for part in re.findall(r"""((?:\s*"(?:\\.|[^"\\])*"\s*|\s*'(?:\\.|[^'\\])*'\s*|[^,]*))(?:,|$)""", text)
    ]
    parts = parts[:-1] if parts and not parts[-1] else parts
    found: list[str] = []
    while parts:
        ends = [end for end in range(len(parts), 1, -1) if is_path and any(map(_exists, _joined(parts[:end], text)))]
        end = ends[0] if ends else 1
        whole = next((path for path in _joined(parts[:end], text) if _exists(path)), parts[0])
        inner = _unquoted(whole)
        found.append(inner if inner is not None and not _exists(whole) else whole)
        parts = parts[end:]
    return found


def _joined(parts: Sequence[str], text: str) -> Iterator[str]:
    """What neighbours in a list may have been before it was parted at its commas."""
    pattern = r"\s*,\s*".join(map(re.escape, parts))
    yield from re.findall(pattern, text)[:1]


def _parses(value: str) -> bool:
    """Whether a value is in Hydra's grammar."""
    try:
        OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    return True
