"""A run's model as a repository of the Hugging Face Hub. Needs no torch."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import write_json

if TYPE_CHECKING:
    from torch import nn

    from classifier_training.core.run_dir import RunDir
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


REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

PUSHED = ("*.onnx", "*.safetensors", "config.json", "labels_mapping.json", "model_info.json")
"""What is pushed besides the card. No images, nor pages that show some: their owner may not want them shown."""

CARD_ON_HUB = "README.md"


def check_repository(repository: str) -> None:
    """Make sure, before any work, that a repository is named as the Hub names them.

    Raises:
        UserError: when it is not.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UserError(
            f"push_to_hub={repository}: no name of a repository",
            "user/name, or organisation/name",
            "push_to_hub=me/model",
        )


def push_to_hub(run_dir: RunDir, repository: str) -> str:
    """Upload what the model needs to be used, with MODEL_CARD.md as its page; a new repository is private.

    The token is that of `hf auth login` or HF_TOKEN; it is never asked for, nor written anywhere.

    Args:
        run_dir: the folder of the model.
        repository: user/name.

    Returns:
        The address of the commit.

    Raises:
        UserError: when the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    check_repository(repository)
    api = HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for pattern in PUSHED:
            for file in run_dir.path.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        if run_dir.model_card.exists():
            shutil.copyfile(run_dir.model_card, folder / CARD_ON_HUB)
        try:
            api.create_repo(repository, private=True, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload a trained classifier"
            )
        except Exception as error:  # the client's HTTP library, and so its errors, have changed before
            raise UserError(
                f"push_to_hub={repository}: {str(error).strip().partition(chr(10))[0] or type(error).__name__}",
                "the Hub within reach, and a token that may write there",
                "log in with `hf auth login`, or set HF_TOKEN; the files themselves lie in " + str(run_dir.path),
            ) from error
    return str(commit.commit_url)
