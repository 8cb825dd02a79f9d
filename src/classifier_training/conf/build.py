"""From composed or saved values to the validated arguments of a verb."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import classifier_training.conf.catalogue  # noqa: F401 - fills the register
from classifier_training.conf.check import nothing_to_choose
from classifier_training.conf.validate import build, validate
from classifier_training.core.errors import UserError
from classifier_training.core.register import TYPE_KEY, entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.core.register import Entry


def build_arguments(verb: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn composed values into the arguments of a verb.

    Raises:
        UserError: for a wrong type or value.
    """
    arguments: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name, value in values.items():
        option = verb.options.get(name)
        if option is None or option.choice is None:
            plain[name] = value
        elif option.choice.many:
            chosen = {key: node for key, node in (value or {}).items() if node is not None}
            arguments[name] = {key: build_node(name, node, f"{name}.{key}") for key, node in chosen.items()}
        elif option.fixed:
            if not isinstance(value, dict):
                raise nothing_to_choose(f"{name}={value}", [f"{name}.{key}" for key in option.fixed.options])
            arguments[name] = build_node(option.fixed.group, value, name)
        elif value is None:
            if option.choice.default is not None:
                raise UserError(
                    f"{name} is null, and {verb.command} cannot do without",
                    f"one {name} of those that classifier-training {verb.command} --help lists",
                    f"{name}={option.choice.default}",
                )
            arguments[name] = None
        else:
            arguments[name] = build_node(name, value, name)
    return arguments | validate(verb, plain, prefix="")


def build_node(group: str, node: Any, where: str) -> Any:
    """Build the component that saved or composed values describe.

    Args:
        group: the register group.
        node: settings, and the component's name under `type`.
        where: key of the node in the configuration, for messages.

    Raises:
        UserError: when it is no such node, or a setting is wrong.
    """
    if not isinstance(node, dict) or not isinstance(node.get(TYPE_KEY), str):
        raise UserError(
            f"{where}={node!r}: no component of the group {group}",
            f"settings with the key '{TYPE_KEY}'",
            f"choose one by name: {group}=…",
        )
    settings = {name: value for name, value in node.items() if name != TYPE_KEY}
    return build(entry(group, node[TYPE_KEY]), settings, prefix=f"{where}.")
