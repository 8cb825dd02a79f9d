"""Whether a new run takes the place of the one in production, by what both predicted for served images.

The images are looked at again and again while they come in. A test that is repeated until it rejects would reject at
last, so there are fixed looks, at n, 2n, 4n, ... images, and the k-th may spend alpha / (k (k + 1)) of the error, which
is alpha in all (alpha spending: Lan and DeMets 1983, Biometrika 70, 659-663). How often somebody asks changes nothing:
a verdict is that of the first look that decides, on the first images alone.

Half of alpha belongs to the accuracy, in a test with two sides, the other half to the guardrails. So of two runs that
are equal, one is promoted or rolled back with a chance of at most alpha, however long the roll-out lasts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from classifier_training.core.errors import plural
from classifier_training.evaluation.comparison import fisher, mcnemar
from classifier_training.evaluation.intervals import Estimate, exact_shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

State = Literal["promote", "roll back", "keep on"]
PROMOTE: State = "promote"
ROLL_BACK: State = "roll back"
KEEP_ON: State = "keep on"

MAX_LOOKS = 40
"""More than there will ever be: the last would be at a trillion times the first."""

SLOW_SHARE = 0.95
"""Which of the latencies are compared, as a share of the requests that are faster."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When a run is promoted or rolled back.

    Args:
        min_images: labelled images, and predictions of the new run, before the first look.
        alpha: largest chance of promoting or rolling back a run that is equal to the present one.
        margin: loss of accuracy that is accepted, as a share: a run is promoted once it has been shown to lose less. At
            0 it must be better.
        needs_truth: whether only true labels promote; without them, keeping to all guardrails does.
        max_rejected: largest rise of the share of rejected predictions.
        max_failed: largest share of requests that the new run fails to answer.
        max_confidence_drop: largest fall of the mean confidence.
        max_slower: largest ratio of the latencies that 95 % of the requests keep to; of a canary.
    """

    min_images: int = 100
    alpha: float = 0.05
    margin: float = 0.0
    needs_truth: bool = True
    max_rejected: float = 0.05
    max_failed: float = 0.01
    max_confidence_drop: float = 0.1
    max_slower: float = 1.5

    def looks(self, number: int) -> Iterator[tuple[int, float]]:
        """Yield the looks that so many images allow: how many images each takes, and the error that it may spend."""
        for look in range(MAX_LOOKS):
            size = self.min_images << look
            if size > number:
                return
            yield size, self.alpha / 2 / ((look + 1) * (look + 2))


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What true labels say.

    Args:
        state: the verdict by them.
        num_labelled: images that the verdict is on; of a canary those of the new run.
        new: accuracy of the new run, and of the present one, with intervals that hold for one look.
        present: of the present one.
        p_value: of the look that decided, or of the last one; 1 before the first.
        spent: what the p-value had to reach there.
        needed: about how many more labels decide, if the rates stay as they are; None where no number would.
        words: the evidence in words.
    """

    state: State
    num_labelled: int
    new: Estimate
    present: Estimate
    p_value: float
    spent: float
    needed: int | None
    words: str


def judge_pairs(new: Bools, present: Bools, rules: Rules) -> Accuracy:
    """Judge two runs by the images that both have predicted and whose labels are known; McNemar's exact test.

    Images that both predict alike add nothing to it, so labels for those that they disagree on are enough, unless there
    is a margin: the share of gained and lost images then counts, and the labelled ones must be a random sample.

    Args:
        new: whether the new run is correct, in the order in which the labels came [N].
        present: whether the present one is [N].
        rules: of the verdict.
    """
    gained, lost = np.cumsum(new & ~present), np.cumsum(~new & present)

    def test(size: int, spent: float) -> tuple[float, float, float]:
        up, down = int(gained[size - 1]), int(lost[size - 1])
        low = -1.0
        if rules.margin:
            share_up, share_down = exact_shares(np.array([up, down]), np.array([size, size]), level=1 - spent / 2)
            low = share_up.low - share_down.high
        return mcnemar(up, down), (up - down) / size, low

    state, number, p_value, spent = _first_decision(len(new), test, rules)
    up, down = (int(gained[number - 1]), int(lost[number - 1])) if number else (0, 0)
    shares = exact_shares(np.array([new[:number].sum(), present[:number].sum()]), np.array([number, number]))
    needed = _needed(
        len(new), number, state, rules, lambda scale: mcnemar(round(up * scale), round(down * scale))
    )  # fmt: skip
    words = (
        f"{up:,} images gained, {down:,} lost of {plural(number, 'labelled image')} (McNemar p = {p_value:.2g}, "
        f"{spent:.2g} is asked at this look)" if number else f"{plural(len(new), 'labelled image')}"
    )  # fmt: skip
    return Accuracy(
        state=state, num_labelled=number, new=shares[0], present=shares[1], p_value=p_value, spent=spent,
        needed=needed, words=words,
    )  # fmt: skip


def judge_arms(is_new: Bools, correct: Bools, rules: Rules) -> Accuracy:
    """Judge two runs by different images whose labels are known; Fisher's exact test.

    Args:
        is_new: whether the new run has answered, in the order in which the labels came [N].
        correct: whether the prediction was correct [N].
        rules: of the verdict; looks are by the labelled images of the new run.
    """
    ends = np.flatnonzero(is_new)
    hits, hits_against = np.cumsum(correct & is_new), np.cumsum(correct & ~is_new)

    def counts(size: int) -> tuple[int, int, int, int]:
        end = int(ends[size - 1])
        return int(hits[end]), size, int(hits_against[end]), end + 1 - size

    def test(size: int, spent: float) -> tuple[float, float, float]:
        good, number, others_good, others = counts(size)
        if not others:
            return 1.0, 0.0, -1.0
        low = -1.0
        if rules.margin:
            one, two = exact_shares(np.array([good, others_good]), np.array([number, others]), level=1 - spent / 2)
            low = one.low - two.high
        return fisher(good, number, others_good, others), good / number - others_good / others, low

    state, number, p_value, spent = _first_decision(len(ends), test, rules)
    good, number, others_good, others = counts(number) if number else (0, 0, 0, 0)
    shares = exact_shares(np.array([good, others_good]), np.array([number, others]))
    counted = (good, number, others_good, others)
    needed = _needed(
        len(ends), number, state, rules, lambda scale: fisher(*(round(value * scale) for value in counted))
    )  # fmt: skip
    words = (
        f"{good:,} of {number:,} correct, {others_good:,} of {others:,} of the present run (Fisher p = {p_value:.2g}, "
        f"{spent:.2g} is asked at this look)" if number else f"{plural(len(ends), 'labelled image')} of the new run"
    )  # fmt: skip
    return Accuracy(
        state=state, num_labelled=number, new=shares[0], present=shares[1], p_value=p_value, spent=spent,
        needed=needed, words=words,
    )  # fmt: skip


def _first_decision(
    number: int, test: Callable[[int, float], tuple[float, float, float]], rules: Rules
) -> tuple[State, int, float, float]:
    """Return the state of the first look that decides, its images, its p-value, and what that had to reach.

    Args:
        number: of images there are.
        test: of the first so many images at an error: p-value, difference in accuracy, and its lower limit.
        rules: of the verdict.
    """
    found: tuple[State, int, float, float] = (KEEP_ON, 0, 1.0, rules.alpha / 4)
    for size, spent in rules.looks(number):
        p_value, difference, low = test(size, spent)
        found = (KEEP_ON, size, p_value, spent)
        if (p_value <= spent and difference > 0) or low > -rules.margin:
            return (PROMOTE, *found[1:])
        if p_value <= spent and difference < 0:
            return (ROLL_BACK, *found[1:])
    return found


def _needed(number: int, looked: int, state: State, rules: Rules, p_value: Callable[[float], float]) -> int | None:
    """How many more images the look takes that decides if counts grow in proportion; None where none would.

    Args:
        number: of images there are.
        looked: of them, those of the last look.
        state: after that look.
        rules: of the verdict.
        p_value: of counts so many times as large as at the last look.
    """
    if state != KEEP_ON:
        return 0
    if number < rules.min_images:
        return rules.min_images - number
    looks = rules.looks(looked << 20)
    return next((size - number for size, spent in looks if size > looked and p_value(size / looked) <= spent), None)


@dataclass(frozen=True, kw_only=True)
class Guardrail:
    """One thing that a new run must not make worse; it needs no labels.

    Args:
        name: rejected, failed, confidence or latency.
        state: broken, kept, or open: not shown either way.
        words: the numbers.
    """

    name: str
    state: Literal["broken", "kept", "open"]
    words: str


@dataclass(frozen=True)
class Answers:
    """What one run predicted, in the order of the requests.

    Args:
        confidence: of the predictions [N]; 0 where it failed.
        rejected: whether the prediction was rejected [N].
        failed: whether there was none [N].
        seconds: until it was there [N].
    """

    confidence: Floats
    rejected: Bools
    failed: Bools
    seconds: Floats

    def __len__(self) -> int:
        return len(self.confidence)

    def first(self, number: int) -> Answers:
        """The first so many."""
        return Answers(self.confidence[:number], self.rejected[:number], self.failed[:number], self.seconds[:number])


def check_guardrails(
    new: Answers, present: Answers, ends: NDArray[np.int64] | None, rules: Rules
) -> tuple[State, int, tuple[Guardrail, ...]]:
    """Check the guardrails at each look.

    Args:
        new: answers of the new run [N].
        present: of the present one: to the same images [N], or to others [M].
        ends: how many answers of the present run there were at each of the new run's [N]; None for the same images.
        rules: of the verdict.

    Returns:
        Roll back if one is broken, promote if all are kept; the images of the look; the guardrails there.
    """
    found: tuple[State, int, tuple[Guardrail, ...]] = (KEEP_ON, 0, ())
    for size, spent in rules.looks(len(new)):
        others = present.first(size if ends is None else int(ends[size - 1]))
        rails = tuple(_rails(new.first(size), others, is_paired=ends is None, rules=rules, spent=spent))
        states = {rail.state for rail in rails}
        found = (ROLL_BACK if "broken" in states else PROMOTE if states == {"kept"} else KEEP_ON, size, rails)
        if "broken" in states:
            return found
    return found


def _rails(new: Answers, present: Answers, *, is_paired: bool, rules: Rules, spent: float) -> Iterator[Guardrail]:
    """Check each guardrail with its part of the error of a look."""
    error = spent / (3 if is_paired else 4)
    low, high = _rise(new.rejected, present.rejected, is_paired=is_paired, error=error)
    (own,), (others,) = (exact_shares(part.rejected.sum(), np.array([len(part)])) for part in (new, present))
    words = f"rejected {own.value:.2%} vs. {others.value:.2%}; at most {rules.max_rejected:.0%} more"
    yield Guardrail(name="rejected", state=_state(low, high, rules.max_rejected), words=words)
    (failed,) = exact_shares(new.failed.sum(), np.array([len(new)]), level=1 - error)
    words = f"failed {failed.value:.2%}; at most {rules.max_failed:.0%}"
    yield Guardrail(name="failed", state=_state(failed.low, failed.high, rules.max_failed), words=words)
    low, high = _fall(new.confidence[~new.failed], present.confidence[~present.failed], error=error)
    words = (
        f"mean confidence {_mean(new.confidence[~new.failed]):.4f} vs. "
        f"{_mean(present.confidence[~present.failed]):.4f}; "
        f"at most {rules.max_confidence_drop:g} less"
    )
    yield Guardrail(name="confidence", state=_state(low, high, rules.max_confidence_drop), words=words)
    if is_paired:
        # A shadow waits until the cores are free: its latency is not that of a run in production.
        return
    own_low, own_high = _quantile_interval(new.seconds, error / 2)
    others_low, others_high = _quantile_interval(present.seconds, error / 2)
    ratio = (own_low / others_high if others_high else 0.0, own_high / others_low if others_low else math.inf)
    words = (
        f"{SLOW_SHARE:.0%} within {_quantile(new.seconds) * 1000:.1f} ms vs. "
        f"{_quantile(present.seconds) * 1000:.1f} ms; "
        f"at most {rules.max_slower:g} times"
    )
    yield Guardrail(name="latency", state=_state(*ratio, rules.max_slower), words=words)


def _state(low: float, high: float, limit: float) -> Literal["broken", "kept", "open"]:
    return "broken" if low > limit else "kept" if high <= limit else "open"


def _rise(new: Bools, present: Bools, *, is_paired: bool, error: float) -> tuple[float, float]:
    """Interval of the difference of two shares; of exact intervals, each with half of the error."""
    if is_paired:
        hits, trials = np.array([(new & ~present).sum(), (~new & present).sum()]), np.array([len(new), len(new)])
    else:
        hits, trials = np.array([new.sum(), present.sum()]), np.array([len(new), len(present)])
    one, two = exact_shares(hits, trials, level=1 - error / 2)
    if not trials.all():
        return -1.0, 1.0
    return one.low - two.high, one.high - two.low


def _fall(new: Floats, present: Floats, *, error: float) -> tuple[float, float]:
    """Interval of the fall of a mean of values in [0, 1]: empirical Bernstein bounds (Maurer and Pontil 2009)."""
    if min(len(new), len(present)) < 2:
        return -1.0, 1.0
    width = 0.0
    for values in (new, present):
        # Four bounds: two sides of two means.
        chance = math.log(2 * 4 / error)
        width += math.sqrt(2 * float(values.var(ddof=1)) * chance / len(values)) + 7 * chance / (3 * (len(values) - 1))
    fall = _mean(present) - _mean(new)
    return fall - width, fall + width


def _quantile_interval(seconds: Floats, error: float) -> tuple[float, float]:
    """Interval of the quantile at SLOW_SHARE by order statistics, which is exact for any distribution."""
    from scipy.stats import binom

    number = len(seconds)
    if not number:
        return 0.0, math.inf
    ordered = np.sort(seconds)
    low = int(binom.ppf(error / 2, number, SLOW_SHARE))
    high = int(binom.ppf(1 - error / 2, number, SLOW_SHARE)) + 1
    return (
        float(ordered[low - 1]) if low >= 1 else 0.0,
        float(ordered[high - 1]) if high <= number else math.inf,
    )


def _quantile(seconds: Floats) -> float:
    return float(np.quantile(seconds, SLOW_SHARE)) if len(seconds) else float("nan")


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


@dataclass(frozen=True, kw_only=True)
class RolloutVerdict:
    """The verdict on a roll-out.

    Args:
        state: promote, roll back or keep on.
        words: the verdict in words.
        kind: shadow or canary.
        num_requests: that the new run has answered, or failed to answer.
        num_present: that the present run has answered beside them.
        accuracy: by true labels.
        agreement: share of the images that a shadow gave the label of the run in production.
        guardrails: at the look that decided, or the last one.
        left_out: what was not counted, in numbers by name.
    """

    state: State
    words: str
    kind: Literal["shadow", "canary"]
    num_requests: int
    num_present: int
    accuracy: Accuracy
    agreement: Estimate | None
    guardrails: tuple[Guardrail, ...]
    left_out: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The verdict and the evidence, a line each."""
        found = [f"{self.state}: {self.words}", f"accuracy: {self.accuracy.words}"]
        if self.accuracy.num_labelled:
            found[-1] += f"; {self.accuracy.new} vs. {self.accuracy.present} of the present run"
        if self.agreement is not None:
            found.append(
                f"agreement: {self.agreement} of {plural(self.num_requests, 'image')} get the present run's label; "
                "agreement is not accuracy: it does not say which is right where they differ"
            )
        found += [f"{rail.state}: {rail.words}" for rail in self.guardrails]
        left = [f"{number:,} {name}" for name, number in self.left_out.items() if number]
        return [*found, *([f"not counted: {', '.join(left)}"] if left else [])]

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        accuracy = self.accuracy
        return {
            "state": self.state,
            "words": self.words,
            "kind": self.kind,
            "num_requests": self.num_requests,
            "num_present": self.num_present,
            "accuracy": {
                "state": accuracy.state, "num_labelled": accuracy.num_labelled, "new": accuracy.new.to_dict(),
                "present": accuracy.present.to_dict(), "p_value": accuracy.p_value, "spent": accuracy.spent,
                "needed": accuracy.needed,
            },
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "guardrails": {rail.name: {"state": rail.state, "words": rail.words} for rail in self.guardrails},
            "left_out": self.left_out,
        }  # fmt: skip


def combine(
    accuracy: Accuracy,
    rails: tuple[State, int, tuple[Guardrail, ...]],
    rules: Rules,
    *,
    kind: Literal["shadow", "canary"],
    num_requests: int,
    num_present: int,
    agreement: Estimate | None = None,
    left_out: dict[str, int] | None = None,
) -> RolloutVerdict:
    """Make one verdict of the accuracy and the guardrails: what breaks one is rolled back, however accurate."""
    rail_state, rail_images, guardrails = rails
    broken = [rail.words for rail in guardrails if rail.state == "broken"]
    state: State = KEEP_ON
    if broken:
        state, words = ROLL_BACK, f"a guardrail is broken: {'; '.join(broken)}"
    elif accuracy.state != KEEP_ON:
        state = accuracy.state
        shown = "not worse by more than the margin" if accuracy.p_value > accuracy.spent else "better"
        words = f"the new run is {shown if state == PROMOTE else 'worse'}: {accuracy.words}"
    elif not rules.needs_truth and rail_state == PROMOTE:
        state, words = PROMOTE, f"all guardrails are kept on {plural(rail_images, 'image')}; no label says more"
    elif accuracy.needed is None:
        words = "no difference is seen that more labels would show; margin=0.01 accepts a run that is no worse by more"
    elif not accuracy.num_labelled:
        words = (
            f"{plural(accuracy.needed, 'more labelled image')} until the first look; without labels nothing is known"
        )
    else:
        words = f"about {plural(accuracy.needed, 'more labelled image')} decide if the rates stay as they are"
    return RolloutVerdict(
        state=state, words=words, kind=kind, num_requests=num_requests, num_present=num_present, accuracy=accuracy,
        agreement=agreement, guardrails=guardrails, left_out=left_out or {},
    )  # fmt: skip
