"""Names of networks as people know them: ours, torchvision's, timm's and the Hugging Face hub's.

The lists of the two libraries are read from their source, where each network stands below the decorator that registers
it: importing them takes seconds, and a misspelt name should be answered at once.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from difflib import SequenceMatcher
from pathlib import Path

from classifier_training.core.errors import nearest
from classifier_training.core.register import entries

DECORATED = {
    "torchvision": re.compile(
        r"^@register_model\((?:name=\"(\w+)\")?\)\n(?:@.*\n(?:[ )].*\n|\)\n)*)*def (\w+)", re.MULTILINE
    ),
    "timm": re.compile(r"^@register_model\n(?:@.*\n)*()def (\w+)", re.MULTILINE),
}
"""What registers a network in the source of each library: its name where it is not the function's, and the function."""

FILES = (".pt", ".pth", ".ckpt", ".onnx", ".safetensors", ".yaml", ".yml", ".json")
"""Endings of files, which name no network."""

HUB_PREFIXES = ("hf_hub:timm/", "hf-hub:timm/", "timm/")


def named_network(typed: str) -> dict[str, str] | None:
    """Return the settings that choose a network by a name that people know it by.

    A model of ours comes first, then torchvision's, all of which have published weights, then timm's. Of a name with a
    dot the part behind it names weights: torchvision's are in capital letters. A name with a slash is one of the
    Hugging Face hub, unless it is timm's.

    Args:
        typed: such as convnext_tiny, ResNet50, vit_base_patch16_224.augreg_in21k or google/vit-base-patch16-224.

    Returns:
        The model, and the name for one that is found by name; None where nobody has such a network.
    """
    for prefix in HUB_PREFIXES:
        if typed.startswith(prefix):
            return {"model": "timm", "model.name": typed.removeprefix(prefix)}
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", typed) and Path(typed).suffix not in FILES:
        return {"model": "huggingface", "model.name": typed}
    own = {_plain(known.name): known.name for known in entries("model")}
    if _plain(typed) in own:
        return {"model": own[_plain(typed)]}
    if Path(typed).suffix in FILES:
        return None
    architecture, _, tag = typed.partition(".")
    for library in ("torchvision", "timm"):
        name = {_plain(name): name for name in library_names(library)}.get(_plain(architecture))
        if name is not None and not (tag and tag.isupper() != (library == "torchvision")):
            return {"model": library, "model.name": f"{name}.{tag}" if tag else name}
    return None


def nearest_networks(typed: str) -> list[str]:
    """List the names that are most similar to a misspelt one, with a little in favour of ours."""
    own = {known.name for known in entries("model")}
    found = [*nearest(typed, own), *nearest(typed, [*library_names("torchvision"), *library_names("timm")])]

    def likeness(name: str) -> float:
        return SequenceMatcher(None, typed.casefold(), name.casefold()).ratio() + 0.1 * (name in own)

    return sorted(dict.fromkeys(found), key=likeness, reverse=True)


@functools.cache
def library_names(library: str) -> tuple[str, ...]:
    """List the networks of torchvision or timm, sorted.

    Args:
        library: torchvision or timm; where its source is not there to read, it is imported.
    """
    spec = importlib.util.find_spec(library)
    folders = [Path(folder, "models") for folder in (spec.submodule_search_locations or ())] if spec else []
    texts = [file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.glob("*.py"))]
    found = {name or function for text in texts for name, function in DECORATED[library].findall(text)}
    return tuple(sorted(found or _imported_names(library)))


def _imported_names(library: str) -> list[str]:
    if library == "torchvision":
        from classifier_training.models.torchvision_models import torchvision_names

        return torchvision_names()
    from classifier_training.models.timm_models import timm_names

    return timm_names(tags=False)


def _plain(name: str) -> str:
    """Return a name without what people write in different ways; between digits, as in 1_6gf, an underscore counts."""
    return re.sub(r"(?<!\d)[-_]|[-_](?!\d)", "", name).casefold()
