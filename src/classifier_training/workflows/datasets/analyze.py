"""`analyze`: problems of a data set before training, and label errors after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from classifier_training.core.display import progress
from classifier_training.core.errors import UserError, plural
from classifier_training.core.register import Choice, Word, changed_options, register, with_settings
from classifier_training.core.run_dir import atomic_path, make_folder, write_csv, write_json
from classifier_training.core.runtime import num_cores
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.core.types import TRAIN, InputSpec
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.data.checking.decisions import check_corrections, check_edits
from classifier_training.data.checking.duplicates import check_copies, find_copies
from classifier_training.data.checking.findings import SEVERITIES, Finding, Inspected, check_files, rank
from classifier_training.data.checking.preflight import check_classes
from classifier_training.data.checking.scan import FileScan, scan_files
from classifier_training.data.checking.statistics import count_data, dataset_statistics, file_statistics
from classifier_training.data.corrections import append_corrections, edited_labels
from classifier_training.data.formats.source import DataSource
from classifier_training.data.image_settings import choose_image_size
from classifier_training.data.load import read_corrected
from classifier_training.data.splitting.manifest import read_labels
from classifier_training.data.splitting.splits import give_splits
from classifier_training.evaluation.drawing import Drawer
from classifier_training.workflows.datasets.data_page import DataReportDir, draw_plots, write_data_page
from classifier_training.workflows.evaluating.explain import ExplanationReport, report_errors
from classifier_training.workflows.evaluating.label_next import PRECISION, LabelNext, report_label_next
from classifier_training.workflows.evaluating.label_report import LabelReport, report_labels

if TYPE_CHECKING:
    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.data.corrections import Corrected
    from classifier_training.data.index import SampleIndex

DEFAULT_FOLDER = "data_report"
NETWORK_SIZE = 224
"""The usual network's own side: by it, that of the crop is chosen as train does when data.image_size is left out."""

FailOn = Literal["never", "error", "warning"]


@dataclass(frozen=True)
class AnalyzeResult:
    """Result of `analyze`.

    Args:
        folder: of the report.
        words: the data in one line.
        findings: sorted by severity.
        fail_on: lowest severity with which the command fails.
    """

    folder: DataReportDir
    words: str
    findings: tuple[Finding, ...]
    fail_on: FailOn

    @property
    def exit_code(self) -> int:
        """0, or 1 if there is a finding of severity `fail_on` or higher."""
        if self.fail_on == "never":
            return 0
        grave = SEVERITIES[: SEVERITIES.index(self.fail_on) + 1]
        return int(any(finding.severity in grave for finding in self.findings))

    def __str__(self) -> str:
        lines = [f"  {finding.severity:<8} {finding.title}" for finding in self.findings] or ["  no problems found"]
        return "\n".join([self.words, *lines, f"report: {self.folder.page}"])


@register(
    group="verb",
    name="analyze",
    examples=(
        "analyze /my/images",
        "analyze /my/images run=latest",
        "analyze run=latest why=test/cat/0042.jpg",
        "analyze /new/images run=latest label_next=50",
    ),
)
def analyze(
    *,
    data: Annotated[DataSource, Choice("auto"), Word("root")],
    transforms: Annotated[Transforms, Choice("standard")],
    run: RunText | None = None,
    output: TypedPath | None = None,
    near_duplicates: bool = True,
    fail_on: FailOn = "never",
    why: TypedPath | list[TypedPath] | None = None,
    label_next: Annotated[int, Field(ge=1)] | None = None,
    pseudo_precision: Annotated[float, Field(gt=0, lt=1)] = PRECISION,
) -> AnalyzeResult | LabelReport | ExplanationReport | LabelNext:
    """Check a data set for problems; with run=, find labels that the trained model contradicts.

    Nothing is changed or deleted: files that cannot be read are listed in quarantine.csv. Of transforms only the policy
    counts, by which pixels that the crop would throw away are counted.

    Args:
        run: a finished run (a folder, latest or best): rank the labels of all its images, most likely wrong first.
        output: folder for the report; data_report, or label_issues inside the run, when left out.
        near_duplicates: find images that were re-encoded, resized or brightened.
        fail_on: end with exit code 1 when there is a finding of this severity or higher.
        why: with run=, an image of the run that is predicted wrongly, or several, as in its evaluation/errors.csv: show
            the nearest training images, and those whose removal or relabelling makes the prediction right.
        label_next: with run=, choose so many images of a folder without labels, data.root, that are most worth
            labelling for the next training; also proposes labels for those that the model is sure of.
        pseudo_precision: with label_next, share of the proposed labels of each class that is right at least, on images
            like the validation ones.
    """
    if label_next is None and pseudo_precision != PRECISION:
        raise UserError(
            f"pseudo_precision={pseudo_precision:g} without label_next=",
            "a number of images to choose",
            "label_next=50",
        )
    if run is not None and label_next is not None:
        for name, is_typed in (
            ("why", why is not None), ("near_duplicates", not near_duplicates), ("fail_on", fail_on != "never"),
        ):  # fmt: skip
            if is_typed:
                raise UserError(f"{name} has no effect beside label_next=", "one of them", f"leave {name} out")
        return _label_next(run, data, transforms, label_next, pseudo_precision, output)
    if run is not None:
        _refuse_for_run(data, transforms, near_duplicates=near_duplicates, fail_on=fail_on)
        root = getattr(data, "root", None)
        if isinstance(root, list):
            raise UserError(
                "several folders in data.root beside run=", "the one folder of the run's images", "data.root=…"
            )
        if why is not None:
            return report_errors(run, why, moved_to=root, output=output)
        return report_labels(run, moved_to=root, output=output)
    if why is not None:
        raise UserError("why= without run=", "the run whose prediction is to be explained", "run=latest")
    if label_next is not None:
        raise UserError(f"label_next={label_next} without run=", "the run whose model is unsure", "run=latest")
    _refuse_idle(data, transforms)
    folder = DataReportDir(Path(output or DEFAULT_FOLDER).expanduser())
    # What stops a training is counted here, and named beside what else is wrong.
    original, corrected = read_corrected(with_settings(data, on_error="skip"))
    make_folder(folder.path)
    decisions = [*check_corrections(original.samples, corrected), *_edits(data, original, corrected, folder)]
    if data.splits is not None:
        original = give_splits(original, Path(data.splits).expanduser(), "skip", corrected.applied)
    index = replace(original, samples=corrected.again(original.samples))
    num_workers = num_cores() if data.num_workers == "auto" else data.num_workers
    scan = _scan(index, num_workers)
    copies = find_copies(scan, near=near_duplicates)
    image_size = data.named_size or _suited_size(index, scan)
    preprocessing = transforms.evaluation(image_size, InputSpec(image_size, (0.5,) * 3, (0.5,) * 3))
    inspected = Inspected(index, scan)
    findings = _findings(inspected, preprocessing, [*check_copies(inspected, copies), *decisions])
    counted = count_data(index)
    sizes = [(fact.width, fact.height) for fact in scan.readable]
    statistics = {**dataset_statistics(counted, sizes), "files": file_statistics(index, scan, copies)}
    if index.files is not None:
        unreadable = {fact.path: "unreadable" for fact in scan.unreadable}
        statistics["folder"] = index.files.without(unreadable).to_dict()
    write_json(folder.statistics, statistics)
    write_json(folder.findings, [finding.to_dict() for finding in findings])
    write_csv(folder.quarantine, ("path", "reason"), ((fact.path, fact.error) for fact in scan.unreadable))
    with Drawer() as drawer:
        drawn = draw_plots(folder, inspected, counted, drawer, image_size=image_size)
    write_data_page(folder, inspected, counted, findings, drawn)
    splits = ", ".join(f"{len(table):,} {name}" for name, table in counted.tables.items())
    words = f"{index.root}: {plural(counted.num_classes, 'class', 'classes')}, images: {splits}"
    return AnalyzeResult(folder, words, tuple(findings), fail_on)


def _label_next(
    run: str, data: DataSource, transforms: Transforms, number: int, precision: float, output: str | None
) -> LabelNext:
    changed = [f"data.{option.name}" for option in changed_options(data) if option.name not in ("root", "follow_links")]
    changed += [f"transforms.{option.name}" for option in changed_options(transforms)]
    root = getattr(data, "root", None)
    if changed or not isinstance(root, str):
        raise UserError(
            f"{changed[0]} has no effect beside label_next=" if changed else f"label_next={number} without one folder",
            "the folder of images without labels, run=, label_next=, and perhaps output= or data.follow_links=",
            f"leave {changed[0]} out" if changed else "data.root=/new/images",
        )
    follow_links = bool(getattr(data, "follow_links", False))
    return report_label_next(run, root, number, precision=precision, output=output, follow_links=follow_links)


def _findings(inspected: Inspected, preprocessing: Preprocessing, others: Iterable[Finding]) -> list[Finding]:
    return rank([*check_files(inspected, preprocessing), *others, *check_classes(inspected.index)])


def _edits(data: DataSource, original: SampleIndex, corrected: Corrected, folder: DataReportDir) -> Iterator[Finding]:
    """Write what somebody edited in the labels of data.splits as corrections."""
    if data.splits is None:
        return
    file = Path(data.splits).expanduser()
    edits = edited_labels(original.root, original.samples, corrected, read_labels(file), why=f"edited in {file.name}")
    if edits:
        with atomic_path(folder.corrections) as temporary:
            append_corrections(temporary, [*corrected.lines, *edits])
    root = getattr(data, "root", None)
    yield check_edits(
        file, edits, written=folder.corrections, root=root if isinstance(root, str) else None, folder=original.root
    )


def _suited_size(index: SampleIndex, scan: FileScan) -> int:
    """Return the side that train chooses for these images with the usual network and its trained weights."""
    sizes = {fact.path: (fact.width, fact.height) for fact in scan.readable}
    rows = [sample for sample in index.samples if sample.path in sizes]
    rows = [sample for sample in rows if sample.split == TRAIN] or rows
    found = np.array([sizes[sample.path] for sample in rows], dtype=np.int64).reshape(-1, 2)
    return choose_image_size(NETWORK_SIZE, found, is_trained=True, takes=lambda _: True).side


def _scan(index: SampleIndex, num_workers: int) -> FileScan:
    paths = list(dict.fromkeys(sample.path for sample in index.samples))
    with progress("checking files", total=lambda: len(paths)) as advance:
        return scan_files(index.root, paths, num_workers=num_workers, progress=advance)


def _refuse_idle(data: DataSource, transforms: Transforms) -> None:
    """Refuse settings that have no effect here."""
    for option in changed_options(data):
        if not option.acts_in("analyze"):
            raise UserError(
                f"data.{option.name}={getattr(data, option.name)} has no effect on an analysis",
                "settings that name the data",
                "leave it out",
            )
    for option in changed_options(transforms):
        if option.name != "policy":
            raise UserError(
                f"transforms.{option.name}={getattr(transforms, option.name)} has no effect on an analysis",
                "transforms.policy alone",
                "leave it out",
            )


def _refuse_for_run(data: DataSource, transforms: Transforms, *, near_duplicates: bool, fail_on: FailOn) -> None:
    """With run=, the data is the run's own; data.root only states its current folder."""
    changed = [f"data.{option.name}" for option in changed_options(data) if option.name != "root"]
    changed += [f"transforms.{option.name}" for option in changed_options(transforms)]
    changed += ["near_duplicates"] * (not near_duplicates) + ["fail_on"] * (fail_on != "never")
    if changed:
        raise UserError(
            f"{changed[0]} has no effect beside run=",
            "run=, output= and, when the run's images have moved, data.root=",
            f"leave {changed[0]} out, or leave run= out to analyze the data itself",
        )
