"""How likely each label is, from predictions by models that were not trained on it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.types import row_blocks
from classifier_training.evaluation.neighbours import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

NUM_FOLDS = 5
PENALTY = 0.3
"""L2 penalty of the probes, for features of unit variance. Of 0.03 to 1, it ranked wrong labels best."""

MAX_FITTED = 50_000
"""Most images that a probe is fitted to; more add little, and would not fit into memory."""

MAX_DOUBLES = 2**27
MAX_COMPARED = 50_000
"""Most training images among which the nearest are looked for; of more, so many at random say how far they lie."""

SEED = 0
MAX_STEPS = 100
NUM_NEIGHBOURS = 10
TOLERANCE = 1e-6
"""Of confidences that are equal but for rounding."""


def probability_type(num_images: int, num_classes: int) -> type[np.floating]:
    """Type of the probabilities of labels: float32 where there are more than `MAX_DOUBLES`, which take a GiB."""
    return np.float32 if num_images * num_classes > MAX_DOUBLES else np.float64


def cross_fitted(
    features: NDArray[np.floating],
    targets: NDArray[np.int64],
    groups: Sequence[int],
    num_classes: int,
    *,
    seed: int = 0,
) -> NDArray[np.floating]:
    """Predict each image with softmax regression that was fitted to features of other images.

    Args:
        features: [N, D].
        targets: class numbers as labelled, int64 [N].
        groups: images of a group are in one fold [N].
        num_classes: K.
        seed: of the folds.

    Returns:
        Probabilities [N, K]; rows of NaN for images whose class occurs in no other group.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    found = np.full((len(targets), num_classes), np.nan, probability_type(len(targets), num_classes))
    # Every class may be smaller than a number of folds, but not all of them.
    largest = int(np.bincount(targets).max()) if len(targets) else 0
    num_folds = min(NUM_FOLDS, len(set(groups)), largest)
    if num_folds < 2:
        return found
    generator = np.random.default_rng(seed)
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Rare classes are in fewer folds, and probes need not be exact.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The least populated class")
        for rest, own in folds.split(targets, targets, groups):
            others = generator.choice(rest, MAX_FITTED, replace=False) if len(rest) > MAX_FITTED else rest
            known = np.unique(targets[others])
            if len(known) < 2:
                continue
            probe = make_pipeline(
                StandardScaler(), LogisticRegression(C=1 / (PENALTY * len(others)), max_iter=MAX_STEPS)
            )
            # Several threads wait for each other at every product, for longer than it takes where cores are busy.
            with threadpool_limits(1, user_api="blas"):
                probe.fit(features[others].astype(np.float32), targets[others])
            judged = own[np.isin(targets[own], known)]
            step = max(1, MAX_DOUBLES // max(features.shape[1], num_classes))
            for first in range(0, len(judged), step):
                some = judged[first : first + step]
                found[some] = 0
                found[np.ix_(some, known)] = probe.predict_proba(features[some].astype(np.float32))
    return found


@dataclass(frozen=True)
class LabelIssues:
    """Which labels are probably wrong.

    Args:
        rows: of the images with doubtful labels, the most doubtful first, int64 [M].
        quality: probability of the given label of every image, float64 [N]: the lower, the more doubtful; NaN where it
            was not judged.
    """

    rows: NDArray[np.int64]
    quality: NDArray[np.float64]


def find_label_issues(
    targets: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    judges: NDArray[np.integer] | None = None,
    biased: Collection[int] = (),
) -> LabelIssues:
    """Rank labels by their probability, and estimate how many of the first are wrong.

    The number is that of confident learning (Northcutt et al. 2021, arXiv:1911.00068), as cleanlab counts it: an image
    counts when another class is at least as probable as that class is on average among the images labelled with it.

    Args:
        targets: class numbers as labelled, int64 [N].
        probabilities: of models that were not trained on these images, [N, K]; rows of NaN are not judged.
        judges: number of the model that each row is of, whose confidence is compared with itself alone [N]; all are of
            one when left out.
        biased: models whose features were trained on these labels. Such features make a wrong label look better, so
            that few contradictions are as confident as usual: every prediction of another class counts.
    """
    quality = np.asarray(probabilities[np.arange(len(targets)), targets], dtype=np.float64)
    judges = np.zeros(len(targets), dtype=np.int64) if judges is None else judges
    doubtful: list[int] = []
    for judge in np.unique(judges):
        own = np.flatnonzero(np.isfinite(quality) & (judges == judge))
        if judge in biased:
            number = int((probabilities[own].argmax(axis=1) != targets[own]).sum())
        else:
            number = _count_issues(targets[own], probabilities[own])
        doubtful += own[np.argsort(quality[own], kind="stable")[:number]].tolist()
    rows = np.array(doubtful, dtype=np.int64)
    return LabelIssues(rows[np.argsort(quality[rows], kind="stable")], quality)


def _count_issues(targets: NDArray[np.int64], probabilities: NDArray[np.floating]) -> int:
    present, numbers = np.unique(targets, return_inverse=True)
    if not len(targets):
        return 0
    if len(present) < 2:
        # With one class there is no noise rate to estimate; the images that are predicted otherwise are all there is.
        return int((probabilities.argmax(axis=1) != targets).sum())
    usual = np.array([probabilities[numbers == number, label].mean() for number, label in enumerate(present.tolist())])
    number = 0
    for rows in row_blocks(probabilities.shape):
        shares = probabilities[rows][:, present]
        confident = shares >= usual - TOLERANCE
        likely = np.where(confident, shares, -1).argmax(axis=1)
        number += int((confident.any(axis=1) & (likely != numbers[rows])).sum())
    return number


def outlier_scores(features: NDArray[np.floating], is_train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Say how unlike the training images, or `MAX_COMPARED` of them, each image is, from 0 to 1 [N].

    The cosine distance d to its tenth nearest training image (Sun et al. 2022, arXiv:2204.06507) becomes d / (d + f):
    0.5 is the far fence f of Tukey (1977), the third quartile of the training images' own distances plus three times
    the range between their quartiles.

    Args:
        features: [N, D].
        is_train: which are training images [N].
    """
    num_train = int(is_train.sum())
    if num_train < 3:
        return np.full(len(features), np.nan)
    known = np.flatnonzero(is_train)
    if num_train > MAX_COMPARED:
        known = np.sort(np.random.default_rng(SEED).choice(known, MAX_COMPARED, replace=False))
    k = min(NUM_NEIGHBOURS, num_train - 1)
    found = nearest(features[known], features, k + 1)
    # A training image that is compared with finds itself first.
    places = np.where(np.isin(np.arange(len(features)), known), k, k - 1)
    distances = np.clip(1 - found.similarities[np.arange(len(features)), places].astype(np.float64), 0, None)
    low, high = np.quantile(distances[is_train], (0.25, 0.75))
    fence = max(high + 3 * (high - low), 1e-6)
    return np.asarray(distances / (distances + fence))
