"""`prepare`: reads, splits and decodes a data set before training, or writes it as a Lance set."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from classifier_training.conf.recipes import starts_trained
from classifier_training.core.display import progress
from classifier_training.core.errors import UserError, plural
from classifier_training.core.files import size_bytes
from classifier_training.core.register import Choice, Word, changed_options, describe, entry, register
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import TypedPath
from classifier_training.core.storage.lance_rows import SetPlace, set_place, storage_options
from classifier_training.core.storage.places import is_local
from classifier_training.core.types import InputSpec
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.data.corrections import LabelCorrection, append_corrections, beside_set
from classifier_training.data.formats.lance_write import WrittenSet, write_set
from classifier_training.data.formats.source import DataSource
from classifier_training.data.load import LoadedData, given_corrections, load_data
from classifier_training.data.splitting.groups import assign_groups
from classifier_training.data.splitting.manifest import write_manifest
from classifier_training.data.store.plan import StorePlan
from classifier_training.data.store.shards import Built, build_store
from classifier_training.training.settings import ModelBuilder
from classifier_training.workflows.training.network import suit_images

log = logging.getLogger(__name__)

LONG = 100
"""Epochs of a run to prepare for: enough for transforms.start_scale to have an effect."""


@dataclass(frozen=True)
class PrepareResult:
    """Result of `prepare`.

    Args:
        built: result of each store.
        folders: of the pixels.
        num_bytes: of all stores.
        seconds: of the whole command.
        manifest: splits.csv.
    """

    built: tuple[Built, ...]
    folders: tuple[Path, ...]
    num_bytes: int
    seconds: float
    manifest: Path

    @property
    def exit_code(self) -> int:
        """0, or 3 if files were left out."""
        return 3 if any(one.unreadable for one in self.built) else 0

    def __str__(self) -> str:
        made, files = sum(one.num_made for one in self.built), sum(one.num_files for one in self.built)
        errors = sum(len(one.unreadable) for one in self.built)
        lines = [
            f"{files:,} images: {made:,} decoded now, {files - made - errors:,} stored before, {errors:,} unreadable",
            f"{self.num_bytes / 1e9:.3f} GB in {self.seconds:.1f} s",
            *(f"pixels: {folder}" for folder in self.folders),
            f"splits: {self.manifest}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class SetResult:
    """Result of `prepare` with a Lance set as its output.

    Args:
        written: what the set holds.
        unlabelled: images of it without a label.
        seconds: of the whole command.
        corrections: file of the set's corrections, if it has one.
    """

    written: WrittenSet
    num_unlabelled: int
    seconds: float
    corrections: str | None

    @property
    def exit_code(self) -> int:
        """0, or 3 if files were left out."""
        return 3 if self.written.unreadable else 0

    def __str__(self) -> str:
        written = self.written
        kept = written.num_rows - written.num_new
        done = [f"{plural(written.num_new, 'image')} written" if written.num_new else "nothing to write"]
        done += [f"{kept:,} there before"] if kept else []
        done += [f"{written.num_removed:,} removed, which earlier versions keep"] if written.num_removed else []
        done += [f"{len(written.unreadable):,} unreadable"] if written.unreadable else []
        rows = plural(written.num_rows, "image")
        lines = [
            f"{written.root}: version {written.version} with {rows}"
            + (f", {self.num_unlabelled:,} of them without a label" if self.num_unlabelled else ""),
            f"{', '.join(done)}; {written.num_bytes / 1e9:.3f} GB in {self.seconds:.1f} s",
        ]
        lines += [f"corrections: {self.corrections}"] if self.corrections else []
        root, version = setting("data.root", written.root), setting("data.version", written.version)
        return "\n".join([*lines, f"next: {command('train')} {root} {version}"])


@register(
    group="verb",
    name="prepare",
    examples=(
        "prepare /my/images",
        "prepare /my/images --verify",
        "prepare /my/images output=s3://bucket/set.lance",
    ),
)
def prepare(
    *,
    data: Annotated[DataSource, Choice("auto"), Word("root")],
    transforms: Annotated[Transforms, Choice("standard")],
    model: Annotated[ModelBuilder, Choice("resnet18")],
    verify: bool = False,
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0,
    output: TypedPath | None = None,
) -> PrepareResult | SetResult:
    """Read, split and decode a data set, so that the first epoch already trains from memory-mapped pixels.

    With an output that ends in .lance, write it there as a Lance set instead: the bytes of the images as they are, with
    labels, splits and groups, for training from a disk or an object store. The same command adds a version with the
    images that are new.

    The pixels belong to an image size and to the transforms; train with the same. Without data.image_size it is what
    train chooses for the same data, model, weights and transforms. What is there already is kept: only new and changed
    files are decoded, and labels play no part.

    Args:
        verify: compare the content of files whose size and time are unchanged, too.
        seed: of the random split.
        output: file for the splits, beside the pixels when left out; or a Lance set, which may be a URL of S3, Google
            Cloud Storage or Azure.
    """
    started = time.perf_counter()
    place = None if output is None else set_place(output)
    if place is not None:
        _refuse_idle(data, transforms, model, verify=verify, seed=seed)
        return _write_set(place, data, started)
    if data.store == "off":
        raise UserError(
            "data.store=off has no effect on prepare", "a store to prepare", "leave it out, or data.store=jpeg"
        )
    loaded = load_data(data, seed=seed)
    log.info("%s", loaded.words)
    size = data.named_size or _suited_size(model, loaded, data=data, transforms=transforms)
    # What the network subtracts and divides by comes later, on its device.
    neutral = InputSpec(size=size, mean=(0, 0, 0), std=(1, 1, 1))
    plan = StorePlan(
        loaded.splits,
        preprocessing=transforms.evaluation(size, neutral),
        crop_scale=transforms.crop_scale,
        store=data.store,
        store_gb=data.store_gb,
    )
    try:
        plan.open(wait=True)
        built = _build(plan, verify=verify, skips=data.on_error == "skip")
        folders = tuple(store.folder for store in plan.folders.values())
    finally:
        plan.close()
    if not folders:
        raise UserError(
            "not enough disk space for the pixels",
            "free disk space, or a larger data.store_gb",
            setting("data.store_gb", 50),
        )
    manifest = Path(output).expanduser() if output else folders[0] / "splits.csv"
    write_manifest(manifest, loaded.index)
    log.info("next: %s with the same data, transforms and image size", command("train"))
    return PrepareResult(built, folders, sum(map(size_bytes, folders)), time.perf_counter() - started, manifest)


def _refuse_idle(data: DataSource, transforms: Transforms, model: ModelBuilder, *, verify: bool, seed: int) -> None:
    """Refuse settings of pixels and splits, which a Lance set has not."""
    changed = [
        f"data.{option.name}"
        for option in changed_options(data)
        if not option.acts_in("prepare") or option.name in ("image_size", "store", "store_gb", "splits", "num_folds")
    ]
    changed += [f"transforms.{option.name}" for option in changed_options(transforms)]
    changed += ["model"] * (describe(model) != describe(entry("model", "resnet18").build({})))
    changed += ["verify"] * verify + ["seed"] * bool(seed)
    if changed:
        raise UserError(
            f"{changed[0]} has no effect on a Lance set, which has the images as they are",
            "settings that name the data, and output=",
            f"leave {changed[0]} out; {command('train')} takes it",
        )


def _write_set(place: SetPlace, data: DataSource, started: float) -> SetResult:
    root = place.root if "://" in place.root else str(Path(place.root).expanduser().absolute())
    if place.path or place.version is not None:
        raise UserError(f"output={place.name}/{place.path}", "a name that ends in .lance", f"output={place.root}")
    index = assign_groups(data.pinned().read(), data.group)
    number = len(index.samples) + len(index.unlabelled)
    with progress("writing images", total=lambda: number) as advance:
        written = write_set(root, index, on_error=data.on_error, advance=advance)
    for error in written.unreadable:
        log.warning("skipped %s: %s", error.path, error.reason)
    lines = given_corrections(data, index)
    file = copy_corrections(root, lines) if lines else beside_set(root)
    corrections = str(file) if lines or file.is_file() else None
    return SetResult(written, len(index.unlabelled), time.perf_counter() - started, corrections)


def _suited_size(model: ModelBuilder, loaded: LoadedData, *, data: DataSource, transforms: Transforms) -> int:
    """Return the side that train chooses for these images; no weights are read or fetched."""
    from classifier_training.models.meta import on_meta
    from classifier_training.models.weights import without_weights

    built = on_meta(lambda: without_weights(model)(loaded.splits.num_classes))
    is_trained = starts_trained({"model": describe(model)})
    chosen = suit_images(data, transforms, built, loaded.training_sizes, max_epochs=LONG, is_trained=is_trained)
    log.info("image size: %s", chosen)
    return chosen.side


def _build(plan: StorePlan, *, verify: bool, skips: bool) -> tuple[Built, ...]:
    found = []
    for pixel_format, store in plan.folders.items():
        paths = plan.paths(pixel_format)
        with progress("decoding", total=paths.__len__) as advance:
            built = build_store(store, paths, verify=verify, advance=advance)
        for error in built.unreadable:
            if not skips:
                raise error
            log.warning("skipped %s: %s", error.path, error.reason)
        found.append(built)
    return tuple(found)


def copy_corrections(root: str, lines: Sequence[LabelCorrection]) -> Path:
    """Write the corrections of the data beside its set, unless there are some already; returns their file."""
    file = beside_set(root)
    if file.is_file():
        return file
    if is_local(file):
        append_corrections(file, lines)
        return file
    from lance.file import LanceFileSession

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / file.name
        append_corrections(written, lines)
        session = LanceFileSession(root.rpartition("/")[0], storage_options=storage_options(root))
        session.upload_file(written, file.name)
    return file
