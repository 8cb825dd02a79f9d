"""A test that skips for a reason that is not listed fails, and every listed reason is one that a test gives."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.skips import EXTRAS, MAY_SKIP, PROGRAMS, is_listed

TESTS = Path(__file__).parents[1]

MODULE = """
import pytest
{top}

@pytest.mark.skipif(True, reason={reason!r})
def test_marked():
    pass

def test_called():
    pytest.skip({reason!r})

def test_run():
    pass

@pytest.mark.xfail(strict=True)
def test_that_is_known_to_fail():
    raise ValueError
"""


@pytest.mark.parametrize(
    ("reason", "top", "outcome"),
    [
        ("root may read everything", "", "1 passed, 2 skipped, 1 xfailed"),
        ("root may read everything", "pytest.importorskip('no_such_module')", "1 error"),
        ("no time", "", "1 failed, 1 passed, 1 xfailed, 1 error"),
    ],
)
def test_a_skip_fails_unless_its_reason_is_listed(reason: str, top: str, outcome: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(MODULE.format(reason=reason, top=top))
    words = ["-p", "tests.skips", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--rootdir", tmp_path, *words],
        cwd=TESTS.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert outcome in done.stdout
    assert ("tests/skips.py does not list that reason" in done.stdout) == ("error" in outcome)


def given_reasons() -> set[str]:
    """Every reason in the tests, with what is filled in later as a word that the list knows."""
    found = set()
    for path in TESTS.rglob("*.py"):
        if path.name in ("skips.py", Path(__file__).name):
            continue
        text = path.read_text()
        found |= {f"could not import '{name}': x" for name in re.findall(r"importorskip\(\"(\w+)", text)}
        found |= set(re.findall(r"skip(?:if)?\([^\n]*reason=\"([^\"]+)\"", text))
        for reason in re.findall(r"pytest\.skip\(f?\"([^\"]+)\"", text):
            found.add(re.sub(r"\{[^}]*\}", "npm" if reason.startswith("{") else "x", reason))
    return found


def test_the_list_holds_the_reasons_that_tests_give_and_no_others() -> None:
    given = given_reasons()
    assert len(given) > 10
    assert not [reason for reason in given if not is_listed(reason)]
    unused = [pattern for pattern in MAY_SKIP if not any(re.fullmatch(pattern, reason, re.DOTALL) for reason in given)]
    assert not unused
    text = "".join(path.read_text() for path in TESTS.rglob("*.py") if path.name != "skips.py")
    assert not [name for name in (*EXTRAS, *PROGRAMS) if f'"{name}' not in text]
