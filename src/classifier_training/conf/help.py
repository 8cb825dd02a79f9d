"""The help texts, written from signatures and docstrings."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING

from classifier_training.conf.recipes import AUTO, RECIPE
from classifier_training.conf.store import EXPERIMENT, group_options
from classifier_training.conf.validate import type_words, value_words
from classifier_training.core.register import VERB, entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifier_training.core.register import Entry, Option

WIDTH = 118

GROUP_TITLES = {
    "data": "the data set",
    "transforms": "resizing and augmentation",
    "model": "the network; auto takes tf_efficientnet_lite0 for images of your own, resnet18 for the built-in sample",
    "loss": "the training loss",
    "optimizer": "how weights are changed",
    "scheduler": "how the learning rate changes",
    "transfer": "which layers of a pretrained network learn, and when",
    "imbalance": "how unbalanced classes are corrected, by one of these alone",
    "distillation": "what a student learns from finished runs besides the labels",
    "sampler": "how often images are drawn; chosen by imbalance= unless given",
    "callbacks": "what watches the run; several may be chosen, each is switched off with callbacks.NAME=null",
    "trainer": "length, device and precision",
    "logging": "where metrics go besides metrics.csv; several may be chosen: logging=[tensorboard,wandb]",
    "publish": "a registry elsewhere that is told too",
    "format": "what is written; several may be chosen: format=[onnx,torchscript]",
    RECIPE: "presets of the groups above for a situation; auto takes finetune or scratch, by the network's weights",
    EXPERIMENT: "whole sets of settings; files in your own conf/ folder are found too",
}


def overview(version: str) -> str:
    """Return the text of `--help`."""
    verbs = entries(VERB)
    train = next(verb for verb in verbs if verb.name == "train")
    offered = group_options(train)
    lines = [
        f"classifier-training {version}: from a folder of images to a classifier you can trust and ship",
        "",
        "usage: classifier-training VERB [group=name …] [group.key=value …]",
        "",
        "verbs:",
        *_table((verb.name, verb.summary) for verb in verbs),
        "",
        "groups of train (choose with group=name, set with group.key=value):",
        *_table((group, _choices(train, group, names)) for group, names in offered.items()),
        "",
        "settings of each verb:",
    ]
    for one in [part for verb in verbs for part in (verb, *entries(verb.name))]:
        lines += [f"  {one.command}", *_settings(one, indent=4)]
    lines += [
        "",
        "flags:",
        *_table(
            [
                ("--help, -h", "this text; after a verb, every setting of its groups"),
                (
                    "--multirun, -m",
                    "one run for each combination of comma-separated values: model=resnet18,resnet50",
                ),
                ("--version", "the version"),
            ]
        ),
    ]
    return "\n".join(lines)


def verb_help(verb: Entry) -> str:
    """Return the text of `VERB --help`."""
    docstring = (inspect.getdoc(verb.target) or "").partition("\nArgs:")[0]
    offered = group_options(verb)
    sub_verbs = entries(verb.name) if verb.group == VERB else []
    words = "[SUB-VERB] " if sub_verbs else ""
    words += "".join(f"[{key.partition('.')[0].upper()}] " for key in verb.words)
    words += f"{'[group=name …] ' if offered else ''}[key=value …]"
    lines = [f"usage: classifier-training {verb.command} {words}", ""]
    lines += textwrap.wrap(" ".join(docstring.split()), WIDTH)
    if sub_verbs:
        lines += ["", "sub-verbs:", *_table((one.name, one.summary) for one in sub_verbs)]
        for one in sub_verbs:
            lines += ["", f"settings of {one.command}:", *_settings(one, indent=2)]
    else:
        lines += ["", "settings:", *_settings(verb, indent=2)]
    if verb.settings_of is not None:
        other = verb.settings_of.verb
        lines += ["", f"and every setting of {other}: classifier-training {other} --help lists them"]
    for group, names in offered.items():
        choices = f"{group}={_choices(verb, group, names)}"
        lines += ["", f"{group}: {GROUP_TITLES[group]}"]
        lines += textwrap.wrap(choices, WIDTH - 2, initial_indent="  ", subsequent_indent="    ")
        lines += _group(verb, group) if entries(group) else []
    return "\n".join(lines)


def _choices(verb: Entry, group: str, names: Iterable[str]) -> str:
    choice = verb.options[group].choice if group in verb.options else None
    default = None if choice is None or choice.default in (None, "default") else choice.default
    default = AUTO if group == RECIPE else default
    return " | ".join(f"{name} (default)" if name == default else name for name in names)


def _group(verb: Entry, group: str) -> Iterator[str]:
    """Settings that all components of a group share come first, once; then each component with its own."""
    components = entries(group)
    choice = verb.options[group].choice
    many = choice is not None and choice.many
    shared = [
        option
        for option in components[0].options.values()
        if len(components) > 1 and not many and all(_same(option, item.options.get(option.name)) for item in components)
    ]
    yield from _options(shared, prefix=f"{group}.", indent=2)
    for item in components:
        yield f"  {group}={item.name}: {item.summary}"
        own = [option for option in item.options.values() if option.name not in {option.name for option in shared}]
        yield from _options(own, prefix=f"{group}.{item.name}." if many else f"{group}.", indent=4)


def _same(option: Option, other: Option | None) -> bool:
    mine = (type_words(option.annotation), option.default, option.help)
    return other is not None and mine == (type_words(other.annotation), other.default, other.help)


def _settings(verb: Entry, *, indent: int) -> list[str]:
    """The verb's own settings, those of its fixed components among them."""
    rows = _rows(verb.options.values(), prefix="")
    for option in verb.options.values():
        rows += _rows(option.fixed.options.values(), prefix=f"{option.name}.") if option.fixed else []
    return list(_table(rows, indent=indent))


def _options(options: Iterable[Option], *, prefix: str, indent: int) -> list[str]:
    return list(_table(_rows(options, prefix=prefix), indent=indent))


def _rows(options: Iterable[Option], *, prefix: str) -> list[tuple[str, str]]:
    return [
        (
            f"{prefix}{option.name}={value_words(option.default)}",
            f"{option.help} [{type_words(option.annotation)}]",
        )
        for option in options
        if option.choice is None
    ]


def _table(rows: Iterable[tuple[str, str]], *, indent: int = 2) -> Iterator[str]:
    listed = list(rows)
    width = min(max((len(left) for left, _ in listed), default=0), 44)
    for left, right in listed:
        first = f"{' ' * indent}{left:<{width}}  "
        yield from textwrap.wrap(
            right,
            WIDTH,
            initial_indent=first,
            subsequent_indent=" " * (indent + width + 2),
            break_on_hyphens=False,
        ) or [first.rstrip()]
