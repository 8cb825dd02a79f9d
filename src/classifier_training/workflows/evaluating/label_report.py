"""The labels of a run's held-out images, ranked by how wrong they look to its model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import UserError, plural, require_extra, shown
from classifier_training.core.run_dir import make_folder, write_csv
from classifier_training.core.types import TEST, VAL, softmax
from classifier_training.evaluation import report
from classifier_training.registry.runs import find_run
from classifier_training.workflows.datasets.data_page import DataReportDir
from classifier_training.workflows.evaluating.run_model import open_exported
from classifier_training.workflows.evaluating.samples import own_samples, tabulate

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MAX_SHOWN = 300
"""Doubtful labels that the page shows; the CSV file has every sample."""

MAX_BELIEVABLE = 0.3
"""Share of doubtful labels above which the model is doubted instead."""


@dataclass(frozen=True)
class LabelReport:
    """What was found.

    Args:
        folder: where it is written.
        num_images: held-out images that were looked at.
        num_issues: doubtful labels among them.
    """

    folder: DataReportDir
    num_images: int
    num_issues: int

    def __str__(self) -> str:
        return (
            f"{plural(self.num_issues, 'doubtful label')} among {self.num_images:,} held-out images\n"
            f"ranked list: {self.folder.label_issues}\nreport: {self.folder.page}"
        )


@dataclass(frozen=True)
class LabelIssues:
    """Which labels are probably wrong.

    Args:
        rows: of the samples with doubtful labels, the most doubtful first, int64 [M].
        quality: probability of the given label of every sample, float [N]: the lower, the more doubtful.
    """

    rows: NDArray[np.int64]
    quality: NDArray[np.float64]


def import_cleanlab() -> tuple[Any, Any]:
    """Return cleanlab's search for label issues and its scores.

    Raises:
        UserError: when it is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues as find
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise require_extra("cleanlab", extra="cleanlab", purpose="analyze run=…") from error
    return find, get_label_quality_scores


def find_label_issues(targets: NDArray[np.int64], probabilities: NDArray[np.float32]) -> LabelIssues:
    """Find samples whose label the network contradicts with more confidence than it usually does for that class.

    Args:
        targets: class numbers as labelled, int64 [N].
        probabilities: of a network that was not trained on these samples, float [N, K].

    Raises:
        UserError: when cleanlab is not installed.
    """
    find, get_label_quality_scores = import_cleanlab()
    # float32 sums may miss 1 by more than cleanlab allows.
    shares = probabilities.astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    quality = np.asarray(get_label_quality_scores(targets, shares, method="self_confidence"), dtype=np.float64)
    if len(set(targets.tolist())) < 2:
        # With one class there is no noise rate to estimate; the samples that are predicted otherwise are all there is.
        doubtful = np.flatnonzero(shares.argmax(axis=1) != targets)
    else:
        # Processes of its own would be forked from one that holds ONNX Runtime's threads.
        doubtful = np.flatnonzero(find(targets, shares, filter_by="prune_by_noise_rate", n_jobs=1))
    return LabelIssues(doubtful[np.argsort(quality[doubtful], kind="stable")], quality)


@dataclass(frozen=True)
class _Scored:
    """The predictions for all held-out images, in one order."""

    samples: list[tuple[str, str]]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def report_labels(run: str, *, moved_to: str | None, output: str | None) -> LabelReport:
    """Rank the labels of a run's validation and test images; see the module's docstring.

    The model was not trained on them. Its weights were chosen by the validation images, so that a little of those has
    been seen.

    Raises:
        UserError: when the run or its images cannot be found, or cleanlab is not installed.
    """
    import_cleanlab()
    run_dir = find_run(run)
    folder = DataReportDir(Path(output).expanduser() if output else run_dir.label_issues)
    make_folder(folder.path)
    predictor = open_exported(run_dir.path)
    rows, root = own_samples(run_dir, moved_to=moved_to)
    samples, targets, logits = [], [], []
    for split in (VAL, TEST):
        if not any(sample.split == split for sample in rows):
            continue
        table = tabulate(rows, root, split, predictor.class_names)
        for path, target, answer in zip(table.paths, table.targets, predictor.raw_outputs(table.paths), strict=True):
            if answer.logits is None:
                log.warning("left out %s: %s", answer.path, answer.error)
            else:
                samples.append((path, split))
                targets.append(target)
                logits.append(answer.logits)
    if not logits:
        raise UserError(
            f"{run_dir.path}: none of the run's held-out images can be read",
            "the validation and test images of the run",
            "name the folder that they are in now: data.root=…",
        )
    scored = _Scored(samples, np.array(targets, dtype=np.int64), softmax(np.stack(logits)))
    issues = find_label_issues(scored.targets, scored.probabilities)
    _write_list(folder, scored, issues, predictor.class_names)
    _write_report(folder, run_dir.path, root, scored, issues, predictor.class_names)
    if len(issues.rows) > MAX_BELIEVABLE * len(samples):
        log.warning(
            "the model contradicts %.0f %% of the labels: it is the model that is weak, and its list says little",
            100 * len(issues.rows) / len(samples),
        )  # fmt: skip
    return LabelReport(folder, len(samples), len(issues.rows))


def _write_list(folder: DataReportDir, scored: _Scored, issues: LabelIssues, class_names: tuple[str, ...]) -> None:
    doubtful = set(issues.rows.tolist())
    rest = [row for row in np.argsort(issues.quality, kind="stable").tolist() if row not in doubtful]
    write_csv(
        folder.label_issues,
        ("path", "split", "label", "suggested", "confidence", "label_quality", "is_issue"),
        (
            (
                *scored.samples[row],
                class_names[scored.targets[row]],
                class_names[scored.probabilities[row].argmax()],
                f"{scored.probabilities[row].max():.6f}",
                f"{issues.quality[row]:.6f}",
                str(row in doubtful).lower(),
            )
            for row in (*issues.rows.tolist(), *rest)
        ),
    )


def _write_report(
    folder: DataReportDir, run: Path, root: Path, scored: _Scored, issues: LabelIssues, class_names: tuple[str, ...]
) -> None:
    images: list[report.Thumbnail] = []
    rows: list[tuple[str | float, ...]] = []
    for row in issues.rows.tolist():
        path, split = scored.samples[row]
        given, likely = scored.targets[row], scored.probabilities[row].argmax()
        confidence, quality = float(scored.probabilities[row, likely]), float(issues.quality[row])
        name = Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path
        if len(images) < MAX_SHOWN:
            words = f"model: {shown(class_names[likely])} {confidence:.0%}\n{name}"
            images.append(report.thumbnail(Path(path), f"label: {shown(class_names[given])}", words))
        rows.append((name, split, shown(class_names[given]), shown(class_names[likely]), confidence, quality))
    share = len(rows) / len(scored.samples)
    facts = [
        (f"{len(scored.samples):,}", "held-out images"),
        (f"{len(rows):,}", "doubtful labels"),
        (f"{share:.1%}", "of the labels"),
    ]
    body = [report.header(f"Labels to look at: {run.name}", str(run), facts)]
    if rows:
        more = f" The page shows the first {MAX_SHOWN}." if len(rows) > MAX_SHOWN else ""
        body.append(
            report.section(
                "The most doubtful first",
                report.paragraph(
                    "The model, which did not learn from these images, is more confident of another class than "
                    "it usually is. A weak model doubts correct labels, too: look before you change one." + more
                ),
                report.thumbnails(images),
            )
        )
        columns = ("file", "split", "label", "model says", "confidence", "label's probability")
        body.append(report.section("All of them", report.table(columns, rows)))
    else:
        body.append(report.card("good", "No doubtful label", "The model contradicts no label more than usual.", ""))
    body.append(report.footer("Confident learning with cleanlab (Northcutt et al. 2021, arXiv:1911.00068)."))
    report.write_page(folder.page, title=f"Labels to look at: {run.name}", body=body)
