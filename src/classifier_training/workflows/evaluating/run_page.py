"""The page of an evaluation: report.html, one file to open, to send and to keep."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from classifier_training.core.errors import plural, shown
from classifier_training.core.metrics import all_metrics
from classifier_training.core.run_reader import RunReader, read_values
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import PROBE_EPOCH, epoch_name
from classifier_training.evaluation import report
from classifier_training.evaluation.advice import SURE, Grounds, headline, remarks
from classifier_training.evaluation.intervals import Estimate
from classifier_training.evaluation.learning_curve import forecast_words
from classifier_training.evaluation.mistakes import (
    MAX_MATRIX,
    SortedPredictions,
    confusion_pieces,
    pictures_of,
)
from classifier_training.evaluation.report import Cell, Html, Number
from classifier_training.evaluation.selective import rejecting_words
from classifier_training.evaluation.training_facts import Training
from classifier_training.evaluation.verdict import images_of, more_words, named, per_cent, percent
from classifier_training.workflows.evaluating.corrections_effect import corrections_section
from classifier_training.workflows.evaluating.finished import train_command
from classifier_training.workflows.evaluating.samples import train_counts
from classifier_training.workflows.evaluating.scores import at_temperature
from classifier_training.workflows.evaluating.trained_again import again_section

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from classifier_training.core.metrics import Metric
    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.advice import Remark
    from classifier_training.evaluation.results import Evaluation
    from classifier_training.evaluation.verdict import Check, Verdict

EXPORTS, REPRODUCE = "Exports", "How to reproduce"
NUM_MISTAKES, NUM_UNSURE = 36, 12
MAX_STEPS = 6
"""Next steps that are seen at once; the others are folded."""

BADGES = {"error": "fix", "warning": "warning", "note": "info", "good": "good"}
STATUS_KINDS = {"ready": "good", "not ready": "error", "too few test images": "warning"}
STANDINGS = {"reached": "✓\u00a0reached", "missed": "✗\u00a0missed", "open": "?\u00a0inconclusive"}


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
    ended: str = "",
    more: Sequence[Html] = (),
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
        ended: what ended training; where it is empty, what result.json says of it.
        more: sections to stand before that on the data.
    """
    run = RunReader(run_dir)
    training = _training_facts(run, ended or str(run.result.get("ended", "")))
    result = result if temperature is None else at_temperature(result, temperature)
    predictions = SortedPredictions(result, len(class_names))
    calibration = read_values(folder / "calibration.json")
    worst = predictions.worst()
    grounds = Grounds(
        evaluation=evaluation,
        class_names=class_names,
        counts=predictions.counts,
        train_counts=train_counts(run_dir),
        calibration=calibration,
        num_sure_mistakes=int((predictions.confidences[worst] >= SURE).sum()),
        data_checks=tuple(run.statistics.get("checks", ())),
        training=training,
        learning_curve=_learning_curve(folder),
        run=setting("run", run_dir.path),
        data=setting("data.root", run.statistics.get("root", "…")),
    )
    details = Path(os.path.relpath(folder, path.parent), "classification_report.json").as_posix()
    title = f"{run.architecture or 'Model'} on {evaluation.split} images"
    body = [
        *_top(title, run_dir, grounds, details, _missing(run_dir, run.info.get("withheld", {}), failures)),
        *more,
        _data(run, run_dir),
        *([again_section(run_dir)] if folder == run_dir.evaluation else []),
        corrections_section(run_dir, folder),
        _training(run, run_dir, training),
        _classes(grounds, folder, details),
        _confusions(predictions, table, class_names, folder),
        _mistakes(predictions, table, class_names, folder),
        _calibration(calibration, folder),
        _groups(grounds.evaluation),
        _exports(run, run_dir),
        _how(run),
        report.footer(
            "95 % intervals where metrics have them. A target is reached when the interval lies above it, missed when "
            f"it lies below, else inconclusive. Targets: {grounds.verdict.target_words}. All metrics: "
            f"classification_report.json, predictions.csv and errors.csv in {folder.name}/."
        ),
    ]  # fmt: skip
    report.write_page(path, title=title, body=[piece for piece in body if piece])


def renew_exports(run_dir: RunDir) -> bool:
    """Write the table of exported files anew into a run's page; the rest stays. Returns whether there is a page."""
    exports = _exports(RunReader(run_dir), run_dir)
    return report.replace_section(run_dir.report, EXPORTS, exports, before=REPRODUCE)


def _missing(run_dir: RunDir, withheld: Mapping[str, str], failures: Mapping[str, str]) -> list[Html]:
    """Return a card for each file that was withheld, and for whatever else failed after training."""
    export = f"{command('export')} {setting('run', run_dir.path)}   writes and checks it again"
    resume = f"{command('train')} {setting('resume', run_dir.path)}   does again what follows training"
    cards = [(f"{name} is withheld", reason, export) for name, reason in withheld.items()]
    cards += [(f"failed: {name}", reason, resume) for name, reason in failures.items() if name not in withheld]
    return [report.card("error", title, reason, remedy, badge=BADGES["error"]) for title, reason, remedy in cards]


def _top(title: str, run_dir: RunDir, grounds: Grounds, details: str, missing: Sequence[Html]) -> list[Html]:
    measures, verdict = grounds.evaluation.measures, grounds.verdict
    baseline = named(grounds.class_names[verdict.baseline.label])
    numbers = [
        (percent(measures.overall["acc_top1"]), "correct (top-1 accuracy)"),
        (percent(measures.overall["balanced_accuracy"]), "mean recall (balanced accuracy)"),
        (f"{100 * verdict.baseline.accuracy:.1f} %", f"baseline: always {baseline}"),
        (f"{measures.num_images:,}", f"{grounds.evaluation.split} images of {len(grounds.class_names):,} classes"),
    ]
    found = remarks(grounds)
    steps = [_step(item) for item in found if item.remedy]
    others = [report.card(item.kind, item.title, item.words, "") for item in found if not item.remedy]
    folded = steps[MAX_STEPS:]
    more = [report.folded(plural(len(folded), "more step"), report.steps(folded, first=MAX_STEPS + 1))]
    return [
        report.header(title, str(run_dir.path.absolute()), []),
        report.banner(STATUS_KINDS[verdict.status], verdict.status_words, _sentence(verdict.words), headline(grounds)),
        report.numbers(numbers),
        *missing,
        *([report.section("Targets", *_targets(verdict, details))] if verdict.checks else []),
        *(
            [
                report.section(
                    "What to do next",
                    report.paragraph(
                        f"The largest gain first, counted in {images_of(verdict.split)}; steps of unknown gain come "
                        "last."
                    ),
                    report.steps(steps[:MAX_STEPS]),
                    *(more if folded else []),
                )
            ]
            if steps
            else []
        ),
        *([report.section("What else was found", *others)] if others else []),
    ]


def _sentence(words: str) -> str:
    """Begin with a capital letter, unless a class name begins it."""
    return f"{words[:1].upper()}{words[1:]}."


def _step(item: Remark) -> Html:
    return report.card(item.kind, item.title, item.words, item.remedy, badge=item.gain_words or BADGES[item.kind])


def _targets(verdict: Verdict, details: str) -> list[Html]:
    rows: list[tuple[Cell, ...]] = [
        (
            _check_name(item, verdict),
            STANDINGS[item.standing],
            Number(item.target, per_cent(item.target)),
            Number(item.estimate.value, percent(item.estimate)),
            item.num_images,
            more_words(item, verdict.split) if item.standing == "open" else "",
        )
        for item in verdict.checks
    ]
    columns = ("metric", "target is", "target", "found", "images", "to decide")
    return [report.paragraph(f"{_sentence(verdict.target_words)}"), report.table(columns, rows, file=details)]


def _check_name(item: Check, verdict: Verdict) -> str:
    if item.metric == "baseline":
        return "better than the baseline"
    name = item.metric.replace("_", " ")
    return name if item.label is None else f"{name} of {shown(verdict.class_names[item.label])}"


def _training_facts(run: RunReader, ended: str) -> Training:
    """Gather what the run folder says about training; of a lone file nothing."""
    sizes = run.statistics.get("image_size") or {}
    sides = [float(sizes[side]["median"]) for side in ("width", "height") if sizes.get(side)]
    info = run.info.get("training_info", {})
    best, rate = info.get("best_metric") or {}, (run.config.get("optimizer") or {}).get("lr")
    return Training(
        epochs=run.epochs,
        monitor=str(run.config.get("monitor", "")),
        probe_score=best.get("value") if info.get("epoch") == PROBE_EPOCH else None,
        learning_rate=rate if isinstance(rate, float) else None,
        is_cut="max_time" in ended,
        ended=ended,
        input_side=min(run.info.get("input_size") or [0]),
        image_side=int(min(sides, default=0)),
    )


def _learning_curve(folder: Path) -> Sequence[Mapping[str, Any]]:
    """Read how many training images each class needs, where that was estimated."""
    try:
        found = json.loads((folder / "learning_curve.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else ()


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


def _training(run: RunReader, run_dir: RunDir, training: Training) -> Html:
    plots = {"loss": "loss by epoch", "accuracy": "accuracy by epoch", "learning_rate": "learning rate by epoch"}
    info = run.info.get("training_info", {})
    kept = epoch_name(int(info["epoch"]), float(info.get("share", 1.0))) if "epoch" in info else ""
    pairs = [("started from", run.start), ("ended because", training.ended), ("weights of", kept)]
    known = [(name, words) for name, words in pairs if words]
    pieces = [*([report.facts(known)] if known else []), *_images(run_dir.history_plots, plots)]
    return report.section("Training", *pieces) if pieces else Html("")


def _classes(grounds: Grounds, folder: Path, details: str) -> Html:
    measures, names = grounds.evaluation.measures, grounds.class_names
    # Those of which less is better stand last.
    metrics = sorted((metric for metric in all_metrics() if metric.on_page), key=lambda item: item.lower_is_better)
    by_class = [metric for metric in metrics if metric.name in measures.by_class]
    mistakes = grounds.counts.copy()
    np.fill_diagonal(mistakes, 0)
    most = [
        f"{shown(names[other])} ({row[other]:,})" if row[other] else ""
        for row, other in zip(mistakes, mistakes.argmax(axis=1), strict=True)
    ]
    rows: list[tuple[Cell, ...]] = []
    numbers = list(range(len(names)))
    if len(names) > report.MAX_ROWS:
        # The worst are those that are shown.
        numbers.sort(key=lambda number: np.nan_to_num(measures.by_class["recall"][number].value, nan=math.inf))
    for number in numbers:
        name = names[number]
        rows.append(
            (
                shown(name),
                int(measures.support[number]),
                Number(grounds.train_counts.get(name), f"{grounds.train_counts.get(name, 0):,}"),
                *(_score(metric, measures.by_class[metric.name][number]) for metric in by_class),
                most[number],
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
        "learning_curve": "forecast of the recall with more training images",
        "roc_curves": "ROC curves",
        "precision_recall_curves": "precision-recall curves",
    }
    return report.section(
        "Classes", report.table(columns, rows, file=details), *_forecast(grounds),
        report.folded("all metrics, over all classes", overall),
        *_slices(grounds.evaluation), *_images(folder, plots),
    )  # fmt: skip


def _forecast(grounds: Grounds) -> list[Html]:
    """List how many training images the classes need by their learning curves."""
    rows: list[tuple[Cell, ...]] = []
    for row in grounds.learning_curve:
        wanted, name = row.get("images_for_target"), str(row.get("label", ""))
        now, low, high = (math.nan if row.get(key) is None else float(row[key]) for key in ("now", "low", "high"))
        recall = Estimate(now, low, high)
        words = forecast_words(row, name) or str(row.get("reason") or "")
        rows.append(
            (
                shown(name),
                Number(now, percent(recall)),
                Number(row.get("target"), per_cent(float(row["target"]))),
                int(row["images_now"]),
                Number(wanted, "" if wanted is None else f"{wanted:,}"),
                words if wanted is None or wanted > row["images_now"] else "enough",
            )
        )
    columns = ("class", "recall now", "target", "training images", "for the target", "to collect")
    words = "Training images for the target recall, extrapolated from a learning curve; with 90 % intervals."
    return [report.paragraph(words), report.table(columns, rows)] if rows else []


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
    columns = ("file", "quantized", "MiB", "same predictions", "largest difference", "points lost", "ms an image")
    words = (
        "Each file was compared with PyTorch on validation images, a quantized one with the file that it was made of. "
        "The time is for one image on the machine that exported."
    )
    return report.section(EXPORTS, report.paragraph(words), report.table(columns, rows))


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
    return report.section(REPRODUCE, *pieces) if pieces else Html("")


def _images(folder: Path, names: dict[str, str]) -> list[Html]:
    """Return the PNG files that are there; one that could not be painted was reported."""
    uris: Iterable[tuple[str, str]] = [
        (report.plot_uri(folder / f"{name}.png"), words)
        for name, words in names.items()
        if (folder / f"{name}.png").exists()
    ]
    return [report.plots(uris)] if uris else []
