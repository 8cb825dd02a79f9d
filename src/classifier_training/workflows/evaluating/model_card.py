"""MODEL_CARD.md: what a model is and how good, in the form of the Hugging Face Hub."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from classifier_training.core.errors import shown
from classifier_training.core.metrics import all_metrics
from classifier_training.core.run_dir import write_text
from classifier_training.core.run_reader import RunReader
from classifier_training.evaluation.guarantees import DELTA
from classifier_training.evaluation.verdict import images_of, percent
from classifier_training.workflows.evaluating.finished import train_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.core.run_dir import RunDir
    from classifier_training.evaluation.results import Evaluation

LIMITS = (
    "It predicts one of its classes for whatever image it is shown. Images of another kind than those that it was "
    "trained on get a prediction, too: use the reject option of `predict`. Nobody has looked at what its mistakes mean "
    "for the people concerned; whoever uses it has to."
)

MAX_CLASSES = 100
MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#|~$!&])")


def write_model_card(run_dir: RunDir, evaluation: Evaluation) -> None:
    """Write MODEL_CARD.md.

    Its own license is left out: it follows from the images too, which only their owner knows. That of the weights that
    it started from is named.

    Args:
        run_dir: the run.
        evaluation: of its held-out images.
    """
    run = RunReader(run_dir)
    front = yaml.safe_dump(_front_matter(run, run_dir, evaluation), sort_keys=False, allow_unicode=True)
    text = "\n".join(["---", front + "---", "", *_body(run, run_dir, evaluation), ""])
    write_text(run_dir.model_card, text.encode("utf-8", "replace").decode("utf-8"))


def _listed() -> dict[str, tuple[str, str]]:
    """The metrics of the card: the Hub's name, or ours where it has none, and words by column; the Hub's first."""
    found = {}
    for metric in sorted((metric for metric in all_metrics() if metric.on_card), key=lambda metric: not metric.hub):
        words = metric.short_title[0].upper() + metric.short_title[1:]
        found[metric.main_column] = (metric.hub or metric.main_column, words)
        for name in metric.calibrated_titles:
            found[name] = (name, f"{words} of the calibrated probabilities")
    return found


def _front_matter(run: RunReader, run_dir: RunDir, evaluation: Evaluation) -> dict[str, Any]:
    metrics = [
        {"type": kind, "name": words, "value": round(found.value, 6), "verified": False}
        for key, (kind, words) in _listed().items()
        if (found := evaluation.measures.overall.get(key)) is not None and np.isfinite(found.value)
    ]
    data = str(run.config.get("data", {}).get("type", "images"))
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": data, "name": data, "split": evaluation.split},
        "metrics": metrics,
    }
    return {
        "library_name": "timm" if run_dir.hub_config.exists() else "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "onnx", "safetensors", *([run.architecture] if run.architecture else [])],
        "metrics": [metric.hub for metric in all_metrics() if metric.hub],
        "model-index": [{"name": run_dir.path.absolute().name, "results": [result]}],
    }


def _body(run: RunReader, run_dir: RunDir, evaluation: Evaluation) -> list[str]:
    measures = evaluation.measures
    names: Sequence[str] = run.info.get("class_names", [])
    height, width = run.info.get("input_size", (0, 0))
    counts = ", ".join(f"{found['num_images']:,} {name}" for name, found in run.statistics.get("splits", {}).items())
    lines = [
        f"# {_plain(run.architecture or 'Image classifier')}",
        "",
        f"Tells {len(measures.support):,} classes apart"
        + (f", on images that it sees at {width} x {height} pixels." if width else "."),
        "",
        "## How good it is",
        "",
        f"On {measures.num_images:,} {evaluation.split} images, with {evaluation.intervals}:",
        "",
        "| metric | value |",
        "|---|---|",
        *(
            f"| {words} | {percent(measures.overall[key])} |"
            for key, (_, words) in _listed().items()
            if key in measures.overall
        ),
        "",
        *_calibration(run),
        *_selective(run),
    ]
    verdict = evaluation.verdict
    if verdict is not None and names:
        baseline = verdict.baseline
        lines += [
            f"Verdict: **{verdict.status_words}**: {_plain(verdict.words)}.",
            "",
            f"Targets: {_plain(verdict.target_words)}.",
            "",
            f"Always predicting {_plain(shown(names[baseline.label]))}: {100 * baseline.accuracy:.1f} % correct.",
            "",
        ]
        for words, checks in (
            ("Below the target", verdict.standing("missed", "recall")),
            (f"Inconclusive: too few {images_of(verdict.split)}", verdict.standing("open", "recall")),
        ):
            labels = [item.label for item in checks if item.label is not None]
            if labels:
                listed = ", ".join(_plain(shown(names[label])) for label in labels[:MAX_CLASSES])
                lines += [f"{words}: {listed}.", ""]
    lines += [
        "## What it is for, and what it is not",
        "",
        LIMITS,
        "",
        "## How to use it",
        "",
        "```bash",
        "classifier-training predict run=THIS_FOLDER source=image.jpg",
        "```",
        "",
    ]
    if run_dir.hub_config.exists():
        lines += [
            "```python",
            "import timm",
            'network = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()',
            "```",
            "",
        ]
    else:
        lines += ["The weights in model.safetensors are not of a network that timm builds by its name.", ""]
    if counts:
        lines += ["## Data", "", f"Images: {counts}.", ""]
    if names:
        listed = ", ".join(_plain(shown(name)) for name in names[:MAX_CLASSES])
        more = f", and {len(names) - MAX_CLASSES:,} more" if len(names) > MAX_CLASSES else ""
        lines += [f"Classes: {listed}{more}.", ""]
    if run.config:
        start = [f"It started from {_plain(run.start)}.", ""] if run.start else []
        lines += ["## Training", "", *start, "```bash", train_command(run.config), "```", ""]
    if run.versions:
        listed = ", ".join(f"{name} {version}" for name, version in run.versions.items() if name != "platform")
        lines += [f"Versions: {listed}.", ""]
    return lines


def _calibration(run: RunReader) -> list[str]:
    """Say whether the probabilities are calibrated."""
    found = run.info.get("calibration")
    if found is None:
        return ["The probabilities are not calibrated.", ""]
    if found.get("reason"):
        return [f"The probabilities are the network's own, without a temperature: {found['reason']}.", ""]
    words = (
        f"The probabilities are calibrated, with a temperature of {found['temperature']:.3f}, on "
        f"{found['num_images']:,} validation images: on images like those, and on average over them, a confidence is "
        "the share of correct predictions. It need not be for one class, nor for images of another kind."
    )
    return [words, ""]


def _selective(run: RunReader) -> list[str]:
    """Say what `predict` can guarantee, and how."""
    found = run.info.get("calibration") or {}
    lines = []
    if "guarantee" in found:
        lines.append(
            f"`predict reject.precision=P` accepts predictions of which at least the share P is correct, with a "
            f"confidence of {1 - DELTA:.0%} unless `reject.delta` says another: {found['guarantee']}."
        )
    if "label_sets" in found:
        lines.append(
            "`predict label_set.coverage=C` gives sets of labels that hold the true one with the chance C: "
            f"{found['label_sets']['method']}."
        )
    if not lines:
        return []
    return [" ".join([*lines, "Both are for images like the validation ones, which also chose the weights."]), ""]


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))
