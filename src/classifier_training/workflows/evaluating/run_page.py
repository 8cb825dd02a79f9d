"""The page of an evaluation: report.html, one file to open, to send and to keep."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.core.errors import shown
from classifier_training.core.metrics import all_metrics
from classifier_training.core.run_reader import RunReader, read_values
from classifier_training.core.runtime import command, setting
from classifier_training.evaluation import report
from classifier_training.evaluation.mistakes import (
    MAX_MATRIX,
    SortedPredictions,
    confusion_pieces,
    most_confused,
    pictures_of,
)
from classifier_training.evaluation.report import Cell, Html, Number
from classifier_training.evaluation.selective import rejecting_words
from classifier_training.evaluation.verdict import SURE, TARGET_RECALL, Grounds, headline, percent, remarks
from classifier_training.workflows.evaluating.finished import train_command
from classifier_training.workflows.evaluating.samples import train_counts
from classifier_training.workflows.evaluating.scores import at_temperature

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from classifier_training.core.metrics import Metric
    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.intervals import Estimate
    from classifier_training.evaluation.results import Evaluation

NUM_MISTAKES, NUM_UNSURE = 36, 12
MAX_REMARKS = 8
"""Findings that are seen at once; the others are folded."""

BADGES = {"error": "fix", "warning": "warning", "note": "info", "good": "good"}


def write_run_page(
    path: Path,
    run_dir: RunDir,
    folder: Path,
    result: SplitResult,
    table: SplitTable,
    class_names: Sequence[str],
    evaluation: Evaluation,
    *,
    temperature: float | None,
    failures: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the page; the plots must have been painted.

    Args:
        path: of the page.
        run_dir: the run folder, or the folder of a lone file.
        folder: of the evaluation.
        result: the predictions, with logits as the network gives them.
        table: the samples of the split.
        class_names: [K].
        evaluation: the metrics.
        temperature: that the logits are to be divided by; None for a bundle that was not calibrated.
        failures: what could not be done at the end of the run, and why, besides the files that were withheld.
    """
    run = RunReader(run_dir)
    result = result if temperature is None else at_temperature(result, temperature)
    predictions = SortedPredictions(result, len(class_names))
    calibration = read_values(folder / "calibration.json")
    worst = predictions.worst()
    grounds = Grounds(
        evaluation=evaluation,
        class_names=class_names,
        confusions=most_confused(predictions.counts),
        train_counts=train_counts(run_dir),
        calibration=calibration,
        num_sure_mistakes=int((predictions.confidences[worst] >= SURE).sum()),
        data_checks=tuple(run.statistics.get("checks", ())),
    )
    title = f"{run.architecture or 'Model'} on {evaluation.split} images"
    body = [
        *_top(title, run_dir, grounds, _missing(run_dir, run.info.get("withheld", {}), failures)),
        _data(run, run_dir),
        _training(run, run_dir),
        _classes(grounds, folder),
        _confusions(predictions, table, class_names, folder),
        _mistakes(predictions, table, class_names, folder),
        _calibration(calibration, folder),
        _groups(grounds.evaluation),
        _exports(run, run_dir),
        _how(run),
        report.footer(
            "95 % intervals where metrics have them; a class is good enough when the interval of its recall lies above "
            f"{100 * TARGET_RECALL:.0f} %. All metrics: classification_report.json, predictions.csv and errors.csv in "
            f"{folder.name}/."
        ),
    ]  # fmt: skip
    report.write_page(path, title=title, body=[piece for piece in body if piece])


def _missing(run_dir: RunDir, withheld: Mapping[str, str], failures: Mapping[str, str]) -> list[Html]:
    """Return a card for each file that was withheld, and for whatever else failed after training."""
    export = f"{command('export')} {setting('run', run_dir.path)}   writes and checks it again"
    resume = f"{command('train')} {setting('resume', run_dir.path)}   does again what follows training"
    cards = [(f"{name} is withheld", reason, export) for name, reason in withheld.items()]
    cards += [(f"failed: {name}", reason, resume) for name, reason in failures.items() if name not in withheld]
    return [report.card("error", title, reason, remedy, badge=BADGES["error"]) for title, reason, remedy in cards]


def _top(title: str, run_dir: RunDir, grounds: Grounds, missing: Sequence[Html]) -> list[Html]:
    measures = grounds.evaluation.measures
    numbers = [
        (percent(measures.overall["acc_top1"]), "correctly classified (top-1 accuracy)"),
        (percent(measures.overall["balanced_accuracy"]), "mean over the classes (balanced accuracy)"),
        (f"{measures.num_images:,}", f"{grounds.evaluation.split} images"),
        (f"{len(grounds.class_names):,}", "classes"),
    ]
    said = [
        *missing,
        *(
            report.card(found.kind, found.title, found.words, found.remedy, badge=BADGES[found.kind])
            for found in remarks(grounds)
        ),
    ]
    more = [report.folded(f"{len(said) - MAX_REMARKS} more", *said[MAX_REMARKS:])] if len(said) > MAX_REMARKS else []
    lead = Html(f'<p class="headline">{report.escape(headline(grounds))}</p>')
    return [
        report.header(title, str(run_dir.path.absolute()), numbers),
        report.section("Verdict", lead, *said[:MAX_REMARKS], *more),
    ]


def _data(run: RunReader, run_dir: RunDir) -> Html:
    splits = run.statistics.get("splits", {})
    if not splits:
        return Html("")
    rows = [
        (name, int(found["num_images"]), Number(found.get("imbalance_ratio"), f"{found['imbalance_ratio']:,.1f} : 1"))
        for name, found in splits.items()
    ]
    root = report.facts([("images in", str(run.statistics.get("root", "")))])
    listed = report.table(("split", "images", "most to fewest of a class"), rows)
    plots = {"class_distribution": "images of each class", "image_sizes": "width and height of the images"}
    return report.section("Data", root, listed, *_images(run_dir.dataset, plots))


def _training(run: RunReader, run_dir: RunDir) -> Html:
    plots = {"loss": "loss by epoch", "accuracy": "accuracy by epoch", "learning_rate": "learning rate by epoch"}
    start = [report.facts([("started from", run.start)])] if run.start else []
    pieces = [*start, *_images(run_dir.history_plots, plots)]
    return report.section("Training", *pieces) if pieces else Html("")


def _classes(grounds: Grounds, folder: Path) -> Html:
    measures, names = grounds.evaluation.measures, grounds.class_names
    # Those of which less is better stand last.
    metrics = sorted((metric for metric in all_metrics() if metric.on_page), key=lambda item: item.lower_is_better)
    by_class = [metric for metric in metrics if metric.name in measures.by_class]
    most: dict[int, str] = {}
    for item in grounds.confusions:
        most.setdefault(item.true, f"{shown(names[item.predicted])} ({item.count:,})")
    rows: list[tuple[Cell, ...]] = []
    for number, name in enumerate(names):
        rows.append(
            (
                shown(name),
                int(measures.support[number]),
                Number(grounds.train_counts.get(name), f"{grounds.train_counts.get(name, 0):,}"),
                *(_score(metric, measures.by_class[metric.name][number]) for metric in by_class),
                most.get(number, ""),
            )
        )
    columns = (
        "class", f"{grounds.evaluation.split} images", "training images", *(metric.title for metric in by_class),
        "most often confused with",
    )  # fmt: skip
    titles = {name: title for metric in metrics for name, title in metric.titles.items()}
    titles |= {name: title for metric in metrics for name, title in metric.calibrated_titles.items()}
    overall = report.table(
        ("metric", "value", "from", "to", "interval"),
        [
            (words, Number(found.value), Number(found.low), Number(found.high), found.method)
            for key, words in titles.items()
            if (found := measures.overall.get(key)) is not None
        ],
    )
    plots = {
        "class_scores": "recall and precision of each class, the worst first",
        "roc_curves": "ROC curves",
        "precision_recall_curves": "precision-recall curves",
    }
    return report.section(
        "Classes", report.table(columns, rows), report.folded("all metrics, over all classes", overall),
        *_slices(grounds.evaluation), *_images(folder, plots),
    )  # fmt: skip


def _score(metric: Metric, found: Estimate) -> Number:
    """Show a metric of a class, in per cent where it is a share of images."""
    return Number(found.value, percent(found) if metric.interval == "exact" else "")


def _slices(evaluation: Evaluation) -> list[Html]:
    rows = [
        (item.by, item.value, item.num_images, Number(item.accuracy.value, percent(item.accuracy)))
        for item in evaluation.slices
    ]
    columns = ("sliced by", "slice", "images", "accuracy")
    return [report.folded("metrics of slices", report.table(columns, rows), unfolded=True)] if rows else []


def _confusions(predictions: SortedPredictions, table: SplitTable, class_names: Sequence[str], folder: Path) -> Html:
    pieces = confusion_pieces(predictions, table, class_names)
    images = {"embedding": "map of the images by what the network sees in them"}
    if len(class_names) > MAX_MATRIX:
        images = {"confusion_matrix": "confusion matrix, coloured by the share of the true class", **images}
    return report.section("Confusion matrix", *pieces, *_images(folder, images))


def _mistakes(predictions: SortedPredictions, table: SplitTable, class_names: Sequence[str], folder: Path) -> Html:
    worst, unsure = predictions.worst(), predictions.unsure()
    pieces = []
    if len(worst):
        words = f"The {min(NUM_MISTAKES, len(worst))} of {len(worst):,} with the largest loss."
        pieces += [
            report.paragraph(words),
            report.thumbnails(pictures_of(worst[:NUM_MISTAKES], predictions, table, class_names)),
            *_images(folder, {"occlusion": "what the worst mistakes were decided by"}),
        ]
    else:
        pieces.append(report.paragraph("No prediction is wrong."))
    if len(unsure):
        gallery = report.thumbnails(pictures_of(unsure[:NUM_UNSURE], predictions, table, class_names))
        pieces.append(report.folded("correct, but unsure", gallery))
    return report.section("Worst mistakes", *pieces)


def _groups(evaluation: Evaluation) -> Html:
    """Say what the intervals of the page are by, where images are not independent."""
    if evaluation.measures.groups is None:
        return Html("")
    return report.paragraph(
        f"Metrics have {evaluation.intervals}: images of one group, such as the frames of a session, are alike, so "
        "that groups count as independent, and not their images."
    )


def _calibration(found: dict[str, Any], folder: Path) -> Html:
    temperature = found["temperature"]
    pairs = [
        ("temperature", _temperature_words(found)),
        ("error before", f"{found['ece_before']:.4f} (ECE)"),
        ("error after", f"{found['ece_after']:.4f} (ECE)" if temperature is not None else "not calibrated"),
        ("area under risk-coverage", f"{found['aurc']:.4f}"),
    ]
    rows = [
        (
            f"{'precision' if 'precision' in item else 'coverage'} {item.get('precision', item.get('coverage')):.0%}",
            Number(item["found_precision"], f"{item['found_precision'] or 0:.1%}" if item["num_accepted"] else "none"),
            Number(item["found_coverage"], f"{item['found_coverage']:.1%}"),
            int(item["num_accepted"]),
        )
        for item in found.get("rejecting", [])
    ]
    columns = ("asked for", "precision found", "coverage found", "images accepted")
    listed = [report.folded("what rejecting unsure predictions gives", report.table(columns, rows))] if rows else []
    if rows:
        listed.append(report.paragraph(rejecting_words(found)))
    sets = [
        (
            f"{item['coverage']:.0%}",
            Number(item["found_coverage"], f"{item['found_coverage']:.1%}"),
            Number(item["mean_size"], f"{item['mean_size']:.2f}"),
            Number(item["share_of_one_label"], f"{item['share_of_one_label']:.1%}"),
        )
        for item in found.get("label_sets", [])
    ]
    if sets:
        columns = ("coverage asked for", "coverage found", "labels on average", "sets of one label")
        listed.append(report.folded("label sets (predict label_set.coverage=…)", report.table(columns, sets)))
    plots = {
        "reliability": "share of correct predictions by confidence, and how often each confidence is given",
        "risk_coverage": "share of wrong predictions by how many are accepted",
    }
    return report.section("Confidence", report.facts(pairs), *listed, *_images(folder, plots))


def _temperature_words(found: dict[str, Any]) -> str:
    if found["temperature"] is None:
        return "not fitted"
    return f"1: {found['reason']}" if found.get("reason") else f"{found['temperature']:.3f}, fitted on validation"


def _exports(run: RunReader, run_dir: RunDir) -> Html:
    rows: list[tuple[Cell, ...]] = []
    for name, entry in run.info.get("files", {}).items():
        parity, gate = entry.get("parity") or {}, entry.get("gate") or {}
        path = run_dir.path / name
        agreement = parity.get("top1_agreement", gate.get("top1_agreement"))
        apart = parity.get("max_probability_difference", gate.get("max_probability_difference"))
        drop, latency = gate.get("accuracy_drop_points"), gate.get("latency", {}).get("median_ms")
        rows.append(
            (
                name,
                entry["quantization"],
                Number(path.stat().st_size / 2**20 if path.is_file() else None, _mebibytes(path)),
                Number(agreement, f"{agreement or 0:.1%}"),
                Number(apart, f"{apart or 0:.1e}"),
                Number(drop, f"{drop or 0:+.2f}"),
                Number(latency, f"{latency or 0:.2f}"),
            )
        )
    if not rows:
        return Html("")
    columns = ("file", "quantised", "MiB", "same predictions", "largest difference", "points lost", "ms an image")
    words = (
        "Each file was compared with PyTorch on validation images, a quantised one with the file that it was made of. "
        "The time is for one image on the machine that exported."
    )
    return report.section("Exports", report.paragraph(words), report.table(columns, rows))


def _mebibytes(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f}" if path.is_file() else ""


def _how(run: RunReader) -> Html:
    pieces = []
    if run.config:
        pieces += [
            report.paragraph("The same configuration, data and versions train it again:"),
            report.code(train_command(run.config)),
        ]
    if run.config:
        text = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
        pieces.append(report.folded("configuration", report.code(text)))
    if run.versions:
        pieces.append(report.folded("versions", report.facts(run.versions.items())))
    return report.section("How to reproduce", *pieces) if pieces else Html("")


def _images(folder: Path, names: dict[str, str]) -> list[Html]:
    """Return the PNG files that are there; one that could not be painted was reported."""
    uris: Iterable[tuple[str, str]] = [
        (report.plot_uri(folder / f"{name}.png"), words)
        for name, words in names.items()
        if (folder / f"{name}.png").exists()
    ]
    return [report.plots(uris)] if uris else []
