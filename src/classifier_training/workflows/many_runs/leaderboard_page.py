"""The files of a comparison: leaderboard.csv, .json and .html."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from classifier_training.core.display import align
from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.core.runtime import num_cores, versions
from classifier_training.evaluation import report
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.figures.curves import RocFigure
from classifier_training.evaluation.figures.leaderboard import ParetoFigure
from classifier_training.evaluation.leaderboard import (
    BEST,
    RANKED_BY,
    UNCLEAR,
    WORSE,
    metric_columns,
    pareto_front,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from classifier_training.evaluation.leaderboard import Leaderboard, Standing
    from classifier_training.evaluation.report import Html

MARKS = {BEST: "", WORSE: "*", UNCLEAR: "≈"}

LEGEND = (
    "* worse than the best, ≈ not told apart from it: on the same test images (sign-flip tests of accuracy and "
    "balanced accuracy, adjusted after Holm for all pairs), and over the seeds where there are several; ? not "
    "compared, since no test image is in common; + on the Pareto front of accuracy, latency and size"
)


def write_leaderboard(
    folder: Path,
    boards: Sequence[Leaderboard],
    runs: Mapping[tuple[str, str, int], str],
    failures: Mapping[str, str],
) -> Path:
    """Write the files; returns the page.

    leaderboard.json holds schema (1), made_at, num_cores, versions, verdicts (one sentence for each data set),
    standings (the rows of leaderboard.csv, with the interval of the difference to the best) each with its runs
    {seed: {run, balanced_accuracy, …}}, best {data: run}, choices {data: [{purpose, model, run, and its metrics and
    costs}]} and failures {job: reason}.

    Args:
        folder: where to.
        boards: of each data set.
        runs: folder of each run, by data, model and seed.
        failures: why a job gave no run, by its name.
    """
    chosen = ("model", "run", *metric_columns(), "latency_ms", "size_mb", "train_seconds", "verdict")
    standings = [_row(item, runs) for board in boards for item in board.standings]
    columns = (
        "rank", "data", "model", "seeds", *(f"{name}{end}" for name in metric_columns() for end in ("", "_deviation")),
        "train_seconds", "train_seconds_deviation", "size_mb", "latency_ms", "memory_mb", "on_front", "verdict",
        "p_value", "run",
    )  # fmt: skip
    lines = (["" if row[name] is None else _cell(row[name]) for name in columns] for row in standings)
    write_csv(folder / "leaderboard.csv", columns, lines)
    write_json(
        folder / "leaderboard.json",
        {
            "schema": 1,
            "made_at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "num_cores": num_cores(),
            "versions": versions(),
            "verdicts": [board.verdict for board in boards],
            "best": {row["data"]: row["run"] for row in standings if row["rank"] == 1},
            "standings": standings,
            "choices": {
                board.data: [
                    {"purpose": one.purpose, **{name: _row(one.standing, runs)[name] for name in chosen}}
                    for one in board.choices
                ]
                for board in boards
            },
            "failures": dict(failures),
        },
    )
    plots = folder / "plots"
    with Drawer() as drawer:
        drawn = [(words, plots / f"{place}_{name}.png", figure) for place, board in enumerate(boards)
                 for name, words, figure in _figures(board)]  # fmt: skip
        for _, path, figure in drawn:
            drawer.submit(figure, path)
    page = folder / "leaderboard.html"
    images = [(report.plot_uri(path), words) for words, path, _ in drawn if path.exists()]
    report.write_page(page, title="Leaderboard", body=_body(boards, runs, failures, images))
    return page


def table_lines(boards: Sequence[Leaderboard]) -> list[str]:
    """Return the table for a screen."""
    header = ("", "model", *_titles(), "train s", "size MB", "latency ms", "memory MB", "")
    lines = []
    for board in boards:
        rows = [
            (
                f"{item.rank}{'+' if item.on_front else ''}",
                item.candidate.model,
                *(_spread(item, name) for name in metric_columns()),
                *(_spread(item, name, 1) for name in ("train_seconds", "size_mb")),
                "" if item.candidate.latency_ms is None else f"{item.candidate.latency_ms:.2f}",
                _spread(item, "memory_mb", 0),
                MARKS.get(item.verdict, "?"),
            )
            for item in board.standings
        ]
        lines += [f"{board.data}:", *align(header, rows, right=frozenset(header[2:-1])), ""]
        if len(board.standings) > 1:
            choices = _choice_rows(board)
            lines += ["which for what:", *align(CHOICE_HEADER, choices, right=frozenset(CHOICE_HEADER[2:])), ""]
    return [*lines, LEGEND]


CHOICE_HEADER = ("wanted", "model", "balanced accuracy", "latency ms", "size MB", "train s")


def _choice_rows(board: Leaderboard) -> list[tuple[str, ...]]:
    """The model for each purpose, with what it is worth and costs."""
    return [
        (
            one.purpose,
            one.standing.candidate.model,
            _spread(one.standing, RANKED_BY),
            "" if one.standing.candidate.latency_ms is None else f"{one.standing.candidate.latency_ms:.2f}",
            _spread(one.standing, "size_mb", 1),
            _spread(one.standing, "train_seconds", 1),
        )
        for one in board.choices
    ]


def _title(board: Leaderboard) -> tuple[str, str]:
    is_open = any(item.verdict == UNCLEAR for item in board.standings)
    return ("note", "The highest score; the best is not told") if is_open else ("good", "The best")


def _titles() -> list[str]:
    return [metric.short_title for metric in metric_columns().values()]


def _figures(board: Leaderboard) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = []
    for name, label, cost in (
        ("latency", "latency of one image on the CPU, ms", lambda item: item.latency_ms),
        ("size", "size of model.onnx, MB", lambda item: _mean(item, "size_mb")),
    ):
        pairs = [(item, value) for item in board.standings if (value := cost(item.candidate)) is not None]
        items, costs = [item for item, _ in pairs], [value for _, value in pairs]
        if items:
            words = f"{board.data}: accuracy against {name}"
            scores = [item.candidate.spread(RANKED_BY) for item in items]
            figure = ParetoFigure(
                names=[item.candidate.model for item in items],
                costs=costs,
                scores=[item.candidate.score for item in items],
                deviations=[0.0 if one is None else one.deviation or 0.0 for one in scores],
                on_front=pareto_front(list(zip([-item.candidate.score for item in items], costs, strict=True))),
                cost_label=label,
                title=words,
            )
            found.append((f"pareto_{name}", words, figure))
    predictions = {item.candidate.model: item.candidate.predictions for item in board.standings}
    curves = {name: (one.false_positive_rates, one.true_positive_rates) for name, one in predictions.items()}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    if curves:
        words = f"{board.data}: ROC curves, mean over classes"
        found.append(("roc", words, RocFigure(curves=curves, title=words)))
    return found


def _body(
    boards: Sequence[Leaderboard],
    runs: Mapping[tuple[str, str, int], str],
    failures: Mapping[str, str],
    images: Sequence[tuple[str, str]],
) -> list[Html]:
    num_runs = sum(len(item.candidate.runs) for board in boards for item in board.standings)
    facts = [
        (str(num_runs), "finished runs"),
        (str(len({item.candidate.model for board in boards for item in board.standings})), "models"),
        (str(len(boards)), "data sets"),
        (str(len(failures)), "failed jobs"),
    ]
    body = [report.header("Leaderboard", "Models on the same data, splits and test images.", facts)]
    body += [
        report.card(*_title(board), board.verdict, f"evaluate run={_row(board.standings[0], runs)['run']}")
        for board in boards
    ]
    for board in boards:
        rows = [
            (
                item.rank, item.candidate.model,
                *(_spread(item, name) for name in metric_columns()),
                _rounded(_mean(item.candidate, "train_seconds"), 1),
                _rounded(_mean(item.candidate, "size_mb"), 1),
                _rounded(item.candidate.latency_ms, 2),
                _rounded(_mean(item.candidate, "memory_mb"), 0),
                "yes" if item.on_front else "",
                item.verdict,
                "" if item.p_value is None else f"{item.p_value:.3g}",
            )
            for item in board.standings
        ]  # fmt: skip
        columns = (
            "rank", "model", *_titles(), "training, s", "size, MB", "latency, ms", "memory, MiB", "Pareto front",
            "against the best", "p",
        )  # fmt: skip
        body.append(report.section(board.data, report.table(columns, rows), report.paragraph(f"{LEGEND}.")))
        if len(board.standings) > 1:
            body.append(
                report.section(f"{board.data}: which model for what", report.table(CHOICE_HEADER, _choice_rows(board)))
            )
    if images:
        body.append(report.section("Plots", report.plots(images)))
    if failures:
        rows_failed = [(name, reason) for name, reason in failures.items()]
        body.append(report.section("Failed jobs", report.table(("job", "reason"), rows_failed)))
    listed: list[tuple[report.Cell, ...]] = [
        (item.candidate.data, item.candidate.model, seed,
         *(report.Number(scores.metrics.get(name)) for name in metric_columns()), scores.train_seconds,
         runs[item.candidate.data, item.candidate.model, seed])
        for board in boards for item in board.standings for seed, scores in sorted(item.candidate.runs.items())
    ]  # fmt: skip
    run_columns = ("data", "model", "seed", *_titles(), "training, s", "run")
    body.append(report.section("All runs", report.folded("every seed", report.table(run_columns, listed))))
    body.append(
        report.footer(
            f"Latency: median for one image, ONNX Runtime on {num_cores()} cores, of the run in the middle of its "
            "seeds. Spread: standard deviation over seeds, or over folds where there are such."
        )
    )
    return body


def _row(item: Standing, runs: Mapping[tuple[str, str, int], str]) -> dict[str, Any]:
    found = item.candidate
    return {
        **item.to_dict(),
        "run": runs[found.data, found.model, found.representative],
        "runs": {
            str(seed): {"run": runs[found.data, found.model, seed], **scores.to_dict()}
            for seed, scores in sorted(found.runs.items())
        },
    }


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _spread(item: Standing, name: str, decimals: int = 4) -> str:
    found = item.candidate.spread(name)
    return "" if found is None else shown(found, decimals)


def _rounded(value: float | None, decimals: int) -> report.Cell:
    return "-" if value is None else report.Number(value, f"{value:,.{decimals}f}")


def _mean(candidate: Any, name: str) -> float | None:
    found = candidate.spread(name)
    return None if found is None else found.mean
