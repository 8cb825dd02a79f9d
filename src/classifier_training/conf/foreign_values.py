"""What a value of another program means: `device=0,1`, `model=convnext_tiny`, `imgsz=[480,640]`, `optimizer=AdamW`."""

from __future__ import annotations

import functools
import importlib.resources
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.conf.store import EXPERIMENT
from classifier_training.core.errors import UserError, nearest
from classifier_training.core.register import VERB, entries, entry
from classifier_training.models.names import named_network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifier_training.core.register import Entry

Given = list[tuple[str, str | None]]
"""Settings with their values; None where the value is still to come."""

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

WEIGHT_FILES = (".pt", ".pth", ".bin", ".h5", ".keras", ".pkl")

OF_DETECTORS = re.compile(r"yolo[\w-]*(\.(pt|yaml|onnx))?")

SIDES = re.compile(r"[\d\s,x]+(px)?|\[[\d\s,x]+\]|\([\d\s,x]+\)")
"""Sides of an image: 64x64, [480, 640] or (3, 224, 224)."""

LEFT_OUT = "leave it out"


class ForeignWordError(UserError):
    """A word of another program has no setting of the same meaning.

    Args:
        verb: that it was typed after.
        key: as typed, without dashes.
        value: as typed.
        why: what is expected.
        instead: the words to type in its place.
        before: what stands before the command, such as VARIABLE=1.
    """

    def __init__(
        self, verb: Entry, key: str, value: str | None, why: str, instead: Sequence[str] = (), *, before: str = ""
    ) -> None:
        came = key if value is None else f"{key}={value}"
        lacks = "value" if is_own(verb, key.replace("-", "_")) else "setting"
        super().__init__(f"{came}: {verb.command} has no such {lacks}", why, shlex.join(instead) or LEFT_OUT)
        self.key = key
        self.value = value
        self.instead = tuple(instead)
        self.before = before


@functools.cache
def foreign_words() -> dict[str, Any]:
    """The tables of `foreign_words.yaml`."""
    text = importlib.resources.files(__package__).joinpath("foreign_words.yaml").read_text(encoding="utf-8")
    tables: dict[str, Any] = yaml.safe_load(text)
    return tables


def is_own(verb: Entry, name: str) -> bool:
    """Whether a verb has a setting or group of a name."""
    return name in verb.options or bool(verb.settings_at(name))


def read_value(verb: Entry, target: str, key: str, value: str) -> Given | None:
    """Return the settings that a value of other programs means; None for a value as it is here."""
    reading = READINGS.get(target)
    chosen = verb.settings_at("model")
    if target == "model" and not (chosen and chosen[0].choice):
        # A text, as in registry list.
        return None
    if reading is not None:
        return reading(verb, key, value)
    option = verb.options.get(target)
    if option is not None and option.choice is not None and not option.fixed:
        return _component(verb, target, key, value)
    return None


def _component(verb: Entry, group: str, key: str, value: str) -> Given | None:
    """A component by its name elsewhere: accepted where it is the same but for capitals and hyphens."""
    if is_offered(group, value):
        return None
    name = value.replace("-", "_").casefold()
    if is_offered(group, name):
        return [(group, name)]
    known = foreign_words()["names"].get(group, {}).get(name)
    if known is None:
        return None
    # Where there are several words, the first may leave the group out.
    words = (known if "=" in known.partition(" ")[0] else f"{group}={known}").split()
    raise ForeignWordError(verb, key, value, f"{' '.join(words)}, which comes nearest", words)


def is_run_to_come(name: str) -> bool:
    """Whether a name is that of a run to come and not, perhaps misspelt, of a file of settings."""
    folder = importlib.resources.files(__package__).joinpath(EXPERIMENT)
    known = [Path(file.name).stem for file in folder.iterdir()]
    known += [file.stem for file in Path("conf", EXPERIMENT).glob("*.yaml")]
    return name not in ("null", *known) and not nearest(name, known) and re.fullmatch(r"[\w.-]+", name) is not None


def is_offered(group: str, name: str) -> bool:
    """Whether a name can be chosen from a group: a component, a preset or a file of the user's."""
    presets = importlib.resources.files(__package__).joinpath(group, f"{name}.yaml")
    return re.fullmatch(r"[\w.-]{1,200}", name) is not None and (
        any(known.name == name for known in entries(group))
        or presets.is_file()
        or Path("conf", group, f"{name}.yaml").exists()
    )


def _model(verb: Entry, key: str, value: str) -> Given | None:
    if is_offered("model", value) or value.startswith(("[", "{", "$")) or "," in value or value in ("", "null"):
        return None
    if OF_DETECTORS.fullmatch(value):
        why = "a classification network; the default has its weights, and classifier-training models lists others"
        raise ForeignWordError(verb, key, value, why)
    if value.endswith((*WEIGHT_FILES, ".ckpt", ".safetensors")):
        if key.replace("-", "_") == "model_name":
            why = "name=, the folder of the run below outputs/; its files have names of their own"
            raise ForeignWordError(verb, key, value, why, [f"name={Path(value).stem}"])
        why = "model=, the name of the network, and model.weights=, a file with its tensors"
        raise ForeignWordError(verb, key, value, why, _weights(value))
    found = named_network(value)
    return list(found.items()) if found else _component(verb, "model", key, value)


def _data(verb: Entry, key: str, value: str) -> Given | None:
    settings = verb if verb.settings_of is None or "data" in verb.options else entry(VERB, verb.settings_of.verb)
    option = settings.options.get("data")
    if option is not None and option.fixed is not None and "source" in verb.options and not is_offered("data", value):
        return [("source", value)]
    if option is None or option.choice is None or option.fixed is not None:
        return None
    if "/" in value or value.startswith(("~", "[")) or os.path.lexists(value):
        return [("data.root", value)]
    if value.endswith((".yaml", ".yml")):
        why = "a folder with a subfolder for each class, or a table with the columns path and label"
        raise ForeignWordError(verb, key, value, why, ["data.root=FOLDER"])
    if is_offered("data", value):
        return None
    name = foreign_words()["data_sets"].get(value.replace("-", "_").casefold())
    return [("data", "torchvision"), ("data.name", name)] if name else _component(verb, "data", key, value)


def _root(_verb: Entry, _key: str, value: str) -> Given | None:
    # A framework that is replaced kept its data sets in this folder, and named them without it.
    raw = f"data/raw_data/{value}"
    return [("data.root", raw)] if not os.path.lexists(value) and os.path.isdir(raw) else None  # noqa: PTH112 - any text


def _device(verb: Entry, key: str, value: str) -> Given | None:
    numbers = re.findall(r"\d+", value)
    if value.casefold() in ("cpu", "cuda", "gpu", "mps", "auto"):
        return [("trainer.accelerator", value.casefold())]
    if not numbers or not re.fullmatch(r"(cuda:)?\[?\d+(\s*,\s*\d+)*\]?", value):
        return None
    several = [("trainer.num_devices", str(len(numbers)))] if len(numbers) > 1 else []
    chosen: Given = [("trainer.accelerator", "cuda"), *several]
    if sorted(map(int, numbers)) == [*range(len(numbers))]:
        return chosen
    before = f"CUDA_VISIBLE_DEVICES={','.join(numbers)}"
    why = f"the first devices that the program sees; {before} before the command hides the others"
    raise ForeignWordError(verb, key, value, why, [f"{name}={given}" for name, given in chosen], before=before)


def _side(verb: Entry, key: str, value: str) -> Given | None:
    numbers = re.findall(r"\d+", value)
    if key == "data.image_size" or value.isdecimal() or not numbers or not re.fullmatch(SIDES, value):
        return None
    sides = numbers[1:] if len(numbers) == 3 else numbers
    if len(set(sides)) == 1:
        return [("data.image_size", sides[0])]
    largest = max(sides, key=int)
    why = "one side in pixels: the network's input is square, and transforms.policy= says how images are fitted to it"
    raise ForeignWordError(verb, key, value, why, [f"data.image_size={largest}"])


def _batch(_verb: Entry, _key: str, value: str) -> Given | None:
    return [("data.batch_size", "auto")] if value == "-1" or re.fullmatch(r"0?\.\d+", value) else None


def _precision(_verb: Entry, _key: str, value: str) -> Given | None:
    known = {
        **dict.fromkeys((*TRUE, "amp"), "auto"),
        **dict.fromkeys((*FALSE, "fp32", "float32", "32_true", "full"), "32"),
        **dict.fromkeys(("fp16", "float16", "16", "half"), "16-mixed"),
        **dict.fromkeys(("bf16", "bfloat16"), "bf16-mixed"),
    }.get(value.casefold().replace("-", "_"))
    return [("trainer.precision", known)] if known else None


def _monitor(verb: Entry, key: str, value: str) -> Given | None:
    plain = value.casefold().removeprefix("val/")
    known = next((name for name, words in foreign_words()["metrics"].items() if plain in words), None)
    if known is None or known == value:
        return None
    if key == "monitor":
        raise ForeignWordError(
            verb, key, value, "a metric of the validation split, as in metrics.csv", [f"monitor={known}"]
        )
    return [("monitor", known)]


def _resume(verb: Entry, key: str, value: str) -> Given | None:
    if value in ("True", "False") and not os.path.lexists(value):
        return [("resume", "latest")] if value == "True" else []
    path = Path(value)
    if path.parent.name == "checkpoints" and path.suffix == ".ckpt":
        return [("resume", str(path.parent.parent))]
    if path.suffix in (*WEIGHT_FILES, ".ckpt"):
        why = "a run folder of this program, or latest; a file of another one may go to model.weights=, with its model="
        raise ForeignWordError(verb, key, value, why, _weights(value))
    return None


def _weights(file: str) -> list[str]:
    """The words that start from a file of weights, with the network that its name tells."""
    stem = re.sub(r"[-.]", "_", Path(file).stem).casefold()
    names = {name: name for name in (known.name for known in entries("model")) if "_" in name or name[-1:].isdigit()}
    found = [name for name in (*names, *foreign_words()["names"]["model"]) if f"_{name}_" in f"_{stem}_"]
    word = max(found, key=len, default="")
    model = names.get(word, foreign_words()["names"]["model"].get(word))
    return [*([f"model={model}"] if model else []), f"model.weights={file}"]


def _run(verb: Entry, key: str, value: str) -> Given | None:
    if OF_DETECTORS.fullmatch(value) or value.endswith(WEIGHT_FILES):
        why = "a run folder, latest, best, a name or alias, or an .onnx file that this program wrote"
        above = next((str(folder) for folder in Path(value).parents[:2] if (folder / "config.yaml").is_file()), None)
        if above is not None and not os.path.lexists(value):
            why = f"a run folder; there is no file {value}, but its folder is a run"
        raise ForeignWordError(verb, key, value, why, [f"run={above or 'latest'}"])
    return None


def _models(verb: Entry, key: str, value: str) -> Given | None:
    names = [part.strip() for part in value.strip("[]").split(",")]
    if value == "all" or any(not name for name in names):
        return None
    known = foreign_words()["names"]["model"]
    meant = [known.get(name.replace("-", "_").casefold(), name) for name in names]
    chosen = [named_network(name) if not is_offered("model", name) and ":" not in name else None for name in meant]
    found = [
        f"{one['model']}:{one['model.name']}" if one and "model.name" in one else one["model"] if one else name
        for one, name in zip(chosen, meant, strict=True)
    ]
    typed = f"[{','.join(found)}]" if len(found) > 1 or value.startswith("[") else found[0]
    if typed == value:
        return None
    if meant != names:
        raise ForeignWordError(verb, key, value, "names that classifier-training models lists", [f"models={typed}"])
    return [("models", typed)]


def _split(_verb: Entry, _key: str, value: str) -> Given | None:
    return [("split", "val")] if value in ("validation", "valid") else None


def _store(_verb: Entry, _key: str, value: str) -> Given | None:
    if value.casefold() in ("ram", "disk", *TRUE):
        return [("data.store", "on")]
    return [("data.store", "off")] if value.casefold() in FALSE else None


def _val_fraction(verb: Entry, key: str, value: str) -> Given | None:
    if re.fullmatch(r"[\d.,]+%?", value) or key.replace("-", "_") != "val_split":
        return None
    why = "nothing; folders called train, val, valid, validation and test are found by their names"
    raise ForeignWordError(verb, key, value, why)


def _crop_scale(verb: Entry, key: str, value: str) -> Given | None:
    numbers = [value] if _is_number(value) else re.findall(r"\d*\.?\d+", value)
    if len(numbers) == 2:
        return [("transforms.crop_scale", numbers[0])]
    if key == "scale" and len(numbers) == 1 and 0 <= float(numbers[0]) < 1:
        smallest = f"{1 - float(numbers[0]):g}"
        why = "transforms.crop_scale, the smallest share of the image in a random crop, where 1 does not crop"
        raise ForeignWordError(verb, key, value, why, [f"transforms.crop_scale={smallest}"])
    return None


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _pretrained(_verb: Entry, key: str, value: str) -> Given | None:
    return [("model.weights", value)] if "." in value and key != "model.pretrained" else None


READINGS: dict[str, Callable[[Entry, str, str], Given | None]] = {
    "data": _data,
    "data.batch_size": _batch,
    "data.image_size": _side,
    "data.root": _root,
    "data.store": _store,
    "data.val_fraction": _val_fraction,
    "model": _model,
    "model.pretrained": _pretrained,
    "models": _models,
    "monitor": _monitor,
    "resume": _resume,
    "run": _run,
    "split": _split,
    "trainer.accelerator": _device,
    "transforms.crop_scale": _crop_scale,
    "trainer.precision": _precision,
}
"""What reads the values of a setting that other programs write in another way."""
