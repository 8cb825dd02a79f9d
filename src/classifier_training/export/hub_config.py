"""config.json: what timm needs to build a network around model.safetensors, as `save_pretrained` of the Hub has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classifier_training.core.run_dir import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from classifier_training.export.bundle import BundleInfo

ALIKE = ("resnet18", "resnet34", "resnet50", "resnet101")
"""Networks of torchvision that timm has under the same name, with the same layers, names and answers."""


def write_hub_config(path: Path, network: nn.Module, info: BundleInfo) -> bool:
    """Write config.json for `timm.create_model("local-dir:…")`, or take away that of another network.

    Args:
        path: of the file.
        network: whose weights lie beside it.
        info: what the bundle says.

    Returns:
        Whether timm builds the network by its name.
    """
    described = _describe(network, info)
    if described is None:
        path.unlink(missing_ok=True)
        return False
    height, width = info.preprocessing.size
    write_json(
        path,
        {
            "architecture": described.pop("architecture"),
            "num_classes": len(info.class_names),
            "num_features": described.pop("num_features"),
            "pretrained_cfg": {
                **described,
                "input_size": [3, height, width],
                "interpolation": {"area": "bilinear"}.get(info.preprocessing.kernel, info.preprocessing.kernel),
                "crop_pct": 1.0,
                "crop_mode": "squash" if info.preprocessing.policy == "squash" else "center",
                "mean": list(info.preprocessing.mean),
                "std": list(info.preprocessing.std),
                "num_classes": len(info.class_names),
                "label_names": list(info.class_names),
            },
        },
    )
    return True


def _describe(network: nn.Module, info: BundleInfo) -> dict[str, Any] | None:
    """Return what only the network knows; None where timm would build another one, or none."""
    module = type(network).__module__
    if module.startswith("timm."):
        known: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
        return {
            "architecture": known["architecture"],
            "num_features": network.num_features,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
            "fixed_input_size": bool(known.get("fixed_input_size", False)),
        }
    if module == "torchvision.models.resnet" and info.architecture in ALIKE:
        features = getattr(network.fc, "in_features", None)
        if features is None:
            # A dropout before the last layer has moved its weights to another name.
            return None
        return {
            "architecture": info.architecture,
            "num_features": features,
            "first_conv": "conv1",
            "classifier": "fc",
            "fixed_input_size": False,
        }
    return None
