"""Count the package's files, and draw its floors as import-linter holds them.

A box is a folder or file of the package, on the floor that pyproject.toml gives it; its width goes with its lines, and
the parts of a folder stand inside.

    python scripts/house/picture.py docs/house.png
    python scripts/house/picture.py --source OTHER/src
"""

from __future__ import annotations

import argparse
import ast
import itertools
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

mpl.use("Agg")

ROOT = Path(__file__).parents[2]
PACKAGE = "classifier_training"
SHORT = 110
"""Lines of a file that is worth a look whether it should stand alone."""

COLOURS = ("#f3e3c3", "#d9e6f2", "#dfeedd", "#f5e0ea", "#f2d9dd", "#e6dff0", "#d8eeee", "#eeeeda")


@dataclass
class File:
    """A module of the package.

    Attributes:
        path: below the package.
        lines: of it.
        imports: lines that import something.
        is_registered: whether it defines a component or verb.
        importers: modules that import it.
    """

    path: Path
    lines: int
    imports: int
    is_registered: bool
    importers: set[str] = field(default_factory=set)


def read_files(source: Path) -> dict[str, File]:
    """Read all modules of the package below a folder, by dotted name."""
    found: dict[str, File] = {}
    trees: dict[str, ast.Module] = {}
    for path in sorted((source / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        trees[name] = ast.parse(text)
        nodes = [node for node in ast.walk(trees[name]) if isinstance(node, (ast.Import, ast.ImportFrom))]
        imports = sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes)
        found[name] = File(path.relative_to(source / PACKAGE), len(text.splitlines()), imports, "@register" in text)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            targets: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            for target in targets:
                if target in found and target != name:
                    found[target].importers.add(name)
    return found


def count_words(files: dict[str, File]) -> str:
    """Say how many files and lines there are, and how they are cut."""
    lines, imports = sum(file.lines for file in files.values()), sum(file.imports for file in files.values())
    scraps = [
        name
        for name, file in files.items()
        if file.path.name != "__init__.py"
        and file.lines <= SHORT
        and len(file.importers) == 1
        and not file.is_registered
    ]
    return (
        f"{len(files)} files, {lines:,} lines, {imports / lines:.1%} of them imports; "
        f"{len(scraps)} files of at most {SHORT} lines have one importer and register nothing"
    )


def floors() -> list[list[str]]:
    """Return the names on each floor, the highest first, as import-linter's contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(
        contract["layers"] for contract in settings["tool"]["importlinter"]["contracts"] if contract["type"] == "layers"
    )
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def parts_of(files: dict[str, File], name: str) -> dict[str, int]:
    """Return the lines of each part of a folder, or of a file that stands alone."""
    found: dict[str, int] = {}
    for file in files.values():
        first, *rest = file.path.with_suffix("").parts
        if first == name and file.path.name != "__init__.py":
            part = "" if not rest else f"{rest[0]}/" if len(rest) > 1 else rest[0]
            found[part] = found.get(part, 0) + file.lines
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def draw(files: dict[str, File], path: Path) -> None:
    """Draw the floors."""
    rows = floors()
    figure, axes = plt.subplots(figsize=(12, 1.12 * len(rows) + 0.3), layout="constrained")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, len(rows))
    axes.axis("off")
    for place, (row, colour) in enumerate(zip(rows, itertools.cycle(COLOURS), strict=False)):
        parts = {name: parts_of(files, name) for name in row}
        # A small folder still needs room for its name.
        sizes = {name: max(sum(found.values()), 6000) for name, found in parts.items()}
        x, scale = 3.0, 96.0 / sum(sizes.values())
        bottom = len(rows) - 1 - place + 0.06
        axes.text(1.2, bottom + 0.44, str(len(rows) - place), ha="center", va="center", fontsize=13, color="#777777")
        for name, found in parts.items():
            width = sizes[name] * scale
            box = FancyBboxPatch(
                (x, bottom), width - 0.6, 0.88, boxstyle="round,pad=0,rounding_size=0.3", facecolor=colour,
                edgecolor="#777777", mutation_aspect=0.2,
            )  # fmt: skip
            axes.add_patch(box)
            axes.text(x + 0.6, bottom + 0.74, name, fontsize=11, fontweight="bold", va="center")
            number = f"{sum(found.values()):,} lines"
            axes.text(x + width - 1.2, bottom + 0.74, number, fontsize=7, va="center", ha="right", color="#555555")
            axes.text(x + 0.6, bottom + 0.6, _wrapped(found, width), fontsize=7.5, va="top", linespacing=1.15)
            x += width
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _wrapped(parts: dict[str, int], width: float) -> str:
    """Name the parts, the largest first, in as many lines as fit."""
    columns, lines = int(width * 1.55), [""]
    names = list(parts)
    for number, name in enumerate(names):
        separator = ", " if lines[-1] else ""
        if len(lines[-1]) + len(separator) + len(name) > columns - (12 if len(lines) == 5 else 0):
            if len(lines) == 5:
                lines[-1] += f" … {len(names) - number} more"
                break
            lines[-1] += ","
            lines.append(name)
        else:
            lines[-1] += separator + name
    return "\n".join(lines)


def main() -> None:
    """Print the counts, and draw the picture where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT / "src")
    parser.add_argument("output", type=Path, nargs="?")
    options = parser.parse_args()
    files = read_files(options.source)
    print(count_words(files))
    if options.output:
        draw(files, options.output)


if __name__ == "__main__":
    main()
