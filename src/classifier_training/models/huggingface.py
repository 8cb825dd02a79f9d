"""Any image classifier of the Hugging Face hub, or of a folder in its format."""

from __future__ import annotations

import contextlib
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import AfterValidator, Field

from classifier_training.core.errors import UserError, enumerate_words, reason_of
from classifier_training.core.register import register
from classifier_training.core.settings import Pretrained, TypedPath, absolute
from classifier_training.core.types import BuiltModel, InputSpec, Weights
from classifier_training.models.head import class_layers, drop_before
from classifier_training.models.torchvision_models import IMAGENET
from classifier_training.models.weights import hub_access, unfetched, wants_published

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

log = logging.getLogger(__name__)

CACHE = "$HF_HOME/hub (~/.cache/huggingface unless set)"


def folder_or_name(name: str) -> str:
    """Return the absolute path of a folder, which resume needs, and a name of the hub unchanged."""
    return absolute(name) if Path(name).expanduser().is_dir() else name


@register(group="model", name="huggingface", extra="transformers")
def huggingface_model(
    num_classes: int,
    *,
    name: Annotated[TypedPath, AfterValidator(folder_or_name)],
    pretrained: Pretrained = "auto",
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None,
) -> BuiltModel:
    """Any image classifier of the Hugging Face hub, by its name there, or a folder in that format.

    No code of a network's repository is run, and weights are read only from safetensors.

    Args:
        name: repository such as google/vit-base-patch16-224-in21k, or a folder with a config.json.
        pretrained: start from the weights of that name, fetched the first time; auto: yes, unless init_from
            names others.
        dropout: share of features dropped before the last layer; the network's own unless given.

    Raises:
        UserError: when there is no such network, it is no image classifier, or its weights cannot be fetched.
    """
    import transformers

    from classifier_training.models.networks import HubClassifier

    folder = Path(name).is_dir()
    with _quiet(), nullcontext() if folder else hub_access() as no_connection:
        try:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
            spec = _read_input(name, config)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(name, no_connection or error) from error
        heads = class_layers(lambda number: _create(name, config, number))
        weights = None
        if wants_published(pretrained, None):
            model = _load(name, config, num_classes, heads, no_connection)
            source = f"folder {name}" if folder else "Hugging Face Hub"
            weights = Weights(Path(name).name if folder else name, source, _license(name))
        else:
            model = _create(name, config, num_classes)
    if dropout is not None:
        drop_before(model, heads, dropout)
    return BuiltModel(HubClassifier(model), spec, Path(name).name if folder else name, weights)


def _create(name: str, config: Any, num_classes: int) -> nn.Module:
    from transformers import AutoModelForImageClassification

    config.num_labels = num_classes
    try:
        model: nn.Module = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise _unreadable(name, error) from error
    return model


def _load(
    name: str, config: Any, num_classes: int, heads: tuple[str, ...], no_connection: Exception | None
) -> nn.Module:
    """Build a network with its trained weights; a head for other classes keeps its random weights."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageClassification

    config.num_labels = num_classes
    try:
        model, found = AutoModelForImageClassification.from_pretrained(
            name,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unfetched(
            f"model.name={name}: its weights",
            no_connection or error,
            cached_at=f"{CACHE}, or a folder with a model.safetensors; weights in a pickle are not read",
            takes_file=False,
        ) from error
    absent = [str(key) for key in found["missing_keys"]] + [str(key[0]) for key in found["mismatched_keys"]]
    strange = [key for key in absent if not key.startswith(tuple(f"{head}." for head in heads))]
    if strange:
        raise UserError(
            f"model.name={name}: {len(strange)} tensors are missing from its weights or do not fit its config.json "
            f"({enumerate_words(strange, limit=3)})",
            "weights of the network that config.json describes",
            "choose another network, or random weights: model.pretrained=false",
        )
    # Loaded networks are in evaluation mode, in which dropout is off and batch norm statistics do not change.
    return model.train()  # type: ignore[no-any-return]


def _read_input(name: str, config: Any) -> InputSpec:
    """Return the input of a network from the settings of its preprocessor; ImageNet's if it has none."""
    from transformers import ImageProcessingMixin

    size = getattr(config, "image_size", None)
    size = (size[0] if isinstance(size, (list, tuple)) else size) or IMAGENET.size
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        log.info("%s has no preprocessor_config.json: its pixels are normalized with ImageNet's mean and std", name)
        return InputSpec(size, IMAGENET.mean, IMAGENET.std)
    side = _side(settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")) or size
    # The network's input is (pixel * factor - offset - mean) / std; here pixels are scaled to 0..1 first.
    factor = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    offset = 1.0 if settings.get("rescale_offset") else 0.0
    normalizes = settings.get("do_normalize", True)
    mean = (settings.get("image_mean") or IMAGENET.mean) if normalizes else (0.0,) * 3
    std = (settings.get("image_std") or IMAGENET.std) if normalizes else (1.0,) * 3
    first, second, third = ((value + offset) / factor for value in mean)
    spread = tuple(value / factor for value in std)
    return InputSpec(side, (first, second, third), (spread[0], spread[1], spread[2]))


def _license(name: str) -> str | None:
    """Return the license in a network's model card; None if there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.repocard import metadata_load

    try:
        card = Path(name, "README.md") if Path(name).is_dir() else Path(hf_hub_download(name, "README.md"))
        stated = (metadata_load(card) or {}).get("license")
    except (OSError, ValueError, AttributeError, yaml.YAMLError, HfHubHTTPError):
        return None
    return stated if isinstance(stated, str) and stated.isprintable() else None


def _side(size: int | Mapping[str, int] | None) -> int | None:
    """Return a side in pixels from one of the formats of preprocessors."""
    if isinstance(size, int) or size is None:
        return size
    return size.get("height") or size.get("shortest_edge")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's messages and progress bars inside the block; errors still raise."""
    from transformers.utils import logging as notes

    level, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    try:
        yield
    finally:
        notes.set_verbosity(level)
        if bars:
            notes.enable_progress_bar()


def _unreadable(name: str, error: Exception) -> UserError:
    return UserError(
        f"model.name={name}: it cannot be loaded as an image classifier ({reason_of(error)})",
        f"a repository of the hub, or a folder with config.json, for image classification; offline, one in {CACHE}",
        "check the name and the connection; model=tf_efficientnet_lite0 needs none, its weights come with this package",
    )
