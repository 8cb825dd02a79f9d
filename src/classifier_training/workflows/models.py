"""`models`: what `model=` accepts, and what training each of them takes."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from classifier_training.conf.recipes import MODEL, SAMPLE_MODEL
from classifier_training.core.display import align
from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import Entry, Word, entries, entry, register
from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import TypedPath
from classifier_training.models.bundled import package_of
from classifier_training.models.cost import Cost, measure
from classifier_training.models.weights import without_weights

LIBRARIES = ("torchvision", "timm")
"""Models that stand for all networks of a library; they list theirs by name."""


Found = tuple[str, Entry, dict[str, Any]]
"""Words to type after model=, the registered model, and the settings that it needs."""


@dataclass(frozen=True)
class ModelRow:
    """One thing that `model=` accepts.

    Args:
        model: the words to type.
        summary: what it is.
        parameters: weights and biases; None where it depends on a setting that must be given.
        gflops: of one forward pass of one image, a multiply and an add counted as two.
        image_size: side of the input in pixels.
        pretrained: whether there are trained weights.
        weights: where they come from: package (installed with this one, or by the extra), fetched, or none.
        training_mb: memory for training on a batch, in MiB.
        extra: the optional extra that must be installed.
        note: why there are no figures.
    """

    model: str
    summary: str
    parameters: int | None
    gflops: float | None
    image_size: int | None
    pretrained: bool
    weights: Literal["package", "fetched", "none"]
    training_mb: float | None
    extra: str | None
    note: str | None


@dataclass(frozen=True)
class ModelsResult:
    """A table of models.

    Args:
        rows: those shown.
        num_more: matching ones that are not.
        batch_size: images of the batch that memory is for.
        num_classes: outputs of the networks.
        written: the file that they were written to.
    """

    rows: tuple[ModelRow, ...]
    num_more: int
    batch_size: int
    num_classes: int
    written: Path | None = None

    def __str__(self) -> str:
        header = ("model=", "parameters", "GFLOPs", "input", "weights", "training", "extra")
        lines = align(header, [_cells(row) for row in self.rows], right=frozenset(header[1:-1]))
        lines += [f"{row.model}: {row.note}" for row in self.rows if row.note]
        if self.num_more:
            lines.append(f"and {self.num_more:,} more: limit={len(self.rows) + self.num_more} shows all")
        basis = (
            f"For {self.num_classes} classes. GFLOPs: one image, forward, a multiply and an add counted as two. "
            f"training: estimated memory in float32 at batch_size={self.batch_size}: weights, gradients, AdamW's two "
            "averages, and what the forward pass keeps for the backward pass; libraries and kernels need more, mixed "
            "precision less.\n"
            f"weights: trained ones, from which training starts unless model.pretrained=false; those of a package come "
            f"with this one or by its extra, others are fetched once. auto, the default, is {MODEL} for images of your "
            f"own and {SAMPLE_MODEL} for the built-in sample."
        )
        lines += ["", basis]
        if self.written:
            lines.append(f"written to {self.written}")
        return "\n".join(lines)


@register(
    group="verb",
    name="models",
    examples=(
        "models",
        "models 'vgg*'",
    ),
)
def models(
    *,
    pattern: Annotated[str | None, Word()] = None,
    batch_size: Annotated[int, Field(ge=1)] = 32,
    num_classes: Annotated[int, Field(ge=2)] = 10,
    image_size: Annotated[int, Field(ge=1)] | None = None,
    limit: Annotated[int, Field(ge=1)] = 20,
    output: TypedPath | None = None,
) -> ModelsResult:
    """List what model= accepts, with size, cost, input and the memory that training takes: models 'vgg*'.

    Args:
        pattern: only names that contain this or match it, as in 'vgg*'; timm's and torchvision's own names too.
        batch_size: images that memory is estimated for.
        num_classes: outputs of the networks.
        image_size: side of the images in pixels; each network's own unless given. train takes less for small images.
        limit: most rows for a pattern.
        output: also write the rows to this file, .json or .csv.

    Raises:
        UserError: when nothing has such a name, with the nearest.
    """
    target = _output_path(output)
    found: list[Found] = [(known.name, known, {}) for known in entries("model")]
    if pattern is not None:
        found = _matching(pattern)
    shown = found if pattern is None else found[:limit]
    builders: dict[str, Callable[[int], Any]] = {
        words: without_weights(known.build({**_defaults(known), **settings}))
        for words, known, settings in shown
        if settings or not _needs_name(known)
    }
    foreign = {words for words, known, _ in shown if not known.is_built_in}
    costs = measure(builders, num_classes=num_classes, image_size=image_size, foreign=foreign)
    rows = tuple(_row(words, known, settings, costs.get(words), batch_size) for words, known, settings in shown)
    if target is not None:
        _write(target, rows)
    return ModelsResult(rows, len(found) - len(shown), batch_size, num_classes, target)


def _matching(pattern: str) -> list[Found]:
    """List registered models and networks of the libraries whose name matches.

    Raises:
        UserError: when there are none.
    """
    own = [known.name for known in entries("model")]
    listed = {library: _library_names(library, tags="." in pattern) for library in LIBRARIES}
    found: list[Found] = [(name, entry("model", name), {}) for name in own if _matches(name, pattern)]
    for library, names in listed.items():
        known = entry("model", library)
        found += [
            (f"{library} {setting('model.name', name)}", known, {"name": name})
            for name in names
            if _matches(name, pattern)
        ]
    if not found:
        takers = [verb.command for verb in entries("verb") if pattern in verb.options and verb.options[pattern].choice]
        if takers:
            raise UserError(
                f"{pattern}: no model has a name like that; {pattern}= is a setting of its own",
                f"{pattern}= takes {enumerate_words((known.name for known in entries(pattern)), limit=20)}",
                f"{command('train' if 'train' in takers else takers[0])} --help all   says what each of them is",
            )
        close = nearest(pattern, [*own, *(name for names in listed.values() for name in names)])
        raise UserError(
            f"{pattern}: no model has a name like that",
            f"one such as {', '.join(close)}" if close else "a part of a name, or a pattern such as 'vgg*'",
            f"{command('models')} {close[0]}" if close else f"{command('models')}   lists those with a name here",
        )
    return found


def _matches(name: str, pattern: str) -> bool:
    if any(mark in pattern for mark in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


@functools.cache
def _library_names(library: str, *, tags: bool) -> list[str]:
    if library == "torchvision":
        from classifier_training.models.torchvision_models import torchvision_names

        return torchvision_names()
    from classifier_training.models.timm_models import timm_names

    return timm_names(tags=tags)


def _needs_name(known: Entry) -> bool:
    return any(option.required for option in known.options.values())


def _defaults(known: Entry) -> dict[str, Any]:
    return {name: option.default for name, option in known.options.items() if not option.required}


def _row(words: str, known: Entry, settings: dict[str, Any], found: Cost | str | None, batch_size: int) -> ModelRow:
    measured = found if isinstance(found, Cost) else None
    return ModelRow(
        model=words if settings or not _needs_name(known) else f"{known.name} model.name=…",
        summary=known.summary,
        parameters=measured.num_parameters if measured else None,
        gflops=round(measured.num_flops / 1e9, 3) if measured else None,
        image_size=measured.image_size if measured else None,
        pretrained=(weights := _where_weights_are(known, settings)) != "none",
        weights=weights,
        training_mb=round(measured.training_mb(batch_size), 1) if measured else None,
        extra=known.extra or (package.extra if (package := package_of(known.name)) else None),
        note=found if isinstance(found, str) else None,
    )


def _where_weights_are(known: Entry, settings: dict[str, Any]) -> Literal["package", "fetched", "none"]:
    name = settings.get("name", known.name)
    if known.name in (name, "timm") and package_of(name):
        return "package"
    if settings and known.name == "timm":
        from classifier_training.models.timm_models import has_weights

        return "fetched" if has_weights(name) else "none"
    return "fetched" if "pretrained" in known.options else "none"


def _cells(row: ModelRow) -> tuple[str, ...]:
    return (
        row.model,
        "-" if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
        "-" if row.gflops is None else f"{row.gflops:.2f}",
        "-" if row.image_size is None else f"{row.image_size} px",
        row.weights,
        "-" if row.training_mb is None else f"{row.training_mb / 1024:.1f} GiB",
        row.extra or "",
    )


def _output_path(output: str | None) -> Path | None:
    path = None if output is None else Path(output).expanduser()
    if path is not None and path.suffix not in (".json", ".csv"):
        raise UserError(
            f"output={output}: what form is that?", "a file that ends in .json or .csv", "output=models.csv"
        )
    return path


def _write(path: Path, rows: tuple[ModelRow, ...]) -> None:
    table = [dataclasses.asdict(row) for row in rows]
    if path.suffix == ".json":
        write_json(path, table)
    else:
        write_csv(path, list(table[0]), [list(line.values()) for line in table])
