"""What the corrections of a run's data bought, against the run that it started from or one without them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.conf.resume import saved_values
from classifier_training.core.errors import plural, shown
from classifier_training.core.labels import read_mapping
from classifier_training.core.run_dir import RunDir, write_json
from classifier_training.core.run_reader import RunReader, read_rows, read_values
from classifier_training.data.corrections import ACTIONS, saved_corrections, standing
from classifier_training.data.splitting.manifest import read_manifest
from classifier_training.evaluation import report
from classifier_training.evaluation.corrections_effect import CorrectionsEffect, JudgedImage
from classifier_training.evaluation.report import Html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.data.corrections import LabelCorrection
    from classifier_training.evaluation.report import Cell

WITHDRAWN, RELABEL_TO = "withdrawn", "relabel_to"

COLUMNS = {
    "relabel": "relabelled to others", "drop": "left out", "move": "moved", "keep": "looked at and right",
    RELABEL_TO: "relabelled to it",
}  # fmt: skip
"""What is counted by class, in words."""

SECTION = "Corrections"
NUM_SHOWN = 24


def new_corrections(before: Sequence[LabelCorrection], now: Sequence[LabelCorrection]) -> dict[str, int]:
    """Count the samples that have other corrections than before, by action; `withdrawn` are those that have none more.

    Args:
        before: lines of the run before.
        now: lines that the data have.
    """
    old, new = standing(before), standing(now)
    counts = Counter(
        line.action for key, line in new.items() if key not in old or _decision(old[key]) != _decision(line)
    )
    gone = sum(key not in new and line.action != "keep" for key, line in old.items())
    found = {action: counts[action] for action in ACTIONS if counts[action]}
    return found | ({WITHDRAWN: gone} if gone else {})


def _decision(line: LabelCorrection) -> tuple[str, str]:
    return line.action, line.new


def new_words(before: RunDir, now: Sequence[LabelCorrection]) -> str:
    """Say how many corrections the data have that a run did not have."""
    found = new_corrections(saved_corrections(before), now)
    if not found:
        return f"corrections: none new since {before.path}; {plural(len(standing(now)), 'sample')} have one as before"
    parts = ", ".join(f"{number:,} {action}" for action, number in found.items())
    return f"corrections: {sum(found.values()):,} new since {before.path}: {parts}; {len(standing(now)):,} in all"


def corrections_by_class(corrections: Sequence[LabelCorrection]) -> dict[str, dict[str, int]]:
    """Count the samples that are corrected by class and action; `relabel_to` are those that got a class's label."""
    counts: dict[str, Counter[str]] = {}
    for line in standing(corrections).values():
        counts.setdefault(line.old, Counter())[line.action] += 1
        if line.action == "relabel":
            counts.setdefault(line.new, Counter())[RELABEL_TO] += 1
    return {name: {action: counts[name][action] for action in (*ACTIONS, RELABEL_TO)} for name in sorted(counts)}


def corrections_words(run_dir: RunDir) -> list[str]:
    """Say which corrections a run's data had, and what they bought where that is known; nothing without corrections.

    Raises:
        UserError: when a file is damaged.
    """
    by_class = corrections_by_class(saved_corrections(run_dir))
    if not by_class:
        return []
    total = {name: sum(counts[name] for counts in by_class.values()) for name in ACTIONS}
    lines = [f"corrections: {', '.join(f'{number:,} {name}' for name, number in total.items() if number)}"]
    for name, counts in by_class.items():
        words = [f"{number:,} {COLUMNS[key]}" for key, number in counts.items() if number]
        lines.append(f"  {shown(name)}: {', '.join(words)}")
    effect = RunReader(run_dir).effect
    return [*lines, *(f"  {line}" for line in (*effect.get("words", ()), *effect.get("cautions", ())))]


def corrections_section(run_dir: RunDir, folder: Path) -> Html:
    """Return the part of a run's page about the corrections of its data, and what they bought; empty without either.

    Args:
        run_dir: the run.
        folder: of the evaluation that the page is about.
    """
    by_class = corrections_by_class(saved_corrections(run_dir))
    effect = RunReader(run_dir).effect if folder == run_dir.evaluation else {}
    pieces = []
    if effect:
        pieces += [report.paragraph(f"Against {effect['before']}:"), *map(report.paragraph, effect["words"])]
        pieces += [report.card("warning", "Caution", words, "") for words in effect["cautions"]]
        rows: list[tuple[Cell, ...]] = [
            (shown(name), item["support"], item["recall_before"], item["recall"], item["gained"], item["lost"],
             item["verdict"])
            for name, item in effect["corrected_labels"]["classes"].items()
        ]  # fmt: skip
        columns = ("class", "images", "recall before", "recall after", "became right", "became wrong", "verdict")
        pieces.append(report.table(columns, rows))
        root, _ = _predictions(run_dir)
        for key, words in (("became_right", "became right"), ("became_wrong", "became wrong")):
            images = effect[key]
            gallery = [
                report.thumbnail(
                    Path(root, item["path"]), shown(item["label"]), f"{shown(item['before'])} → {shown(item['after'])}"
                )
                for item in images[:NUM_SHOWN]
            ]
            if images:
                more = f", the first {NUM_SHOWN}" if len(images) > NUM_SHOWN else ""
                pieces.append(
                    report.folded(f"{plural(len(images), 'image')} {words}{more}", report.thumbnails(gallery))
                )
        pieces.append(
            report.paragraph(
                "Intervals are for other images and these two runs; other seeds may give other runs. "
                "compare 'data.corrections=[null,auto]' 'seeds=[0,1,2]' trains pairs, and its interval is for both."
            )
        )
    if by_class:
        listed: list[tuple[Cell, ...]] = [(shown(name), *counts.values()) for name, counts in by_class.items()]
        pieces.append(report.table(("class", *COLUMNS.values()), listed))
    return report.section(SECTION, *pieces) if pieces else Html("")


def renew_section(run_dir: RunDir) -> bool:
    """Write the part on corrections anew into a run's page; the rest stays. Returns whether there is a page."""
    return report.replace_section(
        run_dir.report, SECTION, corrections_section(run_dir, run_dir.evaluation), before="Training"
    )


def write_effect(run_dir: RunDir, before: RunDir) -> CorrectionsEffect | None:
    """Compare a run with the one that it started from, and write evaluation/corrections_effect.json.

    The file holds schema (1), run and before (folders), corrections {new, total: samples by action}, split, num_images,
    labels_corrected, left_out {dropped, moved, unknown_labels, in_one_run_alone}, words and cautions (for people),
    corrected_labels and original_labels {num_images, gained, lost, mcnemar or sign_flips, adjusted_p_values, accuracy
    and balanced_accuracy {before, after, difference {value, low, high, method}}, classes {name: {support, recall,
    recall_before, gained, lost, p_value, verdict}}}, became_right and became_wrong (by the corrected labels) and
    unchecked (predicted differently by the two runs, and not looked at), each a list of {path, label, before, after},
    and num_differing. Original labels are those that the run before was scored with.

    Args:
        run_dir: the new run, scored.
        before: the other.

    Returns:
        What changed; None where the two were not scored on the same data.

    Raises:
        UserError: when a file is damaged.
    """
    effect = read_effect(run_dir, before)
    if effect is None:
        return None
    now = saved_corrections(run_dir)
    write_json(
        run_dir.corrections_effect,
        {
            "schema": 1,
            "run": str(run_dir.path.absolute()),
            "before": str(before.path.absolute()),
            "corrections": {
                "new": new_corrections(saved_corrections(before), now),
                "total": dict(Counter(line.action for line in standing(now).values())),
            },
            **effect.to_dict(),
        },
    )
    return effect


def read_effect(run_dir: RunDir, before: RunDir) -> CorrectionsEffect | None:
    """Pair the predictions of two runs for the images that both were scored on; None where there are none.

    Raises:
        UserError: when a file is damaged.
    """
    if not all(run.predictions.is_file() and run.splits.is_file() for run in (run_dir, before)):
        return None
    (root, new), (old_root, old) = _predictions(run_dir), _predictions(before)
    if root != old_root and not _has_splits_of(run_dir, before):
        return None
    lines = saved_corrections(run_dir)
    kinds = {line.path: line.action for line in standing(lines).values()}
    left_out = Counter[str]()
    for path in old.keys() ^ new.keys():
        left_out[{"drop": "dropped", "move": "moved"}.get(kinds.get(path, ""), "in_one_run_alone")] += 1
    classes = _classes(run_dir) & _classes(before)
    images = []
    for path in sorted(old.keys() & new.keys()):
        one, other = old[path], new[path]
        if not {one["true"], other["true"]} <= classes:
            left_out["unknown_labels"] += 1
            continue
        images.append(
            JudgedImage(
                path=path,
                original=one["true"],
                corrected=other["true"],
                before=one["predicted"],
                after=other["predicted"],
                group=other.get("group") or "",
                is_checked=path in kinds,
            )
        )
    if not images:
        return None
    split = str(RunReader(run_dir).scores.get("split", ""))
    return CorrectionsEffect(images=images, split=split, left_out=dict(left_out))


def _has_splits_of(run_dir: RunDir, before: RunDir) -> bool:
    data = saved_values(run_dir.config).get("data")
    splits = data.get("splits") if isinstance(data, dict) else None
    return splits is not None and Path(splits) == before.splits.absolute()


def _predictions(run_dir: RunDir) -> tuple[str, dict[str, dict[str, str]]]:
    """Read predictions.csv by path relative to the data folder, which may have moved; and that folder.

    The folder is the one in which all images are among the paths of splits.csv; empty where there is none.
    """
    rows = read_rows(run_dir.predictions)
    known = {sample.path for sample in read_manifest(run_dir.splits)}
    first = rows[0]["path"] if rows else ""
    for root in map(str, Path(first).parents):
        found = {os.path.relpath(row["path"], root): row for row in rows}
        if found.keys() <= known:
            return root, found
    return "", {}


def _classes(run_dir: RunDir) -> set[str]:
    (row, *_) = read_rows(run_dir.predictions, first=1) or [{}]
    found = {name.removeprefix("prob_") for name in row if name.startswith("prob_")}
    # A table of very many predictions has the most probable classes alone.
    return found or set(read_mapping(read_values(run_dir.labels_mapping)))
