"""The cheapest of many exported files that meets a user's wishes, with as few of them made, timed and scored as can be.

Files differ in network, input size and number format. What is known of a file beforehand are lower bounds: of its size,
by its weights, and of its latency, by its operations and by the same network at a smaller input. The files are visited
in the order of these bounds (best first, as A* does), so none is looked at whose bound is above the latency of the file
that is chosen. Needs no torch.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.export.benchmark import Timing

MIB = 2**20

FileForm = Literal["onnx", "fp16", "int8"]
"""Number formats of an ONNX file: float32, half precision, eight bits."""


NOISE = 1.1
"""A file that all repetitions find slower than a few did, by more than this factor, goes back among the others."""


class CannotMakeError(Exception):
    """A file cannot be made, or fails its check; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a file must meet.

    Args:
        max_latency_ms: largest median time for one image; None for any.
        max_size_mb: largest file, in MiB; None for any.
        max_drop: largest loss of accuracy against the reference, in points; the upper bound of the loss is held to it.
    """

    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    max_drop: float

    @property
    def max_bytes(self) -> float:
        """The largest file in bytes."""
        return float("inf") if self.max_size_mb is None else self.max_size_mb * MIB

    @property
    def max_ms(self) -> float:
        """The largest latency."""
        return float("inf") if self.max_latency_ms is None else self.max_latency_ms


@dataclass(frozen=True, kw_only=True)
class Option:
    """A file that is there or can be made.

    Args:
        run: its place in the list of runs.
        image_size: side of the square input in pixels.
        form: onnx (float32), fp16 or int8.
        least_ms: a lower bound of its latency.
        least_bytes: a lower bound of its size.
        least_loss: a lower bound of the upper end of its loss, in points: of few images that end is high, whatever is
            predicted.
    """

    run: int
    image_size: int
    form: FileForm
    least_ms: float = field(default=0.0, compare=False)
    least_bytes: float = field(default=0.0, compare=False)
    least_loss: float = field(default=0.0, compare=False)

    @property
    def source(self) -> Option:
        """The float32 file that it is made of; itself if it is one."""
        return replace(self, form="onnx")


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Loss of accuracy against the reference, on the same images.

    Args:
        num_images: that were predicted.
        gained: images that the file alone classifies correctly.
        lost: images that the reference alone classifies correctly.
        bound: upper end of the one-sided 95 % interval of the loss, in points. Of a file that was given up before the
            last image it is a lower bound of that end.
        low: lower end of the one-sided 95 % interval, in points.
        is_whole: whether all images were predicted.
    """

    num_images: int
    gained: int
    lost: int
    bound: float
    low: float
    is_whole: bool

    @property
    def points(self) -> float:
        """The loss on these images, in points."""
        return 100 * (self.lost - self.gained) / self.num_images if self.num_images else 0.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a file costs.

    Args:
        timing: of one image at a time.
        size_bytes: of the file.
    """

    timing: Timing
    size_bytes: int


class Measures(Protocol):
    """Makes and measures files. What was measured once is kept."""

    def drop(self, option: Option, *, limit: float | None) -> Drop:
        """Return the loss of accuracy of a file; a float32 file need not be made for it.

        Args:
            option: the file.
            limit: points; predictions may end once the bound cannot be within it any more. None predicts all images.

        Raises:
            CannotMakeError: when the file cannot be had.
        """
        ...

    def cost(self, option: Option) -> Cost:
        """Make a file if it is not there, and time it with few repetitions.

        Raises:
            CannotMakeError: when the file cannot be had.
        """
        ...

    def confirm(self, option: Option) -> tuple[Cost, Drop]:
        """Measure the file as it would be shipped: timed with all repetitions, predicted on all images.

        Raises:
            CannotMakeError: when a check of the file fails.
        """
        ...


@dataclass(kw_only=True)
class Visit:
    """What a walk found out about a file.

    Args:
        option: the file.
        drop: loss of accuracy; None where it was not asked for.
        cost: None where it was not timed.
        reason: why it is not the chosen one; empty for that.
        missed: the wish that it misses, or empty.
    """

    option: Option
    drop: Drop | None = None
    cost: Cost | None = None
    reason: str = ""
    missed: str = ""


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The result of a walk.

    Args:
        visits: one for each option, in their order.
        chosen: the fastest file that meets the wishes; None where none does.
    """

    visits: tuple[Visit, ...]
    chosen: Visit | None


def walk(options: Sequence[Option], wishes: Wishes, measures: Measures, *, is_shipped: bool = True) -> Walk:
    """Find the fastest file that meets all wishes.

    It is the one that measuring all of them would find, as long as the lower bounds are right, a network is not faster
    at a larger input, and no copy in fewer bits meets the wish for accuracy where its float32 file does not. Such a
    copy is not made: it would be chosen by chance.

    Args:
        options: the files; none is visited twice.
        wishes: to meet.
        measures: makes and measures files.
        is_shipped: whether the chosen file is also measured as it would be shipped.
    """
    visits = {option: Visit(option=option) for option in options}
    fastest: dict[tuple[int, str], list[tuple[int, float]]] = {}
    waiting = [(option.least_ms, option.least_bytes, number) for number, option in enumerate(options)]
    heapq.heapify(waiting)
    confirmed: set[Option] = set()
    chosen: Visit | None = None
    while waiting:
        bound, _, number = heapq.heappop(waiting)
        option = options[number]
        visit, chain = visits[option], fastest.setdefault((option.run, option.form), [])
        if visit.cost is None:
            # A smaller input of the same network, measured since, is a bound too.
            least = max([bound, *(ms for size, ms in chain if size <= option.image_size)])
            if chosen is not None:
                visit.reason = f"not faster: at least {least:.3g} ms"
                continue
            if least > bound:
                heapq.heappush(waiting, (least, option.least_bytes, number))
                continue
        elif chosen is not None:
            visit.reason = f"slower: {bound:.3g} ms"
            continue
        try:
            if _is_left_out(visit, bound, wishes, measures):
                continue
            if visit.cost is None:
                visit.cost = measures.cost(option)
                ms = visit.cost.timing.median_ms
                chain.append((option.image_size, ms))
                heapq.heappush(waiting, (ms, visit.cost.size_bytes, number))
                continue
            visit.drop = measures.drop(option, limit=wishes.max_drop)
            if _misses(visit, wishes):
                continue
            if is_shipped and option not in confirmed:
                confirmed.add(option)
                visit.cost, visit.drop = measures.confirm(option)
                ms = visit.cost.timing.median_ms
                if waiting and ms > max(NOISE * bound, waiting[0][0]) and not _misses(visit, wishes):
                    # Slower than it seemed: another file may be faster.
                    heapq.heappush(waiting, (ms, visit.cost.size_bytes, number))
                    continue
            if not _misses(visit, wishes):
                chosen = visit
        except CannotMakeError as error:
            visit.reason = str(error)
    return Walk(visits=tuple(visits.values()), chosen=chosen)


def _is_left_out(visit: Visit, least_ms: float, wishes: Wishes, measures: Measures) -> bool:
    """Whether bounds, or the float32 file that it is made of, leave a file out before it is made."""
    option = visit.option
    if visit.cost is not None:
        return _misses(visit, wishes)
    if option.least_bytes > wishes.max_bytes:
        visit.reason, visit.missed = f"too large: at least {option.least_bytes / MIB:.2f} MiB", "max_size_mb"
    elif least_ms > wishes.max_ms:
        visit.reason, visit.missed = f"too slow: at least {least_ms:.3g} ms", "max_latency_ms"
    elif option.least_loss > wishes.max_drop:
        visit.reason, visit.missed = "too few images to show so small a loss", "max_drop"
    else:
        drop = measures.drop(option.source, limit=wishes.max_drop)
        if option.form == "onnx":
            visit.drop = drop
        if drop.bound > wishes.max_drop:
            visit.missed, visit.reason = "max_drop", _too_much(drop)
            if option.form != "onnx":
                visit.reason = f"not made: the float32 file {_too_much(drop)}"
    return bool(visit.reason)


def _misses(visit: Visit, wishes: Wishes) -> bool:
    """Say which wish a measured file misses, if any."""
    assert visit.cost is not None
    ms, size, drop = visit.cost.timing.median_ms, visit.cost.size_bytes, visit.drop
    visit.missed, visit.reason = "", ""
    if size > wishes.max_bytes:
        visit.missed, visit.reason = "max_size_mb", "too large"
    elif ms > wishes.max_ms:
        visit.missed, visit.reason = "max_latency_ms", "too slow"
    elif drop is not None and drop.bound > wishes.max_drop:
        visit.missed, visit.reason = "max_drop", _too_much(drop)
    return bool(visit.missed)


def _too_much(drop: Drop) -> str:
    return "may lose too much" + ("" if drop.is_whole else f", as {drop.num_images:,} images show")


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """How near the files come to a wish that cannot be met together with the others.

    Args:
        wish: the setting.
        visit: the nearest file, which meets the other wishes; None where no file meets those.
        value: of it, in the wish's unit.
        limit: that was wished.
    """

    wish: str
    visit: Visit | None
    value: float
    limit: float


def nearest(options: Sequence[Option], wishes: Wishes, measures: Measures) -> list[Nearest]:
    """Leave out each of the wishes in turn, and find the file that meets the others.

    Without the wish for latency it is the fastest file, without the one for size the smallest, and without the one for
    accuracy the one that loses least.

    Args:
        options: the files.
        wishes: that no file meets together.
        measures: makes and measures files.
    """
    found = []
    if wishes.max_latency_ms is not None:
        best = walk(options, replace(wishes, max_latency_ms=None), measures, is_shipped=False).chosen
        ms = float("nan") if best is None or best.cost is None else best.cost.timing.median_ms
        found.append(Nearest(wish="max_latency_ms", visit=best, value=ms, limit=wishes.max_latency_ms))
    if wishes.max_size_mb is not None:
        best = _smallest(options, replace(wishes, max_size_mb=None), measures)
        size = float("nan") if best is None or best.cost is None else best.cost.size_bytes / MIB
        found.append(Nearest(wish="max_size_mb", visit=best, value=size, limit=wishes.max_size_mb))
    best = _most_accurate(options, wishes, measures)
    bound = float("nan") if best is None or best.drop is None else best.drop.bound
    found.append(Nearest(wish="max_drop", visit=best, value=bound, limit=wishes.max_drop))
    return found


def _smallest(options: Sequence[Option], wishes: Wishes, measures: Measures) -> Visit | None:
    """Return the smallest file that meets the wishes, by walks among ever smaller ones."""
    best: Visit | None = None
    left = list(options)
    while (found := walk(left, wishes, measures, is_shipped=False).chosen) is not None and found.cost is not None:
        best = found
        size = found.cost.size_bytes
        left = [one for one in left if one != found.option and one.least_bytes < size]
        wishes = replace(wishes, max_size_mb=(size - 1) / MIB)
    return best


def _most_accurate(options: Sequence[Option], wishes: Wishes, measures: Measures) -> Visit | None:
    """Return the file within latency and size that loses least, as far as the loss of float32 files shows it."""
    within = [one for one in options if one.least_bytes <= wishes.max_bytes and one.least_ms <= wishes.max_ms]
    losses: dict[Option, float] = {}
    for source in dict.fromkeys(one.source for one in within):
        try:
            losses[source] = measures.drop(source, limit=None).points
        except CannotMakeError:
            continue
    best: Visit | None = None
    for option in sorted((one for one in within if one.source in losses), key=lambda one: losses[one.source]):
        if best is not None and best.drop is not None and losses[option.source] > best.drop.points:
            break
        visit = Visit(option=option)
        try:
            visit.cost = measures.cost(option)
            visit.drop = None
            if _misses(visit, wishes):
                continue
            visit.drop = measures.drop(option, limit=None)
        except CannotMakeError:
            continue
        if best is None or best.drop is None or visit.drop.bound < best.drop.bound:
            best = visit
    return best
