"""`@register`: the signature of a class or function is its configuration.

Keyword-only parameters are settings: they appear in the help, in the configuration and in the saved run. Positional
parameters are what the program knows by itself (the class count, the data), passed when the component is built. So a
registered class or a function without positional parameters is called as soon as its settings are known; a function
with positional parameters becomes a `functools.partial` that waits for them.

Nothing here imports what is registered, and nothing registered may import anything heavy while its module loads: the
register fills, help is printed and a wrong setting is refused without torch.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar

from classifier_training.core.errors import EXTRAS, UserError, enumerate_words, nearest, refuse_missing
from classifier_training.core.settings import Names, OnlyIn, Trait

Mark = TypeVar("Mark")
Target = TypeVar("Target", bound=Callable[..., Any])

VERB = "verb"
"""The group of the command line's verbs."""

TYPE_KEY = "type"
"""The key that says, in a saved configuration, which component of a group was chosen."""

MISSING = inspect.Parameter.empty


@dataclass(frozen=True)
class Choice:
    """Marks a parameter that is filled from the register group of the same name.

    Args:
        default: name of the component chosen unless the user says otherwise; None for none.
        many: whether several components may be chosen; the parameter is then a mapping by name.
        group: register group to take the default from instead; the user then has nothing to choose, only
            PARAMETER.key=value to set.
    """

    default: str | None
    many: bool = False
    group: str | None = None


@dataclass(frozen=True)
class Word:
    """Marks the parameter of a verb that a word without a key stands for, as in `models 'vgg*'`.

    Args:
        inside: of a parameter that is filled from a group, the setting there: root for data.root.
    """

    inside: str | None = None


@dataclass(frozen=True)
class SettingsOf:
    """Marks the parameter of a verb that takes, as they are typed, all words that are no settings of its own.

    Args:
        verb: whose settings they are.
        resumed_by: what resumes its runs, for whoever types a setting of one start.
    """

    verb: str
    resumed_by: str


class Replaces:
    """Marks the parameter of a verb that stands in the place of settings of the verb that its words are passed on to.

    Args:
        keys: of these settings; GROUP.* is a group with all that it has.
    """

    def __init__(self, *keys: str) -> None:
        self.keys = frozenset(keys)


@dataclass(frozen=True)
class Option:
    """One setting of a component: a keyword-only parameter of its signature."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        """Whether the user must give a value."""
        return self.default is MISSING

    def mark(self, kind: type[Mark]) -> Mark | None:
        """What of one kind stands beside the type; None where nothing does."""
        return next((item for item in self._metadata if isinstance(item, kind)), None)

    @property
    def traits(self) -> frozenset[Trait]:
        """What it is besides."""
        return frozenset(item for item in self._metadata if isinstance(item, Trait))

    def acts_in(self, verb: str) -> bool:
        """Whether it has an effect in a verb that takes its group."""
        only = self.mark(OnlyIn)
        return only is None or verb in only.verbs

    @property
    def choice(self) -> Choice | None:
        """The register group that fills this parameter, if one does."""
        return self.mark(Choice)

    @property
    def is_word(self) -> bool:
        """Whether a word without a key stands for this one."""
        return self.mark(Word) is not None

    @property
    def names(self) -> Names | None:
        """What its text names, if a path or a run; beside the type, or within it where there are several."""
        return next((item for item in _walk(self.annotation) if isinstance(item, Names)), None)

    def accepts(self, kind: type) -> bool:
        """Whether a value may be of a type: bool, str, list, ..."""
        return any(kind in (item, typing.get_origin(item)) for item in _alternatives(self.annotation))

    @property
    def literals(self) -> tuple[Any, ...]:
        """The values that it may have besides those of a type."""
        found = [item for item in _alternatives(self.annotation) if typing.get_origin(item) is typing.Literal]
        return tuple(value for item in found for value in typing.get_args(item))

    @property
    def _metadata(self) -> tuple[Any, ...]:
        return getattr(self.annotation, "__metadata__", ())

    @property
    def fixed(self) -> Entry | None:
        """The component behind a parameter that is filled by one and the same, if that is so."""
        if self.choice is None or self.choice.group is None:
            return None
        assert self.choice.default is not None
        return entry(self.choice.group, self.choice.default)


@dataclass(frozen=True)
class Entry:
    """A registered component: where it stands, what it takes and needs; see `register`."""

    group: str
    name: str
    target: Callable[..., Any]
    extra: str | None = None
    settings: Callable[..., Any] | None = None
    shows_only: bool = False
    examples: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.target) or "").partition("\n")[0]

    @property
    def is_built_in(self) -> bool:
        """Whether it is of this package, not of one that adds components."""
        return str(self.target.__module__).partition(".")[0] == __name__.partition(".")[0]

    @property
    def is_verb(self) -> bool:
        """Whether it is a verb, or a sub-verb: those of `registry` stand in the group of that name."""
        return self.group == VERB or (VERB, self.group) in _entries

    @property
    def command(self) -> str:
        """The words by which a verb or sub-verb is called."""
        return self.name if self.group == VERB else f"{self.group} {self.name}"

    @functools.cached_property
    def options(self) -> dict[str, Option]:
        """The settings by name, in the order of the signature."""
        return {option.name: option for option in self._read() if option.mark(SettingsOf) is None}

    @functools.cached_property
    def passes_on(self) -> Option | None:
        """The parameter that takes the words for another verb, if there is one."""
        return next((option for option in self._read() if option.mark(SettingsOf)), None)

    def _read(self) -> list[Option]:
        return _read_options(self.settings or self.target)

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Do what a verb does, with the arguments that `compose` returns."""
        return self.target(**arguments) if self.settings is None else self.target(self.settings(**arguments))

    @property
    def settings_of(self) -> SettingsOf | None:
        """What marks that parameter."""
        return self.passes_on.mark(SettingsOf) if self.passes_on else None

    def mark(self, key: str, kind: type[Mark]) -> Mark | None:
        """What of one kind stands beside a setting of this verb, or else beside the group that it is in.

        Args:
            key: dotted, such as seed, optimizer or callbacks.ema.decay.
            kind: of mark.
        """
        return next((found for option in self._bearers(key) if (found := option.mark(kind)) is not None), None)

    def traits(self, key: str) -> frozenset[Trait]:
        """What a setting of this verb is besides, its group's traits among them; see `mark`."""
        return frozenset().union(*(option.traits for option in self._bearers(key)))

    @property
    def words(self) -> list[str]:
        """The keys of the settings that words without keys stand for, in their order."""
        own = [(option.name, mark.inside) for option in self.options.values() if (mark := option.mark(Word))]
        if not own and self.settings_of:
            return entry(VERB, self.settings_of.verb).words
        return [name if inside is None else f"{name}.{inside}" for name, inside in own]

    def settings_at(self, key: str) -> list[Option]:
        """List what a key sets: one option, or those of this name in the components that may fill the group.

        Settings of the verb that the words are passed on to are among them.
        """
        found = self._bearers(key)
        if not found and self.settings_of:
            return entry(VERB, self.settings_of.verb).settings_at(key)
        return found[:-1] if "." in key else found

    def _bearers(self, key: str) -> list[Option]:
        """The settings that a key may stand for, in the components of its group, before that of the group."""
        name, *rest = key.split(".")
        option = self.options.get(name)
        if option is None:
            return []
        if option.choice is None or not rest:
            return [option]
        components = entries(option.choice.group or name)
        if option.choice.many:
            components, rest = [item for item in components if item.name == rest[0]], rest[1:]
        return [*(item.options[rest[0]] for item in components if rest and rest[0] in item.options), option]

    def require(self) -> None:
        """Make sure that the extra it needs is there.

        Raises:
            UserError: when it is not installed.
        """
        if self.extra is not None:
            refuse_missing(self.extra, purpose=f"{self.group}={self.name}")

    def build(self, settings: Mapping[str, Any]) -> Any:
        """Make the component from validated settings; see the module's docstring for when it is called.

        Raises:
            UserError: when the extra that it needs is not installed.
        """
        self.require()
        if _awaits_arguments(self.target):
            return functools.partial(self.target, **settings)
        return self.target(**settings)


_entries: dict[tuple[str, str], Entry] = {}
_by_target: dict[Any, Entry] = {}
_awaited: list[Callable[[], None]] = []


def register(
    *,
    group: str,
    name: str,
    extra: str | None = None,
    settings: Callable[..., Any] | None = None,
    shows_only: bool = False,
    examples: tuple[str, ...] = (),
) -> Callable[[Target], Target]:
    """Make a class or function selectable as `group=name`, configured by its own signature.

    Args:
        group: what it is one of.
        name: its own.
        extra: the optional extra that it cannot do without; without it, it is not built.
        settings: of a verb with many: the class that holds them, which the function takes as its first argument.
        shows_only: whether it shows or writes down a run and changes nothing in it.
        examples: of a verb, the words of complete commands, for its help.

    Raises:
        ValueError: when the name is taken, or there is no such extra.
    """
    if extra is not None and extra not in EXTRAS:
        raise ValueError(f"{group}={name}: there is no extra {extra}, only {', '.join(EXTRAS)}")

    def add(target: Target) -> Target:
        if (group, name) in _entries:
            taken = _entries[group, name].target
            raise ValueError(f"{group}={name} is registered twice: by {_origin(taken)} and by {_origin(target)}")
        _entries[group, name] = _by_target[target] = Entry(group, name, target, extra, settings, shows_only, examples)
        return target

    return add


def _origin(target: Any) -> str:
    return f"{target.__module__}.{getattr(target, '__qualname__', target)}"


def when_asked(load: Callable[[], None]) -> None:
    """Have a function register more components as soon as somebody asks what there is."""
    _awaited.append(load)


@contextmanager
def all_or_none() -> Iterator[None]:
    """Forget what the block has registered when it raises."""
    before = dict(_entries), dict(_by_target)
    try:
        yield
    except BaseException:
        for kept, mapping in zip(before, (_entries, _by_target), strict=True):
            mapping.clear()
            mapping.update(kept)
        raise


def _complete() -> dict[tuple[str, str], Entry]:
    while _awaited:
        _awaited.pop(0)()
    return _entries


def entries(group: str | None = None) -> list[Entry]:
    """Everything registered, in one group or in all, sorted by group and name."""
    found = _complete()
    return [found[key] for key in sorted(found) if group in (None, key[0])]


def entry(group: str, name: str) -> Entry:
    """Look a component up.

    Raises:
        UserError: when there is no such component, with the nearest spellings.
    """
    found = _complete()
    if (group, name) in found:
        return found[group, name]
    names = [known.name for known in entries(group)]
    close = nearest(name, names)
    sub_verb = (VERB, group) in _entries
    prefix = "classifier-training " if group == VERB else f"classifier-training {group} " if sub_verb else f"{group}="
    help_of = "--help" if group == VERB else f"{group} --help" if sub_verb else "train --help all"
    raise UserError(
        f"{prefix}{name}: there is no {'sub-verb' if sub_verb else group.removesuffix('s')} of that name",
        f"one of {enumerate_words(names)}",
        f"{prefix}{close[0]}" if close else f"classifier-training {help_of} lists them",
    )


def entry_of(component: Any) -> Entry | None:
    """Return what a built component was registered as; None for anything else."""
    return _by_target.get(component.func if isinstance(component, functools.partial) else type(component))


def describe(component: Any) -> Any:
    """Turn a built component back into the plain configuration that makes it again."""
    if isinstance(component, Mapping):
        return {str(key): describe(value) for key, value in component.items()}
    known = entry_of(component)
    if known is None:
        return component
    if isinstance(component, functools.partial):
        settings = {name: component.keywords.get(name, option.default) for name, option in known.options.items()}
    else:
        settings = {name: getattr(component, name) for name in known.options}
    return {TYPE_KEY: known.name, **settings}


def changed_options(component: Any) -> list[Option]:
    """List the settings of a built component whose values are not the default."""
    known = entry_of(component)
    values = describe(component)
    return [] if known is None else [one for one in known.options.values() if values[one.name] != one.default]


def with_settings(component: Any, **values: Any) -> Any:
    """Return a built component with other values of its settings; those that it does not have are passed over."""
    known = entry_of(component)
    own = {} if known is None else {name: value for name, value in values.items() if name in known.options}
    if known is None or not own:
        return component
    settings = {name: value for name, value in describe(component).items() if name != TYPE_KEY}
    return known.build({**settings, **own})


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types of a union, without what stands beside them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        yield from _alternatives(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _alternatives(argument)
    else:
        yield annotation


def _walk(annotation: Any) -> Iterator[Any]:
    """Everything that an annotation is made of."""
    yield annotation
    for argument in (*typing.get_args(annotation), *getattr(annotation, "__metadata__", ())):
        yield from _walk(argument)


def _parameters(target: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(target).parameters.values())


def _awaits_arguments(target: Callable[..., Any]) -> bool:
    return any(parameter.kind is not parameter.KEYWORD_ONLY for parameter in _parameters(target))


def _read_options(target: Callable[..., Any]) -> list[Option]:
    settings = [parameter for parameter in _parameters(target) if parameter.kind is parameter.KEYWORD_ONLY]
    holders = inspect.getmro(target) if inspect.isclass(target) else (target,)
    hints: dict[str, Any] = {}
    helps: dict[str, str] = {}
    for holder in reversed(holders):
        # Positional parameters may be annotated with types that only a type checker imports, so only settings resolve.
        own = getattr(holder, "__annotations__", {})
        wanted = {p.name: own[p.name] for p in settings if p.name in own}
        scope = vars(inspect.getmodule(holder) or SimpleNamespace())
        hints |= typing.get_type_hints(SimpleNamespace(__annotations__=wanted), scope, include_extras=True)
        helps |= argument_help(holder.__doc__ or "")
    if inspect.isclass(target):
        init = target.__init__
        wanted = {p.name: p.annotation for p in settings if p.name not in hints}
        scope = getattr(init, "__globals__", {})
        hints |= typing.get_type_hints(SimpleNamespace(__annotations__=wanted), scope, include_extras=True)
    return [Option(p.name, hints[p.name], p.default, helps.get(p.name, "")) for p in settings]


def argument_help(docstring: str) -> dict[str, str]:
    """Read the `Args:` section of a Google-style docstring: parameter name to its sentence on one line."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(docstring), re.MULTILINE | re.DOTALL)
    if section is None:
        return {}
    found = re.findall(r"^    (\w+):\s*(.*?)(?=^    \w+:|\Z)", section[1], re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}
