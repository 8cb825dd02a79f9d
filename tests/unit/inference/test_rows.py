from __future__ import annotations

from classifier_training.inference.rows import Row, Summary


def row(path: str, label: str | None, confidence: float = 0.0) -> Row:
    error = "no such file" if label is None else None
    shares = [] if label is None else [{"label": label, "probability": confidence}, {"label": "z", "probability": 0.1}]
    return Row(
        path=path,
        label=label,
        confidence=None if label is None else confidence,
        top_k=shares,  # type: ignore[typeddict-item]
        rejected=None if label is None else confidence < 0.5,
        reject_reason="low_confidence" if label is not None and confidence < 0.5 else None,
        error=error,
    )


ROWS = [row("a.jpg", "cat", 0.9), row("bb.jpg", None), row("c\x1b.jpg", "", 0.4), row("d.jpg", "cat", 0.8)]


def summary(num_shown: int | None) -> Summary:
    made = Summary(0.5, num_shown)
    for item in ROWS:
        made.add(item)
    return made


def test_the_summary_counts_what_passed() -> None:
    assert summary(0).words(12.34) == [
        "4 images, 1 error, 2/3 at or above the threshold 0.5, average confidence 70.0%, 12.3 images/s",
        "  label    images  share",
        "  cat           2  66.7%",
        "  (empty)       1  33.3%",
    ]


def test_the_table_shows_the_first_rows_and_says_how_many_more_there_are() -> None:
    assert summary(None).table() == [
        "path       label    confidence  others",
        "a.jpg      cat           90.0%  z 10.0%",
        "bb.jpg                          error: no such file",
        "c\\x1b.jpg  (empty)       40.0%  z 10.0%  below the threshold",
        "d.jpg      cat           80.0%  z 10.0%",
        "",
    ]
    kept = summary(1)
    assert kept.table()[2] == "… and 3 more (max_display=0 shows all)"
    assert len(kept.shown) == 1
    assert summary(0).table() == []


def test_a_summary_of_errors_alone_has_no_averages() -> None:
    made = Summary(0.5, 0)
    made.add(row("a", None))
    assert made.words(None) == ["1 image, 1 error, 0/0 at or above the threshold 0.5"]
