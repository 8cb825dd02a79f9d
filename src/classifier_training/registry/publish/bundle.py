"""What of a run is published: the bundle, without checkpoints and images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier_training.core.run_reader import RunReader

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir


def bundle_files(run: RunDir) -> list[Path]:
    """List the files and folders of a bundle: the exports, what describes them, and what the run was and gave."""
    exported = [run.path / name for name in RunReader(run).info["files"]]
    beside = [run.model_info, run.labels_mapping, run.config, run.versions, run.result, run.registration]
    return [path for path in (*exported, *beside) if path.exists()]
