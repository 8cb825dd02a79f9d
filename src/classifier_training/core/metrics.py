"""The table of metrics: what each is called, what becomes of it, and which direction is better.

Everything that asks about a metric reads this table: monitors, reports, pages, model cards, plots and leaderboards.
`evaluation.metrics` fills it. A package of its own adds to it with `register_metric` as its module loads.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OF_CLASS = "_class_"
"""Between a metric's name and that of the class it is of."""

CALIBRATED = "calibrated_"
"""Begins the names of metrics of probabilities that a temperature was applied to."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. What it is computed from is for the classes derived from this one, in `evaluation.metrics`.

    The averages of a metric by class are columns of their own, named macro_NAME and weighted_NAME. Where a page, card,
    plot or leaderboard shows one value of it, that is the macro average.

    Args:
        name: in files and settings; one by class has the column NAME_class_CLASS for each class.
        title: on pages and plots.
        short: the title where there is little room; the title itself when left out.
        lower_is_better: direction.
        by_class: whether it has a value for each class.
        averages: those that exist of a metric by class.
        class_column: name in the columns of classes, where it differs from `name`.
        min_classes: fewest classes for which it says something.
        logged: whether it, or its macro average, is logged after each epoch; others are where they are monitored.
        logs_classes: whether the values of the classes are logged after each epoch.
        calibrated: whether it is also reported of the calibrated probabilities, as calibrated_NAME.
        interval: method of its 95 % interval: bootstrap; exact (Clopper-Pearson), for shares of images; delong, for
            the area under the ROC curve; none. Averages have bootstrap or delong.
        on_page: whether the report page lists it.
        on_card: whether the model card lists it.
        hub: the Hugging Face Hub's name for it; left out where it has none.
        plot: training-history plot that shows it.
        leaderboard: its column in a leaderboard.
    """

    name: str
    title: str
    short: str = ""
    lower_is_better: bool = False
    by_class: bool = False
    averages: tuple[Literal["macro", "weighted"], ...] = ("macro", "weighted")
    class_column: str = ""
    min_classes: int = 1
    logged: bool = False
    logs_classes: bool = False
    calibrated: bool = False
    interval: Literal["bootstrap", "exact", "delong", "none"] = "bootstrap"
    on_page: bool = True
    on_card: bool = False
    hub: str = ""
    plot: Literal["loss", "accuracy"] | None = None
    leaderboard: str = ""

    @property
    def main_column(self) -> str:
        """The column that stands for it where there is room for one."""
        return f"macro_{self.name}" if self.by_class else self.name

    @property
    def titles(self) -> dict[str, str]:
        """Title of each column over all classes: the metric itself, or its averages."""
        if self.by_class:
            return {f"{average}_{self.name}": f"{average} {self.title}" for average in self.averages}
        return {self.name: self.title}

    @property
    def calibrated_titles(self) -> dict[str, str]:
        """Title of each column of calibrated probabilities."""
        titles = self.titles if self.calibrated else {}
        return {CALIBRATED + name: f"{title}, calibrated" for name, title in titles.items()}

    @property
    def short_title(self) -> str:
        """Title of the main column where there is little room."""
        return self.short or self.titles[self.main_column]

    def class_columns(self, class_names: Iterable[str]) -> list[str]:
        """Names of the columns of classes."""
        if not self.by_class:
            return []
        return [f"{self.class_column or self.name}{OF_CLASS}{name}" for name in class_names]


AnyMetric = TypeVar("AnyMetric", bound=Metric)

_table: dict[str, Metric] = {}


def register_metric(metric: AnyMetric) -> AnyMetric:
    """Add a metric to the table.

    Raises:
        ValueError: when its name is taken or cannot be one, or its averages are not those that there are.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", metric.name):
        raise ValueError(f"metric {metric.name!r}: a name has small letters, digits and _")
    unknown = sorted(set(metric.averages) - {"macro", "weighted"})
    if unknown or (metric.by_class and "macro" not in metric.averages):
        raise ValueError(f"metric {metric.name}: averages={metric.averages}: macro, or macro and weighted")
    taken = {column for known in _table.values() for column in _columns(known)}
    if clash := sorted(taken & _columns(metric)):
        raise ValueError(f"metric {metric.name}: the column {clash[0]} is taken by another metric")
    _table[metric.name] = metric
    return metric


@contextmanager
def metrics_all_or_none() -> Iterator[None]:
    """Forget what the block has added to the table when it raises."""
    before = dict(_table)
    try:
        yield
    except BaseException:
        _table.clear()
        _table.update(before)
        raise


def all_metrics(num_classes: int | None = None) -> list[Metric]:
    """The table in its order, or what of it says something about so many classes."""
    return [metric for metric in _table.values() if num_classes is None or num_classes >= metric.min_classes]


def metric_of(column: str) -> Metric | None:
    """The metric that a column is of, such as f1 of macro_f1 and f1_class_cat; None for an unknown one."""
    head, of_class, _ = column.partition(OF_CLASS)
    return next((metric for metric in _table.values() if head + of_class in _columns(metric)), None)


def goal_of(metric: str) -> Literal["min", "max"]:
    """Whether a metric, named with its split as in val/loss, is to be made large (max) or small (min).

    One that is not in the table, such as that of a package that is not installed here, counts as better when larger.

    Raises:
        RuntimeError: when the table has not been filled.
    """
    if not _table:
        raise RuntimeError("the table of metrics is empty: import classifier_training.conf.catalogue first")
    known = metric_of(metric.partition("/")[2])
    return "min" if known is not None and known.lower_is_better else "max"


def _columns(metric: Metric) -> set[str]:
    """All columns, those of the classes as their beginning."""
    return {*metric.titles, *metric.calibrated_titles, *metric.class_columns([""])}
