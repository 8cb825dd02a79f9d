"""Follow a value through the code without running it, and print how far it goes.

The value starts as a parameter of a function, or as one of its fields. It is followed through calls, fields of other
objects, returned values and loops; with --derived, what its own methods and fields give is followed too. What a
function outside the package makes of it is not followed, save for copies such as list() and dataclasses.replace(). A
method of an unknown object is followed where one class alone has it. A function that holds an object with the value in
it carries the value; one that takes the value out, or is handed the value itself, uses it.

    python scripts/house/walk.py src classifier_training.workflows.training.train train settings.data
    python scripts/house/walk.py OTHER/src classifier_training.workflows.train train data
"""

from __future__ import annotations

import argparse
import ast
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

Paths: TypeAlias = frozenset[tuple[str, ...]]
"""Where in an object the value is: () for the object itself, ("a", "b") for its field a.b."""

NOWHERE: Paths = frozenset()
ITSELF: Paths = frozenset({()})
BUILT_IN = {name for kind in (str, list, dict, set, bytes, int) for name in dir(kind)}
COPIES = {"list", "tuple", "sorted", "set", "dict", "frozenset", "reversed", "enumerate", "zip", "iter", "next", "map"}
ENTERED = {"enter_context"}
MAX_DEPTH = 60


@dataclass(eq=False)
class Function:
    """A function or method, and the module that it stands in."""

    module: Module
    node: ast.FunctionDef | ast.Lambda
    name: str
    is_method: bool = False

    @property
    def parameters(self) -> list[str]:
        """Names of all parameters, in order."""
        arguments = self.node.args
        return [item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


@dataclass(eq=False)
class Class:
    """A class: its methods, and its annotated fields in order."""

    module: Module
    name: str
    methods: dict[str, Function] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Module:
    """A file: what it defines, and what its names stand for in other files."""

    name: str
    tree: ast.Module
    defined: dict[str, Function | Class] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)


class House:
    """All modules of a package."""

    def __init__(self, source: Path) -> None:
        self.modules: dict[str, Module] = {}
        for path in sorted(source.rglob("*.py")):
            name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
            self.modules[name] = self._read(Module(name, ast.parse(path.read_text(encoding="utf-8"))))
        self.methods: dict[str, list[Function]] = {}
        for module in self.modules.values():
            for item in module.defined.values():
                if isinstance(item, Class):
                    for name, method in item.methods.items():
                        self.methods.setdefault(name, []).append(method)

    def _read(self, module: Module) -> Module:
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef):
                module.defined[node.name] = Function(module, node, node.name)
            elif isinstance(node, ast.ClassDef):
                made = Class(module, node.name)
                for item in node.body:
                    if isinstance(item, ast.FunctionDef):
                        made.methods[item.name] = Function(module, item, f"{node.name}.{item.name}", is_method=True)
                    elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        made.fields.append(item.target.id)
                module.defined[node.name] = made
        for found in ast.walk(module.tree):
            if isinstance(found, ast.ImportFrom) and found.module:
                module.imported |= {alias.asname or alias.name: (found.module, alias.name) for alias in found.names}
            elif isinstance(found, ast.Import):
                module.imported |= {alias.asname or alias.name: (alias.name, None) for alias in found.names}
        return module

    def find(self, module: Module, name: str) -> Function | Class | None:
        """Return what a name stands for in a module, if the package defines it."""
        if name in module.defined:
            return module.defined[name]
        where, what = module.imported.get(name, ("", None))
        if what is None or where not in self.modules:
            return None
        return self.find(self.modules[where], what)

    def called(self, module: Module, function: ast.expr) -> Function | Class | None:
        """Return what a call calls: by name, by module.name, or by the name of a method that one class alone has."""
        if isinstance(function, ast.Name):
            return self.find(module, function.id)
        if not isinstance(function, ast.Attribute):
            return None
        if isinstance(function.value, ast.Name) and function.value.id in module.imported:
            where, what = module.imported[function.value.id]
            inside = self.modules.get(where if what is None else f"{where}.{what}")
            if inside is not None:
                return self.find(inside, function.attr)
            owner = self.find(module, function.value.id)
            return owner.methods.get(function.attr) if isinstance(owner, Class) else None
        found = [] if function.attr in BUILT_IN else self.methods.get(function.attr, [])
        return found[0] if len(found) == 1 else None


class Walk:
    """One value on its way.

    Attributes:
        entered: functions that were handed the value, or an object that holds it, in order.
        users: those of them that use it.
    """

    def __init__(self, house: House, *, derived: bool) -> None:
        self._house = house
        self.derived = derived
        self._known: dict[tuple[int, tuple[tuple[str, Paths], ...]], Paths] = {}
        self._depth = 0
        self.entered: list[Function] = []
        self.users: list[Function] = []

    def enter(self, function: Function, given: dict[str, Paths]) -> Paths:
        """Follow the value through a function; returns where it is in what the function returns."""
        given = {name: paths for name, paths in given.items() if paths}
        key = (id(function), tuple(sorted(given.items(), key=lambda item: item[0])))
        if not given or self._depth > MAX_DEPTH:
            return NOWHERE
        if key not in self._known:
            self._known[key] = NOWHERE
            self.entered.append(function)
            self._depth += 1
            scope = Scope(self._house, self, function, dict(given))
            if any(() in paths for paths in given.values()):
                self.users.append(function)
            body = function.node.body
            returned = scope.value(body) if isinstance(body, ast.expr) else scope.run(body)
            if function.is_method and function.name.endswith("__init__"):
                returned = scope.names.get("self", NOWHERE)
            self._known[key] = returned
            self._depth -= 1
        return self._known[key]


class Scope:
    """The names of a function, and where in each the value is."""

    def __init__(self, house: House, walk: Walk, function: Function, names: dict[str, Paths]) -> None:
        self._house, self._walk, self._function, self.names = house, walk, function, names
        self._inner: dict[str, Function] = {}
        self._returned: Paths = NOWHERE

    def run(self, body: list[ast.stmt]) -> Paths:
        """Go through statements in the order in which they stand, both sides of branches among them."""
        for node in body:
            self._statement(node)
        return self._returned

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef):
            self._inner[node.name] = Function(self._function.module, node, f"{self._function.name}.{node.name}")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            paths = self.value(node.value) if node.value else NOWHERE
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for one, value in zip(target.elts, node.value.elts, strict=False):
                        self._bind(one, self.value(value))
                else:
                    self._bind(target, paths)
        elif isinstance(node, ast.AugAssign):
            self._bind(node.target, self.value(node.target) | self.value(node.value))
        elif isinstance(node, ast.Return):
            self._returned |= self.value(node.value) if node.value else NOWHERE
        elif isinstance(node, ast.For):
            self._bind(node.target, self.value(node.iter))
            self.run([*node.body, *node.orelse])
        elif isinstance(node, ast.With):
            for item in node.items:
                paths = self.value(item.context_expr)
                if item.optional_vars:
                    self._bind(item.optional_vars, paths)
            self.run(node.body)
        elif isinstance(node, ast.Expr):
            value = node.value
            if isinstance(value, (ast.Yield, ast.YieldFrom)):
                self._returned |= self.value(value.value) if value.value else NOWHERE
            else:
                self.value(value)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt):
                    self._statement(child)
                elif isinstance(child, ast.expr):
                    self.value(child)
                elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
                    self.run(child.body)

    def _bind(self, target: ast.expr, paths: Paths) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = paths
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
            own = self.names.get(target.value.id, NOWHERE)
            self.names[target.value.id] = own | {(target.attr, *path) for path in paths}
        elif isinstance(target, (ast.Tuple, ast.List)):
            for item in target.elts:
                self._bind(item, paths)

    def value(self, node: ast.expr | None) -> Paths:
        """Return where the value is in what an expression gives, after following its calls."""
        if node is None or isinstance(node, ast.Constant):
            return NOWHERE
        if isinstance(node, ast.Name):
            return self.names.get(node.id, NOWHERE)
        if isinstance(node, ast.Attribute):
            return self._field(self.value(node.value), node.attr)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.NamedExpr):
            paths = self.value(node.value)
            self._bind(node.target, paths)
            return paths
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            for generator in node.generators:
                self._bind(generator.target, self.value(generator.iter))
                for condition in generator.ifs:
                    self.value(condition)
            if isinstance(node, ast.DictComp):
                return self.value(node.key) | self.value(node.value)
            return self.value(node.elt)
        if isinstance(node, ast.Lambda):
            return NOWHERE
        found: Paths = NOWHERE
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                found |= self.value(child)
        is_whole = isinstance(node, (ast.Tuple, ast.List, ast.Dict, ast.BoolOp, ast.IfExp, ast.Subscript, ast.Starred))
        return found if is_whole else NOWHERE

    def _field(self, paths: Paths, name: str) -> Paths:
        found = frozenset(path[1:] for path in paths if path and path[0] == name)
        if () in found:
            self._walk.users.append(self._function)
        return found | ITSELF if () in paths and self._walk.derived else found

    def _call(self, node: ast.Call) -> Paths:
        receiver = self.value(node.func.value) if isinstance(node.func, ast.Attribute) else NOWHERE
        positional = [self.value(item) for item in node.args]
        named = {item.arg: self.value(item.value) for item in node.keywords if item.arg}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "replace" and positional:
            kept = frozenset(path for path in positional[0] if not path or path[0] not in named)
            return kept | {(key, *path) for key, paths in named.items() for path in paths}
        if name in COPIES | ENTERED:
            return frozenset().union(*positional)
        if name == "partial" and positional:
            node = ast.Call(node.args[0], node.args[1:], node.keywords)
            positional = positional[1:]
        target = self._inner.get(name) or self._house.called(self._function.module, node.func)
        if isinstance(target, Class):
            return self._make(target, positional, named)
        if target is None:
            is_own = () in receiver and isinstance(node.func, ast.Attribute)
            return ITSELF if is_own and self._walk.derived else NOWHERE
        parameters = target.parameters
        given = dict(zip(parameters[1:] if target.is_method else parameters, positional, strict=False))
        if target.is_method and parameters:
            given[parameters[0]] = receiver
        if target.name.startswith(f"{self._function.name}."):
            # A function inside this one sees its names.
            given = {**self.names, **given}
        return self._walk.enter(target, {**given, **named})

    def _make(self, made: Class, positional: list[Paths], named: dict[str, Paths]) -> Paths:
        if "__init__" in made.methods:
            method = made.methods["__init__"]
            given = dict(zip(method.parameters[1:], positional, strict=False))
            return self._walk.enter(method, {**given, **named})
        given = {**dict(zip(made.fields, positional, strict=False)), **named}
        return frozenset((key, *path) for key, paths in given.items() for path in paths)


def follow(house: House, module: str, function: str, value: str, *, derived: bool) -> Walk:
    """Follow a value from a function on; `value` is a parameter, or a field of one."""
    start = house.modules[module].defined[function]
    assert isinstance(start, Function)
    parameter, *fields = value.split(".")
    walk = Walk(house, derived=derived)
    walk.enter(start, {parameter: frozenset({tuple(fields)})})
    return walk


def times_back(entered: list[Function]) -> int:
    """Count how often the value comes back to a file that it had left."""
    seen: set[str] = set()
    number, here = 0, ""
    for function in entered:
        name = function.module.name
        number += name != here and name in seen
        seen.add(name)
        here = name
    return number


def path_to_step(house: House, module: str, function: str) -> list[Function]:
    """Return the shortest chain of calls from a function to `training_step`, which Lightning's `fit` calls."""
    start = house.modules[module].defined[function]
    assert isinstance(start, Function)
    (step,) = house.methods["training_step"]
    before: dict[int, Function | None] = {id(start): None}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        if here is step:
            chain: list[Function] = []
            at: Function | None = here
            while at is not None:
                chain.append(at)
                at = before[id(at)]
            return chain[::-1]
        for node in ast.walk(here.node):
            if not isinstance(node, ast.Call):
                continue
            is_fit = (
                isinstance(node.func, ast.Attribute)
                and node.func.attr == "fit"
                and "datamodule" in [item.arg for item in node.keywords]
            )
            target = step if is_fit else house.called(here.module, node.func)
            if isinstance(target, Class):
                target = target.methods.get("__init__")
            if target is not None and id(target) not in before:
                before[id(target)] = here
                queue.append(target)
    return []


def main() -> None:
    """Print both walks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("module")
    parser.add_argument("function")
    parser.add_argument("value", help="a parameter, or a field of one: settings.data")
    parser.add_argument("--derived", action="store_true", help="follow what its methods and fields give, too")
    options = parser.parse_args()
    house = House(options.source)
    walk = follow(house, options.module, options.function, options.value, derived=options.derived)
    users = {(item.module.name, item.name) for item in walk.users}
    distinct = list(dict.fromkeys((item.module.name, item.name) for item in walk.entered))
    for module, name in distinct:
        print(f"{module.partition('.')[2]:<45} {name}{'  (uses it)' if (module, name) in users else ''}")
    used = [item for item in walk.entered if (item.module.name, item.name) in users]
    print(f"{options.value}: carried through {len(distinct)} functions, used by {len(users)} of them")
    print(f"of {len({module for module, _ in users})} files; back in a file that it had left {times_back(used)} times")
    chain = path_to_step(house, options.module, options.function)
    print(f"to training_step: {len({item.module.name for item in chain})} files: " + " -> ".join(i.name for i in chain))


if __name__ == "__main__":
    main()
