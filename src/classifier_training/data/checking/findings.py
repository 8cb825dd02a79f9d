"""What an analysis finds: each with how much it matters, in plain words, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from classifier_training.core.errors import shown as shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from classifier_training.data.checking.scan import FileScan
    from classifier_training.data.index import SampleIndex

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From what makes results wrong to what is good to know."""

MAX_EXAMPLES = 12
"""Examples of a finding that are kept for the page; the count says how many there are."""

SHOWN_OF_GROUP = 8


@dataclass(frozen=True)
class ShownImage:
    """One file of an example.

    Args:
        path: relative to the data root.
        caption: what is to be seen of it, such as its split and label.
    """

    path: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about the data.

    Args:
        code: a name for programs, such as exact_copies_across_splits.
        severity: error makes scores wrong or training fail, warning costs accuracy, note is good to know.
        title: one line.
        words: what it means.
        remedy: what to do.
        count: how many (files, groups, classes), for the order among equals.
        examples: groups of images, each to be looked at together.
        rows: facts without images, as columns of text.
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
    """A data set and the scan of its files, as every check sees it.

    Args:
        index: the samples.
        scan: their files.
    """

    index: SampleIndex
    scan: FileScan

    def labels(self) -> dict[str, set[str]]:
        """The labels of each path."""
        return self._collect("label")

    def splits(self) -> dict[str, set[str]]:
        """The splits of each path; none where the data is not split."""
        return self._collect("split")

    def _collect(self, field: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for sample in self.index.samples:
            found.setdefault(sample.path, set()).add(getattr(sample, field))
        return found


def rank(findings: Iterable[Finding]) -> list[Finding]:
    """Order findings by what matters: severity, then the order in which the checks come."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
