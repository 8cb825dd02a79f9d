"""The command that trains a run again, from the configuration that it kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classifier_training.core.register import TYPE_KEY, VERB, entry
from classifier_training.core.runtime import command, setting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from classifier_training.core.register import Option

ELSEWHERE = ("output", "name", "category", "resume", "extend", "recipe")
"""Where a run lies and how it came by its settings: another one need not share that."""


def train_command(config: Mapping[str, Any]) -> str:
    """Return a command to be pasted; every setting that is not the plain default stands in it.

    The recipe that gave some of them is not named: a later version's may be another.

    Args:
        config: content of config.yaml.
    """
    words = ["recipe=none"]
    for name, option in entry(VERB, "train").options.items():
        if name in config and name not in ELSEWHERE:
            words += _words(name, option, config[name])
    return " ".join([command("train"), *words])


def _words(name: str, option: Option, value: Any) -> Iterator[str]:
    choice = option.choice
    if choice is None or not (value is None or isinstance(value, dict)):
        default = choice.default if choice else option.default
        if value != default:
            yield setting(name, _plain(value))
    elif choice.many:
        parts = value or {}
        if list(parts) != [choice.default] or choice.default is None:
            chosen = [part for part, node in parts.items() if node is not None]
            # The names are the register's own, so they need no quotes.
            if chosen or choice.default is not None:
                yield f"'{name}=[{','.join(chosen)}]'"
        for part, node in parts.items():
            if node is not None:
                yield from _settings(f"{name}.{part}", part if choice.group is None else choice.group, name, node)
    elif value is None:
        if choice.default is not None:
            yield f"{name}=null"
    else:
        if choice.group is None and value[TYPE_KEY] != choice.default:
            yield setting(name, value[TYPE_KEY])
        yield from _settings(name, value[TYPE_KEY], choice.group or name, value)


def _settings(prefix: str, component: str, group: str, node: Mapping[str, Any]) -> Iterator[str]:
    options = entry(group, component).options
    for name, value in node.items():
        if name != TYPE_KEY and value != options[name].default:
            yield setting(f"{prefix}.{name}", _plain(value))


def _plain(value: Any) -> Any:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else value
