"""What a run takes from another one: its data with the same splits, and for `init_from=RUN` its network, too."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from classifier_training.conf.overrides import leaf_keys, typed_value, word, written
from classifier_training.conf.recipes import AUTO, RECIPE
from classifier_training.conf.resume import saved_values
from classifier_training.conf.store import EXPERIMENT
from classifier_training.conf.unused_settings import is_fitted_at_once
from classifier_training.core.errors import UserError, plural
from classifier_training.core.register import TYPE_KEY, VERB, entry
from classifier_training.core.run_reader import read_rows
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import Resume, Trait
from classifier_training.core.storage.places import path_of
from classifier_training.data.replay import SAME_DATA, common, find_moved, resolved
from classifier_training.registry.runs import find_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set
    from pathlib import Path

    from hydra.core.override_parser.types import Override

    from classifier_training.core.run_dir import RunDir

log = logging.getLogger(__name__)

INIT_FROM, REPLAY = "init_from", "replay"

GROUPS = ("transforms", "imbalance", "sampler", "target")
SETTINGS = ("monitor", "retrain_head", "allow_leaks", "name", "category")
"""What `init_from=RUN` takes besides data and network. Optimizer, loss and length are those of the recipe."""

STARTS = ("pretrained", "weights")
"""Settings of a model that say where its weights come from."""


def data_words(run_dir: RunDir, *, root: object = None) -> list[str]:
    """Return the words that choose a run's data with its splits.csv.

    Args:
        run_dir: the run.
        root: where the data are now, if not where they were.

    Raises:
        UserError: when the folder does not say what the run was trained on.
    """
    node = _node(run_dir, "data")
    train = entry(VERB, "train")
    # Its splits.csv says which images are held out.
    kept = {name: node[name] for name in node if Trait.SPLIT not in train.traits(f"data.{name}")}
    if root is not None:
        kept["root"] = root
    return [*_group_words("data", kept), word("data.splits", run_dir.splits.absolute())]


def inherited_words(
    values: Mapping[str, Any], parsed: Sequence[Override], *, names_data: bool
) -> tuple[list[str], str] | None:
    """Complete `train init_from=RUN`, where no data are named, with what it takes from the run.

    Data with splits.csv, network, preprocessing, augmentation, imbalance, targets and monitor are the run's. A typed
    recipe or experiment decides about augmentation and imbalance instead, and typed settings go over all of it. A
    typed `data.root` is the run's data at another place where the old place is gone and the files are the same. With
    `replay=` it holds new images, and the run's are beside them.

    Args:
        values: the composed configuration.
        parsed: what was typed.
        names_data: whether words or files name the data.

    Returns:
        All words, and what is to be said; None where nothing is taken from a run.

    Raises:
        UserError: when the run is not there, not finished or does not say what it was trained on, or its data are gone.
    """
    typed = {override.key_or_group: override for override in parsed}
    swept = [name for name in (INIT_FROM, "data.root") if name in typed and typed[name].is_sweep_override()]
    share = _value(REPLAY, values, typed)
    if share is not None and not swept:
        return _retraining_words(values, typed, parsed, share)
    if "data" in typed or (names_data and ("data.root" not in typed or swept)):
        return None
    if swept:
        raise UserError(
            f"{typed[INIT_FROM].input_line}: which of these runs the data are to be of is not said",
            "one run, or the data by name",
            "data.root=/my/images",
        )
    reference, root = _value(INIT_FROM, values, typed), _value("data.root", {}, typed)
    if reference is None:
        return None
    try:
        run_dir = find_run(str(reference), output=str(_value("output", values, typed)), setting=INIT_FROM)
    except UserError:
        if root is None:
            raise
        # Nothing is to be taken from it but weights, and whoever takes these says that there is no such run.
        return None
    if root is not None and not _has_moved(run_dir, root):
        return None
    _refuse_origin(run_dir)
    own = _node(run_dir, "data").get("root")
    if root is None:
        _refuse_gone(run_dir, own)
    place = root if root is not None else own
    words, taken = _words_of_run(run_dir, data_words(run_dir, root=root), typed, parsed)
    told = f"{INIT_FROM}={run_dir.path}: weights, data and splits, {taken}preprocessing of this run" + (
        f"; images in {_listed(place)}" if place is not None else ""
    )
    return words, told


def network_words(values: Mapping[str, Any], parsed: Sequence[Override]) -> tuple[list[str], str] | None:
    """Complete `train DATA init_from=RUN`, where neither words nor files name a network, with that of the run.

    Args:
        values: the composed configuration.
        parsed: what was typed.

    Returns:
        All words, and what is to be said; None where a network is named, or there is no such run.
    """
    typed = {override.key_or_group: override for override in parsed}
    node, is_swept = values["model"], INIT_FROM in typed and typed[INIT_FROM].is_sweep_override()
    reference = None if is_swept else _value(INIT_FROM, values, typed)
    if reference is None or "model" in typed or not isinstance(node, dict) or node[TYPE_KEY] != AUTO:
        return None
    try:
        run_dir = find_run(str(reference), output=str(_value("output", values, typed)), setting=INIT_FROM)
    except UserError:
        # Whoever takes the weights says that there is no such run.
        return None
    if not run_dir.config.is_file():
        return None
    words = [*_network_of(run_dir), *_others(parsed), word(INIT_FROM, run_dir.path)]
    return words, f"{INIT_FROM}={run_dir.path}: weights and network of this run"


def _network_of(run_dir: RunDir) -> Iterator[str]:
    node = _node(run_dir, "model")
    return _group_words("model", {name: value for name, value in node.items() if name not in STARTS})


def _words_of_run(
    run_dir: RunDir, data: Sequence[str], typed: Mapping[str, Override], parsed: Sequence[Override]
) -> tuple[list[str], str]:
    """Complete the words that name the data with what else is taken from a run, and say whether the network is."""
    words, taken = list(data), ""
    if "model" not in typed:
        words += _network_of(run_dir)
        taken = "network and "
    words += _training_words(run_dir, typed)
    others = _others(parsed, "data.root")
    return [*words, word(INIT_FROM, run_dir.path.absolute()), *others], taken or "and "


def _others(parsed: Sequence[Override], *keys: str) -> list[str]:
    """Return what was typed without the run, which might be another one when it is looked for again, and these keys."""
    return [override.input_line or "" for override in parsed if override.key_or_group not in (INIT_FROM, *keys)]


def _retraining_words(
    values: Mapping[str, Any], typed: Mapping[str, Override], parsed: Sequence[Override], share: object
) -> tuple[list[str], str]:
    """Complete `train NEW init_from=RUN replay=SHARE`: the run's images beside the new ones, and its settings.

    Raises:
        UserError: when the run is not there, or cannot be trained again so.
    """
    reference = _value(INIT_FROM, values, typed)
    if reference is None:
        raise without_origin(share)
    run_dir = find_run(str(reference), output=str(_value("output", values, typed)), setting=INIT_FROM)
    _refuse_origin(run_dir)
    _refuse_unfit(run_dir, typed)
    node = _node(run_dir, "data")
    own, listed = _roots(node.get("root")), values.get("data")
    composed = listed.get("root") if isinstance(listed, dict) else None
    given = _roots(_value("data.root", {"data.root": composed}, typed))
    present = [root for root in own if path_of(root).is_dir()]
    known = {resolved(root) for root in own}
    _refuse_inside(given, known)
    roots = [*present, *(root for root in given if resolved(root) not in known)]
    if not present and (not roots or find_moved([row["path"] for row in read_rows(run_dir.splits)], roots) is None):
        raise UserError(
            f"{INIT_FROM}={run_dir.path} {REPLAY}={share}: its images are gone from {_listed(own)}",
            "the images that the run was trained on: without some of them the network forgets its classes, and it "
            "cannot be compared with the run before",
            "name where they are now beside the new ones: data.root=[/old/images,/new/images]",
        )
    train = entry(VERB, "train")
    kept = {name: node[name] for name in node if Trait.SPLIT not in train.traits(f"data.{name}")}
    kept |= {"root": roots, "group_duplicates": bool(node.get("group_duplicates"))}
    words, taken = _words_of_run(run_dir, [*_group_words("data", kept)], typed, parsed)
    told = (
        f"{INIT_FROM}={run_dir.path}: weights, splits, {taken}preprocessing of this run; old images in "
        f"{_listed(present or roots)}" + (f", new ones in {_listed(roots[len(present) :])}" if present else "")
    )
    return words, told


def _refuse_inside(given: Sequence[str], known: Set[Path]) -> None:
    """Raise when a folder of new images is inside one of the run, or the other way round.

    Raises:
        UserError: then.
    """
    for root in given:
        place = resolved(root)
        for old in known - {place}:
            if place.is_relative_to(old) or old.is_relative_to(place):
                raise UserError(
                    f"data.root={root}: one of it and {old}, the folder of the run, is inside the other",
                    "new images in a folder of their own, or in the class folders of the run",
                    f"move them out of {old}; or into its class folders, and leave out data.root",
                )


def without_origin(share: object) -> UserError:
    """Return the error for replay without a run whose images are replayed."""
    return UserError(
        f"{REPLAY}={share} has no effect: there is no run whose images are replayed",
        "the run that is trained again",
        f"{INIT_FROM}=production",
    )


def _refuse_unfit(run_dir: RunDir, typed: Mapping[str, Override]) -> None:
    """Raise for a run that cannot be trained again beside new images, and for settings that contradict that.

    Raises:
        UserError: then.
    """
    start, node = f"{INIT_FROM}={run_dir.path}", _node(run_dir, "data")
    name = _node(run_dir, "model")[TYPE_KEY]
    if is_fitted_at_once(name):
        raise UserError(
            f"{start}: its model is {name}, which is fitted at once and has no weights to start from",
            "a run of a network",
            f"fit it anew to all images: {command('train')} data.root=[{_listed(node.get('root'))},/new/images] "
            f"model={name}",
        )
    if run_dir.is_cross_validation:
        raise UserError(
            f"{start}: a cross-validation has a network for each fold, and no weights of its own",
            "a run with one network, such as one of its folds",
            f"{INIT_FROM}={run_dir.fold(0).path}",
        )
    if not _roots(node.get("root")) or node.get("file"):
        raise UserError(
            f"{start}: it was trained on data={node[TYPE_KEY]}, and not on folders of images",
            "a run whose images are in folders, to which others are added",
            f"name all images: {command('train')} {setting(INIT_FROM, run_dir.path)} data.root=…, without {REPLAY}",
        )
    unfit = [key for key in ("data.splits", "data.fold", "data.num_folds") if key in typed]
    if "data" in typed and typed_value(typed["data"]) != node[TYPE_KEY]:
        unfit.append("data")
    if unfit:
        raise UserError(
            f"{typed[unfit[0]].input_line} {REPLAY}=…: the splits and the form of the data are those of {run_dir.path}",
            "one of them",
            f"leave out {unfit[0]}",
        )


def _value(key: str, values: Mapping[str, Any], typed: Mapping[str, Override]) -> Any:
    return typed_value(typed[key]) if key in typed else values.get(key)


def _training_words(run_dir: RunDir, typed: Mapping[str, Override]) -> Iterator[str]:
    config, train = saved_values(run_dir.config), entry(VERB, "train")
    fixed = {key for key in leaf_keys(config) if train.mark(key, Resume) is Resume.FIXED}
    by_preset = not {RECIPE, EXPERIMENT}.isdisjoint(typed)
    for group in GROUPS:
        node = config.get(group)
        if group in typed or not isinstance(node, dict) or (by_preset and group != "transforms"):
            continue
        if by_preset:
            # The images must look to the network as they did.
            yield from _group_words(group, {name: value for name, value in node.items() if f"{group}.{name}" in fixed})
        else:
            yield from _group_words(group, node)
    for name in SETTINGS:
        option = train.options[name]
        if name in config and config[name] != option.default and not (by_preset and name == "retrain_head"):
            yield f"{name}={written(name, config[name])}"


def _group_words(group: str, node: Mapping[str, Any]) -> Iterator[str]:
    """Return the words of a component and of all its settings."""
    option = entry(VERB, "train").options[group]
    if TYPE_KEY in node and not option.fixed:
        yield word(group, node[TYPE_KEY])
    for name, value in node.items():
        if name != TYPE_KEY:
            yield f"{group}.{name}={written(name, value)}"


def _node(run_dir: RunDir, group: str) -> Mapping[str, Any]:
    node = saved_values(run_dir.config).get(group)
    if not isinstance(node, dict) or not isinstance(node.get(TYPE_KEY), str):
        raise UserError(
            f"{run_dir.config}: does not say what {group} the run was trained with",
            "the config.yaml that the run wrote",
            "name the data: data.root=/my/images",
        )
    return node


def _refuse_origin(run_dir: RunDir) -> None:
    """Raise for a run whose data cannot be taken: a bundle without them, or one that is not finished."""
    missing = [path.name for path in (run_dir.config, run_dir.splits) if not path.is_file()]
    if missing:
        raise UserError(
            f"{INIT_FROM}={run_dir.path}: no {' and no '.join(missing)}, so it is not known what it was trained on",
            "the folder of a run, or the data by name",
            f"{command('train')} {setting(INIT_FROM, run_dir.path)} data.root=/my/images",
        )
    if not run_dir.result.is_file():
        raise UserError(
            f"{INIT_FROM}={run_dir.path}: the run is not finished",
            "a finished run, whose data and splits are taken",
            f"{command('train')} {setting('resume', run_dir.path)}",
        )


def _refuse_gone(run_dir: RunDir, root: object) -> None:
    """Raise when the data are not where they were."""
    gone = [name for name in _roots(root) if not path_of(name).exists()]
    if gone:
        raise UserError(
            f"{INIT_FROM}={run_dir.path}: its data are gone from {gone[0]}",
            "the images that the run was trained on",
            f"{command('train')} {setting(INIT_FROM, run_dir.path)} data.root=/where/they/are/now",
        )


def _has_moved(run_dir: RunDir, root: object) -> bool:
    """Whether the run's data are gone from where they were, and are in another folder, most of them at the least."""
    if not run_dir.config.is_file() or not run_dir.splits.is_file():
        return False
    own = _roots(_node(run_dir, "data").get("root"))
    roots = [path_of(name) for name in _roots(root)]
    if not own or all(path_of(name).exists() for name in own) or not all(path.exists() for path in roots):
        return False
    base = common([resolved(str(path if path.is_dir() else path.parent)) for path in roots])
    paths = {row["path"] for row in read_rows(run_dir.splits)}
    found = sum((base / path).is_file() for path in paths)
    if found < SAME_DATA * len(paths):
        log.info(
            "%s: of the %s of that run %d are in it, so that it is other data, and is split anew",
            setting("data.root", base), plural(len(paths), "image"), found,
        )  # fmt: skip
        return False
    return True


def _roots(root: object) -> list[str]:
    return [] if root is None else [str(one) for one in root] if isinstance(root, list) else [str(root)]


def _listed(root: object) -> str:
    return ", ".join(_roots(root))
