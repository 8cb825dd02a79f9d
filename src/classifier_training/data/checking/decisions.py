"""What an analysis finds in the corrections of a data set."""

from __future__ import annotations

import shlex
from collections import defaultdict
from typing import TYPE_CHECKING

from classifier_training.core.errors import enumerate_words, nearest, plural, shown
from classifier_training.core.runtime import command, setting
from classifier_training.core.storage.places import is_remote
from classifier_training.data.checking.findings import Finding
from classifier_training.data.corrections import FILE_NAME, standing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from classifier_training.data.corrections import Corrected, LabelCorrection
    from classifier_training.data.samples import Sample

IGNORED = "corrections_ignored"


def check_corrections(samples: Sequence[Sample], corrected: Corrected) -> Iterator[Finding]:
    """Yield the findings about the corrections of a data set.

    Args:
        samples: before the corrections.
        corrected: after them.
    """
    if not corrected.lines:
        return
    if corrected.ignored:
        rows = [(line.path, reason) for reason, lines in corrected.ignored.items() for line in lines]
        yield Finding(
            code=IGNORED,
            severity="warning",
            title=f"{plural(len(rows), 'correction')} without effect",
            words="The data is no longer what it was when these lines were written.",
            remedy="look at these images again and decide anew: a later line takes the place of an earlier one",
            count=len(rows),
            rows=tuple(rows),
        )
    contradicting = list(_contradicting(corrected.lines))
    if contradicting:
        yield Finding(
            code="corrections_by_several_people",
            severity="warning",
            title=f"{plural(len(contradicting), 'image')} on which several people decided differently",
            words="The last line counts.",
            remedy="agree on these images, and write one more line for each where the last one is wrong",
            count=len(contradicting),
            rows=tuple(contradicting),
        )
    unknown = list(_unknown_classes(samples, corrected))
    if unknown:
        yield Finding(
            code="corrections_to_new_classes",
            severity="warning",
            title=f"{plural(len(unknown), 'class', 'classes')} that only corrections name",
            words="No label of the data itself is so called: a new class, or a spelling mistake.",
            remedy="correct the column new, or leave it if the class is meant",
            count=len(unknown),
            rows=tuple(unknown),
        )
    kept = sum(line.action == "keep" for line in standing(corrected.lines).values())
    replaced = len(corrected.lines) - len({line.sample for line in corrected.lines})
    parts = [
        corrected.words,
        f"{plural(kept, 'label')} looked at and kept" if kept else "",
        f"{plural(replaced, 'line')} replaced by later ones" if replaced else "",
    ]
    yield Finding(
        code="corrections",
        severity="note",
        title=f"corrections: {', '.join(filter(None, parts)) or 'nothing changed'}",
        words="All that follows is about the corrected data.",
        remedy="nothing here; data.corrections=null shows the data without them",
        count=len(corrected.lines),
    )


def _contradicting(lines: Sequence[LabelCorrection]) -> Iterator[tuple[str, str]]:
    by_sample: dict[tuple[str, str], dict[str, LabelCorrection]] = defaultdict(dict)
    for line in lines:
        # The last line of a person stands for the person, and the last person comes last.
        by_sample[line.sample].pop(line.who, None)
        by_sample[line.sample][line.who] = line
    for (path, _), people in by_sample.items():
        if len({(line.action, line.new) for line in people.values()}) > 1:
            decisions = (f"{who or 'nobody named'}: {_decision(line)}" for who, line in people.items())
            yield path, ", then ".join(decisions)


def _decision(line: LabelCorrection) -> str:
    if line.action == "relabel":
        return shown(line.new)
    return f"move to {line.new}" if line.action == "move" else line.action


def _unknown_classes(samples: Sequence[Sample], corrected: Corrected) -> Iterator[tuple[str, str]]:
    known = {sample.label for sample in samples}
    by_class: dict[str, list[str]] = defaultdict(list)
    for line in corrected.applied.values():
        if line.action == "relabel" and line.new not in known:
            by_class[line.new].append(line.path)
    for name, paths in by_class.items():
        close = nearest(name, sorted(known))
        meant = f"; did you mean {shown(close[0])}?" if close else ""
        yield shown(name), f"{plural(len(paths), 'image')}: {enumerate_words(paths, limit=3)}{meant}"


def check_edits(
    file: Path, edits: Sequence[LabelCorrection], *, written: Path, root: str | None, folder: Path
) -> Finding:
    """Return the finding about the labels of a splits.csv that somebody edited.

    Args:
        file: the splits.csv.
        edits: what makes its labels those of the data.
        written: file that has these lines, after those that the data has already.
        root: the data folder as it was typed; None where there are several, or none.
        folder: that the paths begin from.
    """
    if not edits:
        return Finding(
            code="splits_labels",
            severity="note",
            title=f"the labels of {file.name} are those of the data",
            words="Nothing was edited in it, or its corrections are there already.",
            remedy="nothing here",
            count=0,
        )
    data = [setting("data.root", root if root is not None else folder), setting("data.splits", file)]
    train = f"{command('train')} {' '.join(data)} {setting('data.corrections', written)}"
    target = folder / FILE_NAME
    copied = f"copy {written} to {target}" if is_remote(folder) else f"cp {shlex.join([str(written), str(target)])}"
    copy = f"{train}; or for every verb: {copied}"
    return Finding(
        code="edited_labels",
        severity="warning",
        title=f"{plural(len(edits), 'label')} of {file.name} edited: the data has others",
        words=f"A splits.csv defines the splits, and labels come from the data. {written} has the difference as "
        "corrections, after the lines that the data has already.",
        remedy=copy if root is not None else train,
        count=len(edits),
        rows=tuple((line.path, f"{shown(line.old)} to {_decision(line)}") for line in edits),
    )
