"""What a package needs that adds a model, a callback, a data format, an export format, a metric or a launcher.

    from classifier_training.plugins import BuiltModel, InputSpec, register

A package is found by an entry point in the group `classifier_training.plugins`, which names a module whose import
registers its components, or a function that does so. CONTRIBUTING.md has an example of each. Names that are not listed
here may change in any version.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier_training.callbacks.observer import EpochEnd, FitEnd, Observer, RunContext
    from classifier_training.core.errors import CheckFailedError, UserError
    from classifier_training.core.metrics import register_metric
    from classifier_training.core.register import register
    from classifier_training.core.run_dir import RunDir, atomic_path, write_csv, write_json, write_text
    from classifier_training.core.settings import PathText, Pretrained
    from classifier_training.core.types import BuiltModel, InputSpec, SplitResult, SplitTable, Weights
    from classifier_training.data.formats.source import DataSource, FolderSource
    from classifier_training.data.index import SampleIndex
    from classifier_training.data.samples import Sample
    from classifier_training.data.walk import Walker
    from classifier_training.evaluation.counts import ratio
    from classifier_training.evaluation.metrics import FromCounts, FromImages, FromProbabilities, FromRanking
    from classifier_training.export.formats.pytorch import torch_runner
    from classifier_training.export.job import ExportedFile, ExportFormat, ExportJob
    from classifier_training.export.session import Runner
    from classifier_training.models.shallow import ShallowModel
    from classifier_training.workflows.many_runs.launch.base import JobSpec, Launcher, Outcome, Submitted
    from classifier_training.workflows.many_runs.launch.process import JobProcess

_PLACES = {
    "callbacks.observer": ("EpochEnd", "FitEnd", "Observer", "RunContext"),
    "core.errors": ("CheckFailedError", "UserError"),
    "core.metrics": ("register_metric",),
    "core.register": ("register",),
    "core.run_dir": ("RunDir", "atomic_path", "write_csv", "write_json", "write_text"),
    "core.settings": ("PathText", "Pretrained"),
    "core.types": ("BuiltModel", "InputSpec", "SplitResult", "SplitTable", "Weights"),
    "data.formats.source": ("DataSource", "FolderSource"),
    "data.index": ("SampleIndex",),
    "data.samples": ("Sample",),
    "data.walk": ("Walker",),
    "export.formats.pytorch": ("torch_runner",),
    "export.job": ("ExportFormat", "ExportJob", "ExportedFile"),
    "export.session": ("Runner",),
    "evaluation.counts": ("ratio",),
    "evaluation.metrics": ("FromCounts", "FromImages", "FromProbabilities", "FromRanking"),
    "models.shallow": ("ShallowModel",),
    "workflows.many_runs.launch.base": ("JobSpec", "Launcher", "Outcome", "Submitted"),
    "workflows.many_runs.launch.process": ("JobProcess",),
}

_MODULES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "BuiltModel", "CheckFailedError", "DataSource", "EpochEnd", "ExportFormat", "ExportJob", "ExportedFile", "FitEnd",
    "FolderSource", "FromCounts", "FromImages", "FromProbabilities", "FromRanking", "InputSpec", "JobProcess",
    "JobSpec", "Launcher", "Observer", "Outcome", "PathText", "Pretrained", "RunContext", "RunDir", "Runner",
    "Sample", "SampleIndex", "ShallowModel", "SplitResult", "SplitTable", "Submitted", "UserError", "Walker",
    "Weights", "atomic_path", "ratio", "register", "register_metric", "torch_runner", "write_csv", "write_json",
    "write_text",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: a model shall not pay for what a data format needs."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"classifier_training.{_MODULES[name]}"), name)
