"""`demo.html`: a page that classifies images in the browser, with pipeline.onnx. Needs no torch and no network."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.runtime import cache_dir, command, setting

if TYPE_CHECKING:
    from classifier_training.core.run_dir import RunDir

ORT_PACKAGE, ORT_VERSION = "onnxruntime-web", "1.30.0"
ORT_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs of the package: its JavaScript, and ONNX Runtime itself."""

CLIENT_MODULES = Path(__file__).parents[3] / "clients" / "js" / "node_modules"
"""Where `npm install` in a checkout of the project leaves its packages."""

DOWNLOAD_TIMEOUT_SECONDS = 300


def write_demo(run_dir: RunDir, *, ort: Path | None = None) -> None:
    """Write demo.html and demo/, which with pipeline.onnx are all that a web server needs.

    Args:
        run_dir: of a run that has its pipeline.onnx.
        ort: folder with the files of onnxruntime-web; None takes those of clients/js, or asks npm for them.

    Raises:
        UserError: when there is no pipeline.onnx, or onnxruntime-web cannot be had.
    """
    if not run_dir.pipeline.is_file():
        raise UserError(
            f"{run_dir.pipeline}: is missing",
            "the run's pipeline, which the page runs",
            f"write it first: {command('export')} {setting('run', run_dir.path)}",
        )
    assets = run_dir.demo.with_suffix("")
    runtime = find_ort(ort)
    for name in ORT_FILES:
        _copy(runtime / name, assets / name)
    page = files("classifier_training.export") / "page"
    for name, target in (("classifier.js", assets / "classifier.js"), ("demo.html", run_dir.demo)):
        with as_file(page / name) as source:
            _copy(source, target)


def find_ort(folder: Path | None = None) -> Path:
    """Return a folder with onnxruntime-web's files; `folder` itself when one is given.

    Raises:
        UserError: when they are not there, or cannot be downloaded.
    """
    if folder is not None:
        if missing := [name for name in ORT_FILES if not (folder / name).is_file()]:
            raise UserError(
                f"{folder}: no {missing[0]}",
                f"the folder of {ORT_PACKAGE} that holds {' and '.join(ORT_FILES)}",
                f"npm install {ORT_PACKAGE}@{ORT_VERSION}, then ort=node_modules/{ORT_PACKAGE}/dist",
            )
        return folder
    kept = cache_dir() / f"{ORT_PACKAGE}-{ORT_VERSION}"
    for candidate in (CLIENT_MODULES / ORT_PACKAGE / "dist", kept):
        if all((candidate / name).is_file() for name in ORT_FILES):
            return candidate
    _download(kept)
    return kept


def _download(folder: Path) -> None:
    """Have npm fetch the package, and keep the few files that are needed."""
    npm = shutil.which("npm")
    if npm is None:
        raise _unavailable("npm is not installed")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            subprocess.run(  # noqa: S603 - no word of it comes from outside
                [npm, "pack", f"{ORT_PACKAGE}@{ORT_VERSION}", "--pack-destination", temporary],
                cwd=temporary, check=True, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_SECONDS,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise _unavailable(f"npm failed ({_last_line(error.stderr)})") from error
        except subprocess.TimeoutExpired as error:
            raise _unavailable(f"npm took over {DOWNLOAD_TIMEOUT_SECONDS} s") from error
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as packed:
            for name in ORT_FILES:
                try:
                    content = packed.extractfile(f"package/dist/{name}")
                except KeyError as error:
                    raise _unavailable(f"{name} is not in its package, or a link in it") from error
                if content is None:
                    raise _unavailable(f"{name} is no file in its package")
                with content, atomic_path(folder / name) as target, target.open("wb") as file:
                    shutil.copyfileobj(content, file)


def _unavailable(reason: str) -> UserError:
    return UserError(
        f"the demo page needs {ORT_PACKAGE}: {reason}",
        f"{ORT_PACKAGE} {ORT_VERSION} in clients/js/node_modules, in the cache, or within npm's reach",
        f"where there is a network: npm install {ORT_PACKAGE}@{ORT_VERSION}; then ort=node_modules/{ORT_PACKAGE}/dist",
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "complete log" not in line]
    return lines[-1] if lines else "it says nothing"


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
