"""The help texts of verbs, written from signatures and docstrings: a short one, and all there is."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING

from classifier_training.conf.aliases import names_of
from classifier_training.conf.overrides import written_instead
from classifier_training.conf.recipes import AUTO, RECIPE
from classifier_training.conf.store import EXPERIMENT, group_options
from classifier_training.conf.validate import type_words, value_words
from classifier_training.core.register import VERB, entries, entry
from classifier_training.core.runtime import command
from classifier_training.core.settings import Often

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifier_training.core.register import Entry, Option

WIDTH = 118
SHORT_WIDTH = 100

NUM_SHOWN = 10
"""Settings in the short help of a verb."""

GROUP_TITLES = {
    "data": "the data set",
    "transforms": "resizing and augmentation",
    "model": "the network; auto takes tf_efficientnet_lite0 for images of your own, resnet18 for the built-in sample",
    "loss": "the training loss",
    "optimizer": "how weights are changed",
    "scheduler": "how the learning rate changes",
    "transfer": "which layers of a pretrained network learn, and when",
    "imbalance": "how unbalanced classes are corrected, by one of these alone",
    "pruning": "channels that leave a trained network before it is trained on",
    "distillation": "what a student learns from finished runs besides the labels",
    "sampler": "how often images are drawn; chosen by imbalance= unless given",
    "callbacks": "what watches the run; several may be chosen, each is switched off with callbacks.NAME=null",
    "trainer": "length, device and precision",
    "logging": "where metrics go besides metrics.csv; several may be chosen: logging=[tensorboard,wandb]",
    "launcher": "where the command runs: on this machine, or as jobs of a cluster",
    "publish": "a registry elsewhere that is told too",
    "format": "what is written; several may be chosen: format=[onnx,torchscript]",
    RECIPE: "presets of the groups above for a situation; auto takes finetune or scratch, by the network's weights",
    EXPERIMENT: "whole sets of settings; files in your own conf/ folder are found too",
}


def overview(version: str) -> str:
    """Return the text of `--help all`: every verb with every setting of its own."""
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
                ("--help, -h", "the verbs; after a verb, what it is used with most; --help all is everything"),
                (
                    "--multirun, -m",
                    "one run for each combination of comma-separated values: model=resnet18,resnet50",
                ),
                ("--version", "the version"),
            ]
        ),
    ]
    return "\n".join(lines)


def short_help(verb: Entry) -> str:
    """Return the text of `VERB --help`: usage, examples, and the settings that are used most."""
    sub_verbs = entries(verb.name) if verb.group == VERB else []
    lines = [_usage(verb), "", *textwrap.wrap(_description(verb), SHORT_WIDTH)]
    lines += ["", *(f"  {command(example)}" for example in verb.examples)] if verb.examples else []
    if sub_verbs:
        lines += ["", "sub-verbs:", *_table(((one.name, one.summary) for one in sub_verbs), width=SHORT_WIDTH)]
    keys = _often(verb)
    number = len(dict(settings_of(verb)))
    if keys:
        title = "settings" if len(keys) == number else f"the settings used most, of {number}"
        lines += ["", f"{title} (key=value, --key value, or --key for true):"]
        lines += _table((_row(verb, key, option) for key, option in keys.items()), width=SHORT_WIDTH)
    if len(keys) < number or sub_verbs:
        lines += ["", f"all settings: {command(verb.command)} --help all"]
    return "\n".join(lines)


def _often(verb: Entry) -> dict[str, Option]:
    """The settings that the short help shows, by key: those of words without keys, the often used, and its own."""
    found = dict(reversed(list(settings_of(verb))))
    places = {key: mark.place for key, option in found.items() if (mark := option.mark(Often)) is not None}
    own = [name for name in verb.options if name in found]
    marked = sorted(places, key=places.__getitem__)
    ordered = dict.fromkeys([*verb.words, *([*own, *marked] if verb.settings_of else [*marked, *own])])
    return {key: found[key] for key in list(ordered)[:NUM_SHOWN]}


def settings_of(verb: Entry) -> Iterator[tuple[str, Option]]:
    """Yield each setting that has an effect in a verb with its key; several where components have one of the name."""
    for name, option in verb.options.items():
        if option.choice is None or option.mark(Often) is not None:
            yield name, option
        for known in entries(option.choice.group or name) if option.choice else ():
            above = f"{name}.{known.name}." if option.choice and option.choice.many else f"{name}."
            yield from ((f"{above}{own}", one) for own, one in known.options.items() if one.acts_in(verb.name))
    if verb.settings_of is not None:
        other = settings_of(entry(VERB, verb.settings_of.verb))
        own = set(verb.options)
        yield from (
            (key, one) for key, one in other if key.partition(".")[0] not in own and written_instead(verb, key) is None
        )


def _row(verb: Entry, key: str, option: Option) -> tuple[str, str]:
    if option.choice is not None:
        return f"{key}={option.choice.default}", GROUP_TITLES[key].partition(";")[0]
    short = "".join(f", {name}" for name in names_of(verb, key))
    return f"{key}={value_words(option.default)}{short}", option.help.partition(". ")[0].removesuffix(".")


def _usage(verb: Entry) -> str:
    offered = group_options(verb)
    words = "[SUB-VERB] " if verb.group == VERB and entries(verb.name) else ""
    words += "".join(f"[{key.partition('.')[0].upper()}] " for key in verb.words)
    words += f"{'[group=name …] ' if offered else ''}[key=value …]"
    return f"usage: classifier-training {verb.command} {words}"


def _description(verb: Entry) -> str:
    return " ".join((inspect.getdoc(verb.target) or "").partition("\nArgs:")[0].split())


def verb_help(verb: Entry) -> str:
    """Return the text of `VERB --help all`."""
    offered = group_options(verb)
    sub_verbs = entries(verb.name) if verb.group == VERB else []
    lines = [_usage(verb), "", *textwrap.wrap(_description(verb), WIDTH)]
    if sub_verbs:
        lines += ["", "sub-verbs:", *_table((one.name, one.summary) for one in sub_verbs)]
        for one in sub_verbs:
            lines += ["", f"settings of {one.command}:", *_settings(one, indent=2)]
    else:
        lines += ["", "settings:", *_settings(verb, indent=2)]
    if verb.settings_of is not None:
        other = verb.settings_of.verb
        lines += ["", f"and every setting of {other}: classifier-training {other} --help all lists them"]
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


def _table(rows: Iterable[tuple[str, str]], *, indent: int = 2, width: int = WIDTH) -> Iterator[str]:
    listed = list(rows)
    left_width = min(max((len(left) for left, _ in listed), default=0), 44)
    for left, right in listed:
        first = f"{' ' * indent}{left:<{left_width}}  "
        yield from textwrap.wrap(
            right,
            width,
            initial_indent=first,
            subsequent_indent=" " * (indent + left_width + 2),
            break_on_hyphens=False,
        ) or [first.rstrip()]
