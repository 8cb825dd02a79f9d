"""What an analysis finds, each with its severity, meaning and remedy; and the findings about single files."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from classifier_training.core.errors import plural
from classifier_training.data.accounting import KINDS
from classifier_training.data.image_settings import dark_colours, dark_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.data.checking.scan import FileScan
    from classifier_training.data.index import SampleIndex

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From what makes results wrong to mere information."""

MAX_EXAMPLES = 12
"""Most examples of a finding that are kept for the page; `count` is the number of all."""

SHOWN_OF_GROUP = 8


@dataclass(frozen=True)
class ShownImage:
    """One file of an example.

    Args:
        path: relative to the data root.
        caption: such as its split and label.
    """

    path: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about the data.

    Args:
        code: a name for programs, such as exact_copies_across_splits.
        severity: error makes scores wrong or training fail, warning costs accuracy, note is information.
        title: one line.
        words: what it means.
        remedy: what to do.
        count: how many (files, groups, classes), for the order among equals.
        examples: groups of images that are shown together.
        rows: details without images, as columns of text.
    """

    code: str
    severity: Severity
    title: str
    words: str
    remedy: str
    count: int
    examples: tuple[tuple[ShownImage, ...], ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Inspected:
    """A data set and the scan of its files, as the checks see it.

    Args:
        index: the samples.
        scan: their files.
    """

    index: SampleIndex
    scan: FileScan

    def labels(self) -> dict[str, set[str]]:
        """The labels of each path."""
        return _collect(self.index.paths, self.index.labels)

    def splits(self) -> dict[str, set[str]]:
        """The splits of each path; none where the data is not split."""
        return _collect(self.index.paths, self.index.splits)


def _collect(paths: Iterable[str], values: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path, value in zip(paths, values, strict=True):
        found.setdefault(path, set()).add(value)
    return found


def rank(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by severity, then by the order of the checks."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


REPORTED_CROP = 0.05
"""Mean share of cropped pixels from which it is reported."""

TINY_SIDE = 8
EXTREME_ASPECT = 4.0


def check_files(data: Inspected, preprocessing: Preprocessing) -> Iterator[Finding]:
    """Yield the findings about single files."""
    unreadable, readable = data.scan.unreadable, data.scan.readable
    if unreadable:
        reasons = Counter(fact.error for fact in unreadable).most_common(3)
        yield Finding(
            code="unreadable_files",
            severity="error",
            title=f"{plural(len(unreadable), 'file')} cannot be read",
            words="Training would stop at the first one. Most common reasons: "
            + "; ".join(f"{reason} ({number:,})" for reason, number in reasons)
            + ".",
            remedy="repair or remove the files in quarantine.csv, or train without them: data.on_error=skip",
            count=len(unreadable),
            rows=tuple((fact.path, fact.error) for fact in unreadable),
        )
    yield from _not_read(data)
    yield from _dark(data)
    for code, title, words, remedy, chosen in (
        (
            "animated", "more than one frame",
            "Only the first frame or page of such a file is used.",
            "save the intended frame as a separate image",
            [fact for fact in readable if fact.num_frames > 1],
        ),
        (
            "tiny_pictures", f"a side below {TINY_SIDE} pixels",
            "Such images show almost nothing.", "check whether they belong to the data",
            [fact for fact in readable if min(fact.width, fact.height) < TINY_SIDE],
        ),
        (
            "extreme_shapes", f"a side more than {EXTREME_ASPECT:.0f} times the other",
            "The network's input is a square: such images are strongly squeezed, cropped or padded.",
            "check whether they belong to the data; or transforms.policy=letterbox",
            [fact for fact in readable if max(fact.width, fact.height) > EXTREME_ASPECT * min(fact.width, fact.height)],
        ),
        (
            "turned_by_exif", "turned by the EXIF orientation",
            ("Training and prediction turn them upright. A program that ignores the tag gives the model images "
            "that are on their side."),
            "nothing here; check that the program that runs the model applies the EXIF orientation, too",
            [fact for fact in readable if fact.orientation not in (0, 1)],
        ),
    ):  # fmt: skip
        if chosen:
            joined = "are" if code == "turned_by_exif" else "have"
            if len(chosen) == 1:
                joined = "is" if joined == "are" else "has"
            yield Finding(
                code=code,
                severity="note",
                title=f"{plural(len(chosen), 'file')} {joined} {title}",
                words=words,
                remedy=remedy,
                count=len(chosen),
                examples=tuple(
                    (ShownImage(fact.path, f"{fact.width} x {fact.height}"),) for fact in chosen[:MAX_EXAMPLES]
                ),
                rows=tuple((fact.path,) for fact in chosen),
            )
    yield from _cropped(data, preprocessing)


def _not_read(data: Inspected) -> Iterator[Finding]:
    files = data.index.files
    kinds = [] if files is None else [name for name in files.by_kind() if name != "labels"]
    if files is None or not kinds:
        return
    described = {name: files.describe(name) for name in kinds}
    missed = [name for name in kinds if KINDS[name].is_missed]
    shown = missed or kinds
    counts = {name: sum(count.number for count in counts) for name, counts in files.by_kind().items()}
    number = sum(counts[name] for name in shown)
    yield Finding(
        code="files_not_read",
        severity="warning" if missed else "note",
        title=f"{plural(number, 'file')} in the folder {'is' if number == 1 else 'are'} not read: "
        + ", ".join(described[name][0] for name in shown),
        words=f"Of {plural(files.num_files, 'file')} below the data folder, {files.num_read:,} are read as images.",
        remedy=f"{described[missed[0]][0]}: {described[missed[0]][1]}; the list has the others"
        if missed
        else "nothing",
        count=number,
        rows=tuple(
            (words, f"{remedy or 'nothing to do'}; the first: {count.first}")
            for count, words, remedy in files.described()
        ),
    )


def _dark(data: Inspected) -> Iterator[Finding]:
    deep = [fact for fact in data.scan.readable if fact.peak >= 0]
    for code, is_cut, look in (("dark_samples", False, dark_samples), ("dark_colours", True, dark_colours)):
        chosen = [fact for fact in deep if fact.is_cut == is_cut]
        finding = look(len(chosen), max(fact.peak for fact in chosen)) if chosen else None
        if finding is not None:
            yield Finding(
                code=code,
                severity="warning",
                title=finding.title,
                words=f"{finding.words[0].upper()}{finding.words[1:]}.",
                remedy=finding.remedy,
                count=len(chosen),
                examples=tuple((ShownImage(fact.path, f"up to {fact.peak:,}"),) for fact in chosen[:MAX_EXAMPLES]),
                rows=tuple((fact.path, str(fact.peak)) for fact in chosen),
            )


def cropped_share(width: int, height: int, preprocessing: Preprocessing) -> float:
    """Share of an image's pixels that the crop removes."""
    place = preprocessing.geometry(height, width)
    target_height, target_width = preprocessing.size
    return 1 - min(1, target_height / place.height) * min(1, target_width / place.width)


def _cropped(data: Inspected, preprocessing: Preprocessing) -> Iterator[Finding]:
    sizes = Counter((fact.width, fact.height) for fact in data.scan.readable)
    if not sizes:
        return
    shares = np.array([cropped_share(*size, preprocessing) for size in sizes])
    mean = float(np.average(shares, weights=list(sizes.values())))
    if mean >= REPORTED_CROP:
        yield Finding(
            code="cropped_pixels",
            severity="warning" if mean > 0.25 else "note",
            title=f"transforms.policy={preprocessing.policy} crops away {mean:.0%} of the pixels",
            words=f"Only the centre of images that are not square is used; one of them loses {shares.max():.0%}, "
            "all of it at its sides.",
            remedy="transforms.policy=squash or letterbox keeps the whole image",
            count=sum(number for size, number in sizes.items() if cropped_share(*size, preprocessing) > 0),
        )
