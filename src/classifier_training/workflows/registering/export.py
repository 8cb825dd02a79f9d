"""`registry export`: a run in all formats that this machine can write."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import Word, entries, register
from classifier_training.export.job import Quantization
from classifier_training.registry.runs import DEFAULT_OUTPUT, find_run
from classifier_training.workflows.serving.export import export

log = logging.getLogger(__name__)

SCHEMES: tuple[Quantization, ...] = ("fp16", "int8")


@dataclass(frozen=True)
class ExportAllResult:
    """What was written.

    Args:
        folder: where to.
        lines: a sentence on each file.
        failed: why a format was not written, by its name.
    """

    folder: Path
    lines: tuple[str, ...]
    failed: dict[str, str]

    @property
    def exit_code(self) -> int:
        """0, or 3 when a format could not be written."""
        return 3 if self.failed else 0

    def __str__(self) -> str:
        failed = [f"not written: {name}: {reason}" for name, reason in self.failed.items()]
        return "\n".join([*self.lines, *failed, f"written to {self.folder}"])


@register(group="registry", name="export")
def export_all(
    *,
    run: Annotated[str, Word()] = "latest",
    output: str = DEFAULT_OUTPUT,
    folder: str | None = None,
    images: str | None = None,
    max_drop: Annotated[float, Field(ge=0, le=100)] = 1.0,
) -> ExportAllResult:
    """Export a run in every format, and quantised, each compared with PyTorch; what fails is named, the rest goes on.

    Args:
        run: run folder, latest, best, NAME, NAME:v2 or an alias.
        output: folder of all runs.
        folder: folder for the files; the run's own when left out.
        images: folder of the run's images, if they have moved since.
        max_drop: most points of top-1 accuracy on validation that quantisation may cost.
    """
    run_dir = find_run(run, output=output)
    lines: list[str] = []
    failed: dict[str, str] = {}
    formats = {item.name: item.target() for item in entries("format")}

    def write(name: str, written: str, scheme: Quantization) -> None:
        try:
            result = export(
                run=str(run_dir.path),
                format={written: formats[written]},
                quantization=scheme,
                max_drop=1.0 if scheme == "none" else max_drop,
                images=images,
                output=folder,
            )
        except UserError as error:
            failed[name] = error.came
        except Exception as error:  # converters fail with whatever exception lies next
            failed[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            log.debug("%s failed", name, exc_info=True)
        else:
            lines.extend(line for line in result.lines if scheme == "none" or scheme in line.partition(":")[0])
            return
        log.warning("%s: %s", name, failed[name])

    # ONNX before its quantised copies, which are made of it.
    for name in sorted(formats, key=lambda name: name != "onnx"):
        write(name, name, "none")
    for scheme in SCHEMES if "onnx" not in failed else ():
        write(scheme, "onnx", scheme)
    if not lines:
        raise UserError(
            f"{run_dir.path}: no format could be written; the first reason: {next(iter(failed.values()))}",
            "a finished run and its images",
            "images=FOLDER if they have moved since",
        )
    return ExportAllResult(Path(folder).expanduser() if folder else run_dir.path, tuple(lines), failed)
