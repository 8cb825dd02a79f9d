"""Handing a model on: a repository of the Hugging Face Hub, and a page that classifies images in the browser.

Neither needs torch, and the page needs no network.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import atomic_path, write_json
from classifier_training.core.runtime import cache_dir, command, setting
from classifier_training.models.prune import is_pruned

if TYPE_CHECKING:
    from torch import nn

    from classifier_training.core.run_dir import RunDir
    from classifier_training.export.bundle import BundleInfo

ALIKE = ("resnet18", "resnet34", "resnet50", "resnet101")
"""Networks of torchvision that timm has under the same name, with the same layers, names and predictions."""


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
    # timm would show it the channels in another order.
    if described is None or info.preprocessing.channel_order == "bgr":
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
                "crop_mode": {"crop": "center", "letterbox": "border"}.get(info.preprocessing.policy, "squash"),
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
    if is_pruned(info.architecture):
        return None
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
            "user/name, or organization/name",
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


ORT_PACKAGE, ORT_VERSION = "onnxruntime-web", "1.30.0"
ORT_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs of the package: its JavaScript, and ONNX Runtime itself."""

CLIENT_MODULES = Path(__file__).parents[3] / "clients" / "js" / "node_modules"
"""Where `npm install` in a checkout of the project leaves its packages."""

DOWNLOAD_TIMEOUT_SECONDS = 300


def write_demo(run_dir: RunDir, *, ort: Path | None = None) -> None:
    """Write demo.html and demo/, which with pipeline.onnx are all that a web server needs.

    Args:
        run_dir: of a run that has its pipeline.onnx.
        ort: folder with the files of onnxruntime-web; None takes those of clients/js, or asks npm for them.

    Raises:
        UserError: when there is no pipeline.onnx, or onnxruntime-web cannot be had.
    """
    if not run_dir.pipeline.is_file():
        raise UserError(
            f"{run_dir.pipeline}: is missing",
            "the run's pipeline, which the page runs",
            f"write it first: {command('export')} {setting('run', run_dir.path)}",
        )
    assets = run_dir.demo.with_suffix("")
    runtime = find_ort(ort)
    for name in ORT_FILES:
        _copy(runtime / name, assets / name)
    page = files("classifier_training.export") / "page"
    for name, target in (("classifier.js", assets / "classifier.js"), ("demo.html", run_dir.demo)):
        with as_file(page / name) as source:
            _copy(source, target)


def find_ort(folder: Path | None = None) -> Path:
    """Return a folder with onnxruntime-web's files; `folder` itself when one is given.

    Raises:
        UserError: when they are not there, or cannot be downloaded.
    """
    if folder is not None:
        if missing := [name for name in ORT_FILES if not (folder / name).is_file()]:
            raise UserError(
                f"{folder}: no {missing[0]}",
                f"the folder of {ORT_PACKAGE} that holds {' and '.join(ORT_FILES)}",
                f"npm install {ORT_PACKAGE}@{ORT_VERSION}, then ort=node_modules/{ORT_PACKAGE}/dist",
            )
        return folder
    kept = cache_dir() / f"{ORT_PACKAGE}-{ORT_VERSION}"
    for candidate in (CLIENT_MODULES / ORT_PACKAGE / "dist", kept):
        if all((candidate / name).is_file() for name in ORT_FILES):
            return candidate
    _download(kept)
    return kept


def _download(folder: Path) -> None:
    """Have npm fetch the package, and keep the few files that are needed."""
    npm = shutil.which("npm")
    if npm is None:
        raise _unavailable("npm is not installed")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            subprocess.run(  # noqa: S603 - no word of it comes from outside
                [npm, "pack", f"{ORT_PACKAGE}@{ORT_VERSION}", "--pack-destination", temporary],
                cwd=temporary, check=True, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_SECONDS,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise _unavailable(f"npm failed ({_last_line(error.stderr)})") from error
        except subprocess.TimeoutExpired as error:
            raise _unavailable(f"npm took over {DOWNLOAD_TIMEOUT_SECONDS} s") from error
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as packed:
            for name in ORT_FILES:
                try:
                    content = packed.extractfile(f"package/dist/{name}")
                except KeyError as error:
                    raise _unavailable(f"{name} is not in its package, or a link in it") from error
                if content is None:
                    raise _unavailable(f"{name} is no file in its package")
                with content, atomic_path(folder / name) as target, target.open("wb") as file:
                    shutil.copyfileobj(content, file)


def _unavailable(reason: str) -> UserError:
    return UserError(
        f"the demo page needs {ORT_PACKAGE}: {reason}",
        f"{ORT_PACKAGE} {ORT_VERSION} in clients/js/node_modules, in the cache, or within npm's reach",
        f"where there is a network: npm install {ORT_PACKAGE}@{ORT_VERSION}; then ort=node_modules/{ORT_PACKAGE}/dist",
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "complete log" not in line]
    return lines[-1] if lines else "it says nothing"


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
