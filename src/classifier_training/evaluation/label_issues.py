"""Labels that a network contradicts, after confident learning (Northcutt et al. 2021, arXiv:1911.00068)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import require_extra

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelIssues:
    """Which labels are probably wrong.

    Args:
        rows: of the samples with doubtful labels, the most doubtful first, int64 [M].
        quality: probability of the given label of every sample, float [N]: the lower, the more doubtful.
    """

    rows: NDArray[np.int64]
    quality: NDArray[np.float64]


def import_cleanlab() -> tuple[Any, Any]:
    """Return cleanlab's search for label issues and its scores.

    Raises:
        UserError: when it is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues as find
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise require_extra("cleanlab", extra="cleanlab", purpose="analyze run=…") from error
    return find, get_label_quality_scores


def find_label_issues(targets: NDArray[np.int64], probabilities: NDArray[np.float32]) -> LabelIssues:
    """Find samples whose label the network contradicts more surely than it usually does for that class.

    Args:
        targets: class numbers as labelled, int64 [N].
        probabilities: of a network that was not trained on these samples, float [N, K].

    Raises:
        UserError: when cleanlab is not installed.
    """
    find, get_label_quality_scores = import_cleanlab()
    # float32 sums may miss 1 by more than cleanlab allows.
    shares = probabilities.astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    quality = np.asarray(get_label_quality_scores(targets, shares, method="self_confidence"), dtype=np.float64)
    if len(set(targets.tolist())) < 2:
        # With one class there is no noise rate to estimate; the samples that are answered otherwise are all there is.
        doubtful = np.flatnonzero(shares.argmax(axis=1) != targets)
    else:
        # Processes of its own would be forked from one that holds ONNX Runtime's threads.
        doubtful = np.flatnonzero(find(targets, shares, filter_by="prune_by_noise_rate", n_jobs=1))
    return LabelIssues(doubtful[np.argsort(quality[doubtful], kind="stable")], quality)
