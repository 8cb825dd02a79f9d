"""What became of every file below a data folder: read, or left out, counted by kind and by ending of its name.

Readers list samples; here the rest of the folder is counted, so that the numbers add up to the files that there are.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import enumerate_words, plural
from classifier_training.core.image_files import HEIF_EXTENSIONS, missing_heif
from classifier_training.data.remote import open_walker
from classifier_training.data.walk import DataErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from classifier_training.data.walk import Walker

log = logging.getLogger(__name__)

VIDEO_EXTENSIONS = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .webm .wmv".split()  # noqa: SIM905
)
"""File name endings that count as videos, in lower case."""

MAX_ENDING = 12
"""Longest ending: in `Mr. Smith` there is none."""


@dataclass(frozen=True)
class Kind:
    """A kind of files that are left out.

    Args:
        one: what one of them is called.
        many: what several are called.
        remedy: what to do about them, with {file} for one of them and {stem} for its name without its ending; empty
            where there is nothing to do.
        endings: of their names, in lower case, with spaces between them.
        is_missed: whether they are images, or may hold some, that a person may have wanted to be read.
    """

    one: str
    many: str
    remedy: str = ""
    endings: str = ""
    is_missed: bool = False


CONVERT = "magick mogrify -format jpg {file} converts one to JPEG"

KINDS: Mapping[str, Kind] = {
    "heif": Kind(
        "HEIC photo", "HEIC photos", missing_heif("").remedy, " ".join(sorted(HEIF_EXTENSIONS)), is_missed=True
    ),
    "raw": Kind(
        "RAW photo", "RAW photos", CONVERT,
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 "
        ".srf .srw .x3f", is_missed=True,
    ),
    "other_image": Kind(
        "image of another format", "images of other formats", CONVERT,
        ".ai .bpg .cur .dcm .dds .dib .emf .eps .exr .fits .hdr .heics .heifs .icns .ico .j2c .j2k .jls .jp2 .jpf .jpx "
        ".jxl .jxr .mng .nii .pcx .pfm .psb .psd .qoi .ras .sgi .svg .tga .wbmp .wdp .wmf .xbm .xcf .xpm",
        is_missed=True,
    ),
    "video": Kind(
        "video", "videos",
        "ffmpeg -i {file} -vf fps=1 {stem}_%05d.jpg writes frames, predict source={file} every_s=1 labels them",
        " ".join(sorted(VIDEO_EXTENSIONS)), is_missed=True,
    ),
    "archive": Kind(
        "archive", "archives", "unpack them, for example with unzip {file} or tar -xf {file}",
        ".7z .bz2 .gz .lz4 .rar .tar .tbz .tgz .txz .xz .zip .zst", is_missed=True,
    ),
    "pdf": Kind("PDF", "PDFs", "pdftoppm -jpeg -r 150 {file} {stem} makes a JPEG of each page", ".pdf", is_missed=True),
    "no_ending": Kind(
        "file without an ending", "files without an ending",
        "if {file} is an image (file {file} says so), add its ending: mv {file} {file}.jpg", is_missed=True,
    ),
    "loose": Kind(
        "image in no class folder", "images in no class folder", "move them into their class folders", is_missed=True
    ),
    "beside": Kind(
        "image in a folder beside train that is no split", "images in folders beside train that are no splits",
        "move them into train, val or test", is_missed=True,
    ),
    "unlisted": Kind("image that no row names", "images that no row names", "add rows for those that should be used"),
    "unlabelled": Kind("image without a label", "images without a label", "train labels them when it is done"),
    "unused": Kind("image that is in no split", "images that are in no split", "see the warnings in train.log"),
    "unreadable": Kind("image that cannot be read", "images that cannot be read", "repair or remove them"),
    "link": Kind("link that is not followed", "links that are not followed", "{setting}=true follows them"),
    "labels": Kind("file that lists the samples", "files that list the samples"),
    "output": Kind("file of a run or report", "files of runs and reports"),
    "other": Kind("file of another kind", "files of other kinds"),
    "hidden": Kind("hidden or system file", "hidden or system files"),
}  # fmt: skip
"""Kinds of files, in the order in which they are named."""

BY_ENDING = {ending: name for name, kind in KINDS.items() for ending in kind.endings.split()}

TOLD = frozenset({"loose", "beside", "unlabelled", "unused", "unreadable", "link", "labels"})
"""Kinds of which readers and splits say more themselves."""


@dataclass(frozen=True)
class Count:
    """Files of one kind and ending.

    Args:
        kind: a name of `KINDS`.
        ending: of their names, in lower case with its dot; empty where there is none.
        number: of the files.
        first: path of one of them, relative to the data folder.
    """

    kind: str
    ending: str
    number: int
    first: str


@dataclass(frozen=True)
class FolderFiles:
    """Every file below a data folder.

    Args:
        root: the folder.
        num_read: image files that are read.
        left_out: the others.
        setting: that follows links.
    """

    root: Path
    num_read: int
    left_out: tuple[Count, ...] = ()
    setting: str = "data.follow_links"

    @property
    def num_files(self) -> int:
        """All of them."""
        return self.num_read + sum(count.number for count in self.left_out)

    def by_kind(self) -> dict[str, list[Count]]:
        """The counts of each kind, in the order of `KINDS`, the most frequent ending first."""
        found: dict[str, list[Count]] = {}
        for count in sorted(self.left_out, key=lambda count: (-count.number, count.ending)):
            found.setdefault(count.kind, []).append(count)
        return {name: found[name] for name in KINDS if name in found}

    def describe(self, kind: str) -> tuple[str, str]:
        """Return the number and noun of a kind with its endings, and what to do."""
        counts = self.by_kind()[kind]
        endings = enumerate_words([count.ending for count in counts if count.ending], limit=6)
        words = plural(sum(count.number for count in counts), KINDS[kind].one, KINDS[kind].many)
        file = f"{self.root}/{counts[0].first}"
        remedy = KINDS[kind].remedy.format(
            file=shlex.quote(file),
            stem=shlex.quote(os.path.splitext(file)[0]),  # noqa: PTH122
            setting=self.setting,
        )
        return f"{words} ({endings})" if endings and kind not in ("labels", "hidden") else words, remedy

    def missed(self, *, but: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
        """The kinds that a person may have wanted to be read, as `describe` puts them."""
        return [self.describe(name) for name in self.by_kind() if KINDS[name].is_missed and name not in but]

    def log(self) -> None:
        """Log in a line each what is not read and perhaps should be, and the other files."""
        described = self.missed(but=TOLD)
        missed = "; ".join(f"{words}: {remedy}" for words, remedy in described[:2])
        if more := [words for words, _ in described[2:]]:
            missed += f"; {', '.join(more)}"
        kinds = [name for name in self.by_kind() if not KINDS[name].is_missed and name not in TOLD]
        rest = ", ".join(self.describe(name)[0] for name in kinds)
        read = f"{self.root}: {self.num_read:,} of {plural(self.num_files, 'file')} are read as images"
        if missed:
            log.warning("%s; not read: %s", read, missed)
        if rest:
            log.info("%s also there: %s", f"{self.root}:" if missed else f"{read};", rest)

    def described(self) -> list[tuple[Count, str, str]]:
        """Each kind and ending with what `describe` says of it."""
        counts = [count for counts in self.by_kind().values() for count in counts]
        return [(count, *replace(self, left_out=(count,)).describe(count.kind)) for count in counts]

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        rows = [
            {
                "kind": count.kind,
                "ending": count.ending,
                "num_files": count.number,
                "first": count.first,
                "remedy": remedy,
            }
            for count, _, remedy in self.described()
        ]
        return {"num_files": self.num_files, "num_read": self.num_read, "not_read": rows}

    @classmethod
    def from_dict(cls, root: Path, counted: Mapping[str, Any]) -> FolderFiles:
        """Return what `to_dict` gave, for the same folder."""
        rows = [Count(row["kind"], row["ending"], row["num_files"], row["first"]) for row in counted["not_read"]]
        return cls(root, counted["num_read"], tuple(rows))

    def without(self, reasons: Mapping[str, str]) -> FolderFiles:
        """Return the same files, of which some that were read are left out; their kinds by relative path."""
        tally = Tally()
        for path, kind in reasons.items():
            tally.add(kind, path)
        return replace(self, num_read=self.num_read - len(reasons), left_out=_merged([*self.left_out, *tally.counts()]))


def merge_files(root: Path, parts: Iterable[tuple[str, FolderFiles]]) -> FolderFiles:
    """Merge the files of several folders, each with its path relative to `root`, the folder above them all."""
    found = [(prefix, part) for prefix, part in parts]
    counts = [replace(count, first=f"{prefix}/{count.first}") for prefix, part in found for count in part.left_out]
    return FolderFiles(root, sum(part.num_read for _, part in found), _merged(counts))


@dataclass
class Tally:
    """Counts files while a folder is walked through."""

    numbers: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, kind: str, path: str) -> None:
        """Count a file; its path is relative to the data folder."""
        key = kind, ending_of(path)
        self.numbers[key] += 1
        self.first.setdefault(key, os.fsencode(path).decode(errors="replace"))

    def counts(self) -> tuple[Count, ...]:
        """What was counted."""
        return tuple(Count(*key, number, self.first[key]) for key, number in self.numbers.items())


def ending_of(path: str) -> str:
    """Return the ending of a file's name in lower case; empty where it has none."""
    ending = os.path.splitext(path)[1].lower()  # noqa: PTH122
    is_one = 1 < len(ending) <= MAX_ENDING and " " not in ending
    return os.fsencode(ending).decode(errors="replace") if is_one else ""


def kind_of(path: str) -> str:
    """Return the kind of a file that is no image, by the ending of its name."""
    ending = ending_of(path)
    return BY_ENDING.get(ending, "other") if ending else "no_ending"


def count_files(
    root: Path,
    classify: Callable[[str], str],
    *,
    follow_links: bool = False,
    setting: str = "data.follow_links",
    walker: Walker | None = None,
) -> FolderFiles:
    """Count every file below a folder; links are followed by the rule for data, and hidden folders are walked through.

    Args:
        root: absolute, with its own links resolved.
        classify: returns the kind of a file that is not hidden, by its path relative to the root; `read` for one that
            is read.
        follow_links: see `Walker`.
        setting: the user's name of `follow_links`.
        walker: one of this root that walked through nothing yet, or one of a remote folder, which is not listed again.
    """
    walker = walker or open_walker(
        root, follow_links=follow_links, errors=DataErrors("skip"), setting=setting, keeps=False
    )
    begin, tally, num_read = len(str(root).rstrip("/")) + 1, Tally(), 0
    for path in walker.files(root):
        kind = classify(path[begin:])
        if kind == "read":
            num_read += 1
        else:
            tally.add(kind, path[begin:])
    for path in walker.ignored:
        for hidden in _files_in(path):
            if classify(hidden[begin:]) == "read":
                num_read += 1
            else:
                tally.add("hidden", hidden[begin:])
    for path in walker.outputs:
        for written in _files_in(path):
            tally.add("output", written[begin:])
    for path in walker.links:
        tally.add("link", path[begin:])
    return FolderFiles(root, num_read, tally.counts(), setting)


def _files_in(path: str) -> Iterable[str]:
    if os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH112, PTH114
        return [path]
    return (f"{folder}/{name}" for folder, _, names in os.walk(path) for name in names)


def _merged(counts: Iterable[Count]) -> tuple[Count, ...]:
    found: dict[tuple[str, str], Count] = {}
    for count in counts:
        key = count.kind, count.ending
        found[key] = replace(found[key], number=found[key].number + count.number) if key in found else count
    return tuple(found.values())
