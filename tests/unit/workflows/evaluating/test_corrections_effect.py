from __future__ import annotations

from classifier_training.data.corrections import UNDONE, LabelCorrection, standing
from classifier_training.workflows.evaluating.corrections_effect import WITHDRAWN, new_corrections


def test_a_decision_that_was_taken_back_counts_as_none() -> None:
    made = LabelCorrection(path="1.png", old="a", new="b", action="relabel")
    undone = LabelCorrection(path="1.png", old="a", action="keep", why=UNDONE)
    kept = LabelCorrection(path="2.png", old="a", action="keep")
    assert standing([made, undone, kept]) == {("2.png", "a"): kept}
    assert new_corrections([made], [made, undone, kept]) == {"keep": 1, WITHDRAWN: 1}
    assert new_corrections([], [made, undone]) == {}
