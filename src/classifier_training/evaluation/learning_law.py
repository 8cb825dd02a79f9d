"""How the recall of a class grows with its training images: a power law, fitted to all classes together.

Errors follow an inverse power law of the number of training images that levels off (Hestness et al. 2017,
arXiv:1712.00409; Rosenfeld et al. 2020, arXiv:1909.12673). Fitted to each class alone, the law is too uncertain to be
extrapolated (Mahmood et al. 2022, arXiv:2207.01725), so classes share what is known of its shape. Here it holds for
the odds of an error, which are the share of errors where errors are rare, and stay a share where they are not:

    odds(x) = odds(1) * (rest + (1 - rest) * x ** -exponent)

x is the number of images over that of now, and `rest` the share of the errors of now that no number of images removes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

EXPONENTS = np.array([0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.4])
RESTS = np.linspace(0, 0.9, 10)
TYPICAL_EXPONENT, EXPONENT_SPREAD = 0.5, 0.7
"""Before anything is measured: the middle of the exponents, and the spread of their logarithms."""

LAW, FLAT, FALLING = 0.87, 0.05, 0.08
"""Before anything is measured: how probable it is that a class follows the law, stays as it is, or loses recall."""

PRIOR_CLASSES = 4.0
"""So many classes count as much as what is believed before anything is measured."""

MISFITS = np.array([0.02, 0.1, 0.2, 0.35, 0.6])
"""By how much the law may be wrong: standard deviations of the log odds where images are e times as many."""

NUM_SAMPLES = 4_000
NUM_UPDATES = 30
"""Of the weights of shapes."""

MIN_LEVEL_VARIANCE = 1.0
"""Of the log odds of the classes: what is known of one says little of another's."""


@dataclass(frozen=True, kw_only=True)
class CurvePoints:
    """Errors on held-out images of classifiers that were fitted to parts of the training images.

    Args:
        images_now: training images of each class, int64 [K].
        sizes: of them in each part, int64 [K, J], growing.
        errors: wrong predictions of the held-out images, mean over the draws of a part, float64 [K, J].
        held_out: images of each class, int64 [K].
        covariance: of the errors of one held-out image between parts, over that of a single draw, float64 [J, J].
        draw_variance: of the log odds by the choice of the training images, at as many as now.
        num_draws: of each part, int64 [J].
    """

    images_now: Ints
    sizes: Ints
    errors: Floats
    held_out: Ints
    covariance: Floats
    draw_variance: float
    num_draws: Ints

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        arrays = {name: value.tolist() for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {**arrays, "draw_variance": self.draw_variance}

    def of(self, places: Sequence[int]) -> CurvePoints:
        """Return the points of some of the classes."""
        chosen = {name: getattr(self, name)[places] for name in ("images_now", "sizes", "errors", "held_out")}
        return replace(self, **chosen)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CurvePoints:
        """Read that form.

        Raises:
            KeyError: when something is missing.
        """
        return cls(
            images_now=np.array(values["images_now"], np.int64),
            sizes=np.array(values["sizes"], np.int64),
            errors=np.array(values["errors"], np.float64),
            held_out=np.array(values["held_out"], np.int64),
            covariance=np.array(values["covariance"], np.float64),
            draw_variance=float(values["draw_variance"]),
            num_draws=np.array(values["num_draws"], np.int64),
        )


def summarize_points(images_now: Ints, sizes: Ints, correct: Sequence[NDArray[np.bool_]], targets: Ints) -> CurvePoints:
    """Count the errors of each class, and find how much they vary with the images and the draws.

    The variances are what a bootstrap over held-out images and draws would give with very many resamples. They are
    pooled over the classes: a single one may have no error at all.

    Args:
        images_now: training images of each class [K].
        sizes: of them in each part [K, J].
        correct: for each part, whether each held-out image is correctly classified, bool [draws, N].
        targets: their classes [N].
    """
    num_classes = len(images_now)
    held_out = np.bincount(targets, minlength=num_classes)
    support = np.maximum(held_out, 1)[:, None]
    wrong = [1.0 - part for part in correct]
    by_draw = [np.stack([np.bincount(targets, draw, num_classes) for draw in part], axis=1) / support for part in wrong]
    shares = np.stack([part.mean(axis=1) for part in by_draw], axis=1)
    deviations = np.stack([part.mean(axis=0) for part in wrong], axis=1) - shares[targets]
    single = np.maximum((shares * (1 - shares) * support).sum(axis=0) / len(targets), 1e-9)
    covariance = deviations.T @ deviations / len(targets) / np.sqrt(single * single[:, None])
    # Where hardly any image is wrong, nothing is known of how parts go together.
    covariance += np.diag(np.maximum(0.05 - np.diag(covariance), 0))
    found = []
    for place, part in enumerate(by_draw):
        share = sizes[:, place].sum() / sizes[:, -1].sum()
        if part.shape[1] > 1 and share < 1:
            spread = part.var(axis=1, ddof=1).mean() / (
                np.square(shares[:, place] * (1 - shares[:, place])).mean() + 1e-6
            )
            # Parts of the same images vary less than others would.
            found.append(spread * share / (1 - share))
    return CurvePoints(
        images_now=images_now,
        sizes=sizes,
        errors=shares * support,
        held_out=held_out,
        covariance=covariance,
        draw_variance=min(float(np.median(found)), 0.25) if found else 0.0,
        num_draws=np.array([len(part) for part in correct]),
    )


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Shapes that a curve may have.

    Args:
        rests: share of the errors of now that remains, or of the odds of a correct one for shapes that fall [G].
        exponents: of the law [G].
        signs: 1 where errors become fewer, -1 where they become more [G].
        prior: how probable each is before anything is measured [G].
    """

    rests: Floats
    exponents: Floats
    signs: Floats
    prior: Floats

    @classmethod
    def usual(cls) -> Shapes:
        """Return a grid of them."""
        exponents, rests = (values.ravel() for values in np.meshgrid(EXPONENTS, RESTS))
        falling = np.array([[0.5, 0.3], [0.5, 0.8], [0.8, 0.3], [0.8, 0.8]])
        law = np.exp(-0.5 * np.square(np.log(exponents / TYPICAL_EXPONENT) / EXPONENT_SPREAD))
        return cls(
            rests=np.concatenate([rests, [1.0], falling[:, 0]]),
            exponents=np.concatenate([exponents, [1.0], falling[:, 1]]),
            signs=np.concatenate([np.ones(len(law) + 1), -np.ones(len(falling))]),
            prior=np.concatenate([LAW * law / law.sum(), [FLAT], np.full(len(falling), FALLING / len(falling))]),
        )

    def log_odds(self, growth: Floats) -> Floats:
        """Log odds of an error less those of now, [G, ...], for images over those of now [...], which may be inf."""
        rests, exponents, signs = (
            values.reshape(-1, *[1] * growth.ndim) for values in (self.rests, self.exponents, self.signs)
        )
        with np.errstate(divide="ignore"):
            return np.asarray(signs * np.log(rests + (1 - rests) * growth[None] ** -exponents))


class LearningCurves:
    """The law, fitted to the classes together.

    The points of a class are normal given the shape of its curve and the size of the law's misfit (a random walk along
    the logarithm of the number of images). So nothing is searched for: a grid of both is weighed by how well it
    explains the points. How common shapes are is learned from all classes (empirical Bayes by expectation
    maximization), as is the misfit.

    Args:
        points: what was measured.
        shares: whether classes learn from each other; False for comparisons.
    """

    def __init__(self, points: CurvePoints, *, shares: bool = True) -> None:
        self.points = points
        self.shapes = Shapes.usual()
        wrong, right = points.errors + 0.5, points.held_out[:, None] - points.errors + 0.5
        self._log_odds = np.log(wrong / right)
        spread = np.sqrt(1 / wrong + 1 / right)
        growth = points.sizes / points.images_now[:, None]
        noise = spread[:, :, None] * spread[:, None] * points.covariance
        draws = points.draw_variance * np.maximum(1 / growth - 1, 0) / points.num_draws
        noise += (draws + 1e-4)[:, None] * np.eye(growth.shape[1])
        last = self._log_odds[:, -1]
        self._mean = last.mean()
        # A few classes say little of how different classes are.
        excess = last.var(ddof=1) - noise[:, -1, -1].mean() if len(last) > 1 else 0.0
        self._variance = max(float(excess), MIN_LEVEL_VARIANCE)
        steps = -np.log(growth)
        walk = np.minimum(steps[:, :, None], steps[:, None])
        self._covariances = noise + self._variance + np.square(MISFITS)[:, None, None, None] * walk
        self._rises = self.shapes.log_odds(growth)
        self._weigh(PRIOR_CLASSES if shares else np.inf)

    def _weigh(self, prior_classes: float) -> None:
        """Find the probability of each shape [M, G, K] and misfit [M] given the points."""
        inverses = np.linalg.inv(self._covariances)
        residuals = self._log_odds - self._mean - self._rises
        fit = np.einsum("gkj,mkjl,gkl->mgk", residuals, inverses, residuals)
        log_likelihoods = -0.5 * (fit + np.linalg.slogdet(self._covariances)[1][:, None])
        best = log_likelihoods.max(axis=1, keepdims=True)
        likelihoods = np.exp(log_likelihoods - best)
        weights = np.broadcast_to(self.shapes.prior[:, None], (len(MISFITS), len(self.shapes.prior), 1)).copy()
        for _ in range(NUM_UPDATES if np.isfinite(prior_classes) else 0):
            found = weights * likelihoods
            found /= found.sum(axis=1, keepdims=True)
            total = prior_classes * self.shapes.prior[:, None] + found.sum(axis=2, keepdims=True)
            weights = total / (prior_classes + found.shape[2])
        joint = weights * likelihoods
        evidence = (np.log(joint.sum(axis=1)) + best[:, 0]).sum(axis=1)
        self._by_misfit = np.exp(evidence - evidence.max())
        self._by_misfit /= self._by_misfit.sum()
        self._by_shape = joint / joint.sum(axis=1, keepdims=True)

    def sample(
        self, place: int, growth: Floats, *, hits: tuple[int, int] | None = None, spread: float = 0.0, seed: int = 0
    ) -> tuple[Floats, Floats]:
        """Draw curves of a class, each as probable as the next.

        Args:
            place: of the class.
            growth: images over those of now [X], 1 or more, growing.
            hits: images that were correctly classified, and all, where it is the recall of another classifier that
                grows in the same proportions; None for the classifier of the points.
            spread: by how much that other classifier may grow otherwise: standard deviation of the log odds where
                images are e times as many.
            seed: of the draw.

        Returns:
            Recall, float64 [S, X], and the recall that no number of images of this kind exceeds, float64 [S].
        """
        generator = np.random.default_rng([seed, place])
        misfits = generator.choice(len(MISFITS), NUM_SAMPLES, p=self._by_misfit)
        cumulated = self._by_shape[:, :, place].cumsum(axis=1)
        shapes = (generator.random((NUM_SAMPLES, 1)) > cumulated[misfits]).sum(axis=1).clip(max=cumulated.shape[1] - 1)
        if hits is None:
            gains = self._variance * np.linalg.inv(self._covariances[:, place]).sum(axis=1)
            residuals = self._log_odds[place] - self._mean - self._rises[shapes, place]
            means = self._mean + (residuals * gains[misfits]).sum(axis=1)
            variances = np.maximum(self._variance * (1 - gains.sum(axis=1)), 0)[misfits]
            levels = generator.normal(means, np.sqrt(variances))
        else:
            right, number = hits
            shares = generator.beta(number - right + 0.5, right + 0.5, NUM_SAMPLES)
            levels = np.log(shares) - np.log1p(-shares)
        steps = np.diff(np.log(growth), prepend=0.0)
        walk = (generator.normal(size=(NUM_SAMPLES, len(growth))) * np.sqrt(steps)).cumsum(axis=1)
        draws = generator.normal(size=(NUM_SAMPLES, 1)) * np.sqrt(self.points.draw_variance * (1 - 1 / growth))
        wander = np.sqrt(np.square(MISFITS[misfits, None]) + spread**2) * walk
        rises = self.shapes.log_odds(growth)[shapes] + wander + draws
        limits = levels + self.shapes.log_odds(np.array([np.inf]))[shapes, 0] + wander[:, -1]
        return _recall(levels[:, None] + rises), _recall(limits)


def _recall(log_odds: Floats) -> Floats:
    """Recall where an error has such odds."""
    return np.asarray(1 / (1 + np.exp(log_odds)))
