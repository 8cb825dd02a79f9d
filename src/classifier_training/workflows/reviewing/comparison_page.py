"""The page that compares runs: their curves on one axis, what they were set to, and what they scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classifier_training.conf.overrides import has_key, leaf_keys, value_at
from classifier_training.core.errors import UserError, plural
from classifier_training.core.metrics import all_metrics
from classifier_training.core.register import TYPE_KEY, VERB, entry
from classifier_training.core.settings import Trait
from classifier_training.core.types import TRAIN, VAL
from classifier_training.evaluation import report
from classifier_training.evaluation.leaderboard import compare_predictions
from classifier_training.workflows.reviewing.charts import Series, line_chart
from classifier_training.workflows.reviewing.live import read_history, run_predictions_of, values_of
from classifier_training.workflows.reviewing.live_page import interval_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from classifier_training.core.run_dir import RunDir
    from classifier_training.evaluation.report import Html


def compare_body(runs: Mapping[str, RunDir]) -> list[Html]:
    """Return the body of the page.

    Args:
        runs: folders, by the names that they are shown by; the others are tested against the first.
    """
    problems: dict[str, str] = {}
    configs = {name: _read(problems, name, lambda run: values_of(run, run.config), run) for name, run in runs.items()}
    return [
        report.header("Comparison", f"{plural(len(runs), 'run')}; the first is what the others are tested against."),
        report.section("Curves", _charts(runs, configs, problems)),
        report.section("Metrics", *_metrics(runs, problems)),
        report.section("The same images", *_tests(runs, problems)),
        report.section("Settings that differ", _settings(configs)),
        *(report.card("warning", name, words, "", badge="left out") for name, words in problems.items()),
    ]


def _read(problems: dict[str, str], name: str, read: Any, run: RunDir) -> Any:
    """Read a file of a run; one that is damaged is named on the page, and counts as empty."""
    try:
        return read(run)
    except UserError as error:
        problems[name] = error.came
        return {}
    except OSError as error:
        problems[name] = str(error)
        return {}


def _charts(runs: Mapping[str, RunDir], configs: Mapping[str, Any], problems: dict[str, str]) -> Html:
    histories = {name: _read(problems, name, read_history, run) for name, run in runs.items()}
    monitors = [str(config.get("monitor")) for config in configs.values() if config.get("monitor")]
    charts = []
    for column in dict.fromkeys((*monitors, f"{VAL}/loss", f"{TRAIN}/loss")):
        series = [Series(name, history.columns.get(column, ())) for name, history in histories.items() if history]
        charts.append(line_chart(column, series))
    return report.Html(f'<div class="charts">{report.joined(*charts)}</div>')


def _metrics(runs: Mapping[str, RunDir], problems: dict[str, str]) -> Iterator[Html]:
    scores = {
        name: _read(problems, name, lambda run: values_of(run, run.classification_report), run)
        for name, run in runs.items()
    }
    titles = {column: title for metric in all_metrics() for column, title in metric.titles.items() if metric.on_page}
    rows: list[list[report.Cell]] = [
        ["scored on", *(str(found.get("split", "not scored")) for found in scores.values())]
    ]
    for column, title in titles.items():
        found = [((score.get("metrics") or {}).get(column) or {}) for score in scores.values()]
        if any(item.get("value") is not None for item in found):
            rows.append([title, *(interval_words(item) for item in found)])
    yield report.table(["metric", *runs], rows)
    yield report.paragraph("In brackets: 95 % intervals. Those of two runs may overlap although one is clearly better: "
                           "see the tests on the same images.")  # fmt: skip


def _tests(runs: Mapping[str, RunDir], problems: dict[str, str]) -> Iterator[Html]:
    """Test the runs against the first, on the images that both predicted."""
    (first, against), *others = runs.items()
    known = _read(problems, first, run_predictions_of, against)
    for name, run in others:
        own = _read(problems, name, run_predictions_of, run)
        compared = compare_predictions(known, own) if own and known else None
        if compared is None:
            lacking = " and ".join(who for who, found in ((first, known), (name, own)) if not found)
            reason = f"no predictions of {lacking}" if lacking else "no image of the same path and label in both"
            yield report.paragraph(f"{name} and {first} cannot be tested: {reason}.")
            continue
        left = max(len(own.targets), len(known.targets)) - compared.num_images
        yield report.paragraph(compared.verdict(name, first))
        if left:
            yield report.paragraph(
                f"{plural(left, 'image')} of the larger test set are left out: the other lacks them."
            )
    if len(others) > 1:
        yield report.paragraph(
            f"Each of the {len(others)} tests stands alone: among many equal runs some look better by chance."
        )


def _settings(configs: Mapping[str, Mapping[str, Any]]) -> Html:
    train = entry(VERB, "train")
    keys: dict[str, None] = {}
    for config in configs.values():
        keys |= dict.fromkeys(key for key in leaf_keys(config) if Trait.PLACE not in train.traits(key))
        keys |= {
            f"{name}.{TYPE_KEY}": None for name, node in config.items() if isinstance(node, dict) and TYPE_KEY in node
        }
    rows = []
    for key in keys:
        values = [str(value_at(config, key)) if has_key(config, key) else "" for config in configs.values()]
        if len(set(values)) > 1:
            rows.append([key.removesuffix(f".{TYPE_KEY}"), *values])
    if not rows:
        return report.paragraph("None: the runs have the same settings.")
    return report.table(["setting", *configs], sorted(rows))
