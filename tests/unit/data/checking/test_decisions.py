"""Findings about the corrections of a data set."""

from __future__ import annotations

from pathlib import Path

from classifier_training.data.checking.decisions import check_corrections, check_edits
from classifier_training.data.checking.findings import Finding
from classifier_training.data.corrections import Action, LabelCorrection, apply_corrections
from classifier_training.data.samples import Sample

SAMPLES = tuple(Sample(f"{label}/{number}.png", label, "train") for label in ("cat", "dog") for number in range(3))


def line(
    path: str, new: str = "", *, action: Action = "relabel", who: str = "ana", digest: str = ""
) -> LabelCorrection:
    return LabelCorrection(path=path, sha256=digest, old=path.split("/")[0], new=new, action=action, who=who)


def found(root: Path, *lines: LabelCorrection) -> dict[str, Finding]:
    corrected = apply_corrections(root, SAMPLES, lines)
    return {finding.code: finding for finding in check_corrections(SAMPLES, corrected)}


def test_without_corrections_nothing_is_found(tmp_path: Path) -> None:
    assert found(tmp_path) == {}


def test_what_corrections_did_is_counted(tmp_path: Path) -> None:
    findings = found(
        tmp_path,
        line("cat/0.png", "dog"),
        line("cat/1.png", "dog"),
        line("cat/1.png", action="keep"),
        line("dog/0.png", action="drop"),
        line("dog/1.png", "val", action="move"),
    )
    assert set(findings) == {"corrections"}
    assert findings["corrections"].title == (
        "corrections: 1 label changed, 1 sample left out, 1 sample moved to another split, "
        "1 label looked at and kept, 1 line replaced by later ones"
    )


def test_lines_without_effect_are_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/0.png").write_bytes(b"another image")
    findings = found(
        tmp_path,
        line("cat/0.png", "dog", digest="0" * 64),
        line("cat/9.png", "dog"),
        LabelCorrection(path="dog/0.png", old="cow", new="cat", action="relabel"),
    )
    assert set(findings["corrections_ignored"].rows) == {
        ("cat/0.png", "was another image when it was looked at"),
        ("cat/9.png", "is not in the data"),
        ("dog/0.png", "has another label in the data now"),
    }
    assert findings["corrections"].title == "corrections: nothing changed"


def test_people_who_disagree_are_named_and_those_who_changed_their_mind_are_not(tmp_path: Path) -> None:
    findings = found(
        tmp_path,
        line("cat/0.png", "dog"),
        line("cat/0.png", action="keep", who="ben"),
        line("cat/1.png", "dog"),
        line("cat/1.png", action="drop"),
        line("cat/2.png", "dog"),
        line("cat/2.png", "dog", who="ben"),
    )
    assert findings["corrections_by_several_people"].rows == (("cat/0.png", "ana: dog, then ben: keep"),)


def test_a_class_that_corrections_alone_name_may_be_misspelt(tmp_path: Path) -> None:
    findings = found(tmp_path, line("cat/0.png", "dgo"), line("cat/1.png", "horse"), line("cat/2.png", "dog"))
    assert findings["corrections_to_new_classes"].rows == (
        ("dgo", "1 image: cat/0.png; did you mean dog?"),
        ("horse", "1 image: cat/1.png"),
    )


def test_edits_say_which_command_takes_them(tmp_path: Path) -> None:
    file, written = tmp_path / "edited.csv", Path("data_report/corrections.csv")
    assert check_edits(file, (), written=written, root="/my/images", folder=tmp_path).severity == "note"
    finding = check_edits(file, [line("cat/0.png", "dog")], written=written, root="/my/images", folder=tmp_path)
    assert (
        f"train data.root=/my/images data.splits={file} data.corrections=data_report/corrections.csv" in finding.remedy
    )
    assert finding.rows == (("cat/0.png", "cat to dog"),)
    several = check_edits(file, [line("cat/0.png", "dog")], written=written, root=None, folder=tmp_path)
    assert "cp " not in several.remedy
