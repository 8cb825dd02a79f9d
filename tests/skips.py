"""Which tests may skip, and why; any other skip is a failure, so that nothing goes untested without a word."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

EXTRAS = (
    "cleanlab", "coremltools", "cv2", "datasets", "kubernetes_validate", "lance", "litert_torch", "matplotlib_fontja",
    "mlflow", "openvino", "obstore", "optuna", "pillow_heif", "pyarrow", "ray", "sqlalchemy", "transformers",
)  # fmt: skip
"""Modules of optional extras. All but litert's are in the default group."""

PROGRAMS = ("chromium", "chromedriver", "cmake", "c++", "node", "npm", "uv")
"""What the tests of clients and of pages start, and no Python package installs."""

MAY_SKIP = {
    rf"could not import '({'|'.join(EXTRAS)})(\..*)?': .*": "an optional extra is not installed",
    rf"({'|'.join(map(re.escape, PROGRAMS))}) is not installed": "the program is not on this machine",
    r"older runtimes cannot be installed: .*": "PyPI is out of reach, or has no wheel for this machine",
    r"MLflow's server cannot be installed: .*": "PyPI is out of reach, or has no wheel for this machine",
    r"npm is not installed, and neither is onnxruntime-web: .*": "the program is not on this machine",
    r"axe-core is not installed: .*": "npm or its registry is out of reach",
    r"ONNX Runtime's or nlohmann-json's C\+\+ headers are not installed; .*": "the headers are not on this machine",
    r"no C compiler to make writes fail with": "the compiler is not on this machine",
    r"hadolint has wheels for Linux on x86-64 alone": "the program is not on this machine",
    r"SeaweedFS has wheels for Linux on x86-64 alone": "the program is not on this machine",
    r"needs root and Slurm.s programs: .*": "the programs are not on this machine",
    r"PostgreSQL is not installed": "the program is not on this machine",
    r"root may read (everything|every folder)": "permissions mean nothing to root",
    r"this system has no /dev/full": "macOS",
    r"malloc is not glibc's": "macOS, or Linux with musl",
    r"there is a CUDA device": "the test is about machines without",
}
"""Reasons for which a test may skip, as patterns, each with when it does."""


def is_listed(reason: str) -> bool:
    """Whether a test may skip for this reason."""
    return any(re.fullmatch(pattern, reason, re.DOTALL) for pattern in MAY_SKIP)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: object) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse(report)
    return report


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if not is_listed(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped ({reason}), and tests/skips.py does not list that reason"
