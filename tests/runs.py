"""Run folders without training: the small files that a run leaves, for the tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

PARITY = {"reference": "PyTorch", "top1_agreement": 1.0, "num_images": 4, "max_probability_difference": 1e-7}


def make_run(
    root: Path,
    at: str,
    *,
    score: float = 0.5,
    model: str = "resnet18",
    data: str = "/data/animals",
    name: str | None = None,
    category: str | None = None,
    finished: bool = True,
    class_names: tuple[str, ...] = ("cat", "dog"),
    split: str = "test",
    parity: dict[str, Any] | None = PARITY,
    verdict: dict[str, Any] | None = None,
) -> Path:
    """Write the folder of a run that began at a day and time, as in 2026-01-02/10-00-00; returns it."""
    folder = root.joinpath(*(part for part in (category, name) if part), at)
    (folder / "evaluation").mkdir(parents=True)
    config = {"model": {"type": model}, "data": {"root": data}, "seed": 1, "name": name, "category": category}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "train.log").write_text("epoch 0\n")
    if not finished:
        return folder
    metrics = {
        "loss": 1 - score,
        "acc_top1": score,
        "balanced_accuracy": score,
        "acc_class_cat": score,
        "f1_class_cat": score,
    }
    result = {"split": split, "best_epoch": 1, "metrics": metrics}
    info = {
        "class_names": list(class_names),
        "model_architecture": model,
        "training_info": {"best_metric": {"name": "val/balanced_accuracy", "value": score}, "config": config},
        "files": {"model.onnx": {"format": "onnx", "quantization": "none", "sha256": "", "parity": parity}},
    }
    (folder / "model.onnx").write_bytes(b"x" * 1000)
    (folder / "labels_mapping.json").write_text("{}")
    (folder / "metrics.csv").write_text("epoch,epoch_seconds\n0,1.5\n1,2.5\n")
    (folder / "model_info.json").write_text(json.dumps(info))
    if verdict is not None:
        result["verdict"] = verdict
    report = {"split": result["split"], "metrics": {key: {"value": value} for key, value in metrics.items()}}
    (folder / "evaluation/classification_report.json").write_text(json.dumps(report))
    (folder / "result.json").write_text(json.dumps(result))
    return folder
