"""The reference of all settings, as Markdown pages that are written from the register when the site is built."""

from __future__ import annotations

import inspect
from importlib.resources import files
from typing import TYPE_CHECKING

import classifier_training
from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.help import GROUP_TITLES
from classifier_training.conf.recipes import RECIPE
from classifier_training.conf.store import CONF_MODULE, group_options
from classifier_training.conf.validate import type_words, value_words
from classifier_training.core.register import VERB, entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifier_training.core.register import Entry, Option

INTRODUCTION = """# Settings

These pages are written from the program's own signatures when the site is built. `classifier-training VERB --help`
prints the same for the installed version.

On the command line a setting is written `name=value` or `group.name=value`, and a component is chosen by
`group=name`. From Python, the same names are the keys of `settings=`. Types are written as Python writes them; bounds
follow the type. `null` is Python's `None`, `true` and `false` are its booleans, `[a,b]` is a list, `required` marks a
setting that has no default.
"""


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its path below docs/."""
    return {
        "reference/index.md": _index(),
        "reference/python.md": _python(),
        **{f"reference/verbs/{verb.name}.md": _verb(verb) for verb in entries(VERB)},
        **{f"reference/groups/{group}.md": _group(group, verbs) for group, verbs in _groups().items()},
    }


def navigation() -> list[object]:
    """Return the pages in the order of the menu, as mkdocs.yml would list them."""
    names = list(pages())
    verbs = [path for path in names if path.startswith("reference/verbs/")]
    groups = [path for path in names if path.startswith("reference/groups/")]
    return [*names[:2], {"Verbs": [_titled(path) for path in verbs]}, {"Groups": [_titled(path) for path in groups]}]


def _titled(path: str) -> dict[str, str]:
    return {path.rpartition("/")[2].removesuffix(".md"): path}


def _groups() -> dict[str, list[Entry]]:
    """The groups that a user chooses from, each with the verbs that have it."""
    found: dict[str, list[Entry]] = {}
    for verb in _commands():
        for group in group_options(verb):
            found.setdefault(group, []).append(verb)
    return found


def _commands() -> Iterator[Entry]:
    """All verbs, each followed by its sub-verbs."""
    for verb in entries(VERB):
        yield verb
        yield from entries(verb.name)


def _index() -> str:
    lines = [INTRODUCTION, "## Verbs", "", "| verb | what it does |", "|---|---|"]
    lines += [f"| [`{verb.name}`](verbs/{verb.name}.md) | {_cell(verb.summary)} |" for verb in entries(VERB)]
    lines += ["", "## Groups", "", "| group | what is chosen | of the verbs |", "|---|---|---|"]
    for group, verbs in _groups().items():
        names = ", ".join(f"`{verb.command}`" for verb in verbs)
        lines.append(f"| [`{group}`](groups/{group}.md) | {_cell(GROUP_TITLES[group])} | {names} |")
    return "\n".join([*lines, ""])


def _python() -> str:
    """The names that `import classifier_training` offers; mkdocstrings fills in signatures and docstrings."""
    homes = {
        name: getattr(getattr(classifier_training, name), "__module__", "") for name in classifier_training.__all__
    }
    lines = ["# Python functions and classes", "", "All of these are names of `classifier_training`.", ""]
    for name in ("train", "load_run", "Run", "Metric", "Predictor", "Prediction", "UserError"):
        lines += [f"::: {homes[name]}.{name}", ""]
    return "\n".join(lines)


def _verb(verb: Entry) -> str:
    lines = [f"# `{verb.name}`", "", *_prose(verb)]
    sub_verbs = entries(verb.name)
    for command in sub_verbs or [verb]:
        if sub_verbs:
            lines += ["", f"## `{command.command}`", "", *_prose(command)]
        words = "".join(f" [{option.name.upper()}]" for option in command.options.values() if option.is_word)
        lines += ["", "```text", f"classifier-training {command.command}{words} [name=value …]", "```", ""]
        options = [(name, option) for name, option in command.options.items() if option.choice is None]
        for name, option in command.options.items():
            fixed = option.fixed.options.items() if option.fixed else ()
            options += [(f"{name}.{inner}", one) for inner, one in fixed]
        lines += _table(options)
        if command.settings_of is not None:
            other = command.settings_of.verb
            lines += ["", f"All settings of [`{other}`]({other}.md) are accepted besides."]
        lines += _choices(command)
    return "\n".join([*lines, ""])


def _choices(verb: Entry) -> Iterator[str]:
    offered = group_options(verb)
    if not offered:
        return
    yield from ("", "| group | choices |", "|---|---|")
    for group, names in offered.items():
        default = _default(verb, group)
        listed = ", ".join(f"**`{name}`**" if name == default else f"`{name}`" for name in names)
        yield f"| [`{group}=`](../groups/{group}.md) | {listed} |"
    yield from ("", "The default is in bold.")


def _default(verb: Entry, group: str) -> str | None:
    choice = verb.options[group].choice if group in verb.options else None
    return choice.default if choice is not None else "auto" if group == RECIPE else None


def _group(group: str, verbs: list[Entry]) -> str:
    title = GROUP_TITLES[group]
    commands = ", ".join(f"`{verb.command}`" for verb in verbs)
    lines = [f"# `{group}`", "", f"{title[0].upper()}{title[1:]}. A group of {commands}.", ""]
    components = entries(group)
    choice = verbs[0].options[group].choice if group in verbs[0].options else None
    many = choice is not None and choice.many
    shared = [] if many or len(components) < 2 else _shared(components)
    if shared:
        lines += [f"## Settings of every `{group}`", "", *_table((f"{group}.{one.name}", one) for one in shared), ""]
    names = {one.name for one in shared}
    for item in components:
        prefix = f"{group}.{item.name}." if many else f"{group}."
        lines += [f"## `{group}={item.name}`", "", *_prose(item), ""]
        lines += [f"Needs the extra `{item.extra}`.", ""] if item.extra else []
        own = [(f"{prefix}{name}", option) for name, option in item.options.items() if name not in names]
        lines += [*_table(own), ""] if own else []
    for name, text in _presets(group).items():
        lines += [f"## `{group}={name}`", "", "A preset:", "", "```yaml", text.strip(), "```", ""]
    return "\n".join(lines)


def _shared(components: list[Entry]) -> list[Option]:
    """Settings that all components of a group have, with the same type, default and help."""

    def said(option: Option) -> tuple[str, str, str]:
        return type_words(option.annotation), value_words(option.default), option.help

    return [
        option
        for name, option in components[0].options.items()
        if all(name in item.options and said(item.options[name]) == said(option) for item in components)
    ]


def _presets(group: str) -> dict[str, str]:
    """The YAML files of a group, by name."""
    folder = files(CONF_MODULE).joinpath(group)
    if not folder.is_dir():
        return {}
    found = sorted((item for item in folder.iterdir() if item.name.endswith(".yaml")), key=lambda item: item.name)
    return {item.name.removesuffix(".yaml"): item.read_text(encoding="utf-8") for item in found}


def _prose(known: Entry) -> list[str]:
    """What a docstring says before its sections, as Markdown."""
    text = inspect.getdoc(known.target) or ""
    for section in ("Args:", "Returns:", "Raises:", "Attributes:"):
        text = text.partition(f"\n{section}")[0]
    return text.strip().splitlines()


def _table(options: Iterable[tuple[str, Option]]) -> Iterator[str]:
    rows = list(options)
    if not rows:
        yield "No settings of its own."
        return
    yield from ("| setting | type | default | meaning |", "|---|---|---|---|")
    for name, option in rows:
        default = value_words(option.default)
        default = f"`{default}`" if default else "empty"
        yield f"| `{name}` | `{type_words(option.annotation)}` | {default} | {_cell(option.help)} |"


def _cell(text: str) -> str:
    """Keep a sentence in its cell: bars and angle brackets mean something in Markdown."""
    return text.replace("|", "\\|").replace("<", "&lt;")
