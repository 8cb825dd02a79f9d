"""Pairs of runs of a comparison that differ in the corrections of their data alone: what these bought."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.conf.overrides import parse_overrides, typed_value, word
from classifier_training.core.errors import UserError, plural
from classifier_training.core.run_dir import write_json
from classifier_training.data.corrections import saved_corrections
from classifier_training.evaluation.corrections_effect import PooledEffect, pool
from classifier_training.workflows.evaluating.corrections_effect import renew_section, write_effect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from classifier_training.evaluation.corrections_effect import CorrectionsEffect
    from classifier_training.workflows.evaluating.finished import Finished

CORRECTIONS = "data.corrections"
FILE = "corrections_effect.json"


def correction_variants(settings: Sequence[str]) -> list[list[str]]:
    """Return the settings of `train` once for each value of data.corrections=[null,auto]; as they are without a list.

    Raises:
        UserError: for a list without null or with fewer than two values.
    """
    typed = next((text for text in settings if text.partition("=")[0] == CORRECTIONS), None)
    if typed is None:
        return [list(settings)]
    value = typed_value(parse_overrides([typed])[0])
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        value = [item.strip() for item in value[1:-1].split(",")]
    if not isinstance(value, list):
        return [list(settings)]
    names = list(dict.fromkeys("null" if item is None else str(item) for item in value))
    if len(names) < 2 or "null" not in names:
        raise UserError(
            f"{CORRECTIONS}=[{','.join(names)}]: there is nothing to compare with",
            "null, which takes no corrections, and auto or a file",
            f"{CORRECTIONS}=[null,auto]",
        )
    others = [text for text in settings if text is not typed]
    return [[*others, word(CORRECTIONS, name)] for name in names]


@dataclass(frozen=True, kw_only=True)
class Bought:
    """What corrections bought a model on a data set.

    Args:
        model: its name.
        data: name of the data.
        corrections: the setting of the runs that had some.
        effects: the runs with corrections against those without, by seed.
        runs: folders of both, by seed.
        num_corrections: lines that the runs had; 0 where there were none.
    """

    model: str
    data: str
    corrections: str
    effects: Mapping[int, CorrectionsEffect]
    runs: Mapping[int, tuple[str, str]]
    num_corrections: int

    @property
    def corrected(self) -> PooledEffect:
        """By the corrected labels."""
        return pool(self.effects, corrected=True)

    @property
    def original(self) -> PooledEffect:
        """By the labels of the data."""
        return pool(self.effects, corrected=False)

    @property
    def lines(self) -> list[str]:
        """Say it."""
        head = f"{self.data}, {self.model}: corrections ({CORRECTIONS}={self.corrections})"
        if not self.num_corrections:
            return [f"{head}: the data have none, so that the runs are the same"]
        method = self.corrected.difference.method
        found = [f"{head}, {plural(len(self.effects), 'pair')} of runs, intervals over {method}:"]
        effects = self.effects.values()
        if any(effect.num_changed for effect in effects):
            found += [f"  on the corrected labels: {self.corrected}", f"  on the original labels: {self.original}"]
        else:
            found.append(f"  {self.corrected}; no label of these images was corrected")
        left = sum(number for effect in effects for number in effect.left_out.values())
        if left:
            found.append(
                f"  left out in both, over all pairs: {plural(left, 'image')} that a correction drops or moves"
            )
        found += [f"  {words}" for words in dict.fromkeys(words for effect in effects for words in effect.cautions)]
        if len(self.effects) == 1:
            found.append("  one pair says nothing on other seeds: 'seeds=[0,1,2]'")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {
            "model": self.model,
            "data": self.data,
            "corrections": self.corrections,
            "num_corrections": self.num_corrections,
            "runs": {str(seed): {"before": pair[0], "after": pair[1]} for seed, pair in self.runs.items()},
            "corrected_labels": self.corrected.to_dict(),
            "original_labels": self.original.to_dict(),
            "words": self.lines,
        }


def compare_pairs(found: Sequence[Finished], folder: Path) -> list[Bought]:
    """Pair runs that differ in data.corrections alone, one of them without, and write what the corrections bought.

    Each run with corrections has evaluation/corrections_effect.json then, and its page says it, too; the folder has
    corrections_effect.json with schema (1) and pairs, each with model, data, corrections, num_corrections, runs {seed:
    {before, after}}, corrected_labels and original_labels {balanced_accuracy {before, after, difference {value, low,
    high, method}}, by_seed} and words.

    Args:
        found: finished runs.
        folder: of the comparison.

    Raises:
        UserError: when a file of a run is damaged.
    """
    # Runs of older versions, without the setting, say nothing on it.
    found = [run for run in found if CORRECTIONS in run.settings]
    plain = {_rest(run): run for run in found if run.settings[CORRECTIONS] is None}
    pairs: dict[tuple[str, str, str, str], list[tuple[Finished, Finished]]] = {}
    for run in found:
        value, rest = run.settings[CORRECTIONS], _rest(run)
        if value is not None and rest in plain:
            key = (run.model, run.data, str(value), rest[1])
            pairs.setdefault(key, []).append((plain[rest], run))
    bought = []
    for (model, data, value, _), runs in pairs.items():
        effects = {after.seed: write_effect(after.run_dir, before.run_dir) for before, after in sorted(runs, key=_seed)}
        known = {seed: effect for seed, effect in effects.items() if effect is not None}
        if not known:
            continue
        for _, after in runs:
            renew_section(after.run_dir)
        bought.append(
            Bought(
                model=model,
                data=data,
                corrections=value,
                effects=known,
                runs={after.seed: (str(before.run_dir.path), str(after.run_dir.path)) for before, after in runs},
                num_corrections=len(saved_corrections(runs[0][1].run_dir)),
            )
        )
    if bought:
        write_json(folder / FILE, {"schema": 1, "pairs": [item.to_dict() for item in bought]})
    return bought


def _seed(pair: tuple[Finished, Finished]) -> int:
    return pair[1].seed


def _rest(run: Finished) -> tuple[int, str]:
    """The seed, and all settings but the corrections."""
    others = {key: value for key, value in run.settings.items() if key != CORRECTIONS}
    return run.seed, json.dumps(others, sort_keys=True, default=str)
