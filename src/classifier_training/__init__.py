"""From a folder of images to a classifier you can trust and ship, in one command or a few lines of Python."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier_training.api import Metric, Mistake, Predictor, Run, Verdict, load_run, train
    from classifier_training.core.errors import UserError
    from classifier_training.core.types import Prediction

__all__ = [
    "Metric",
    "Mistake",
    "Prediction",
    "Predictor",
    "Run",
    "UserError",
    "Verdict",
    "__version__",
    "load_run",
    "train",
]

__version__ = version("classifier-training")

_PLACES = {
    **dict.fromkeys(
        ("Metric", "Mistake", "Predictor", "Run", "Verdict", "load_run", "train"), "classifier_training.api"
    ),
    "Prediction": "classifier_training.core.types",
    "UserError": "classifier_training.core.errors",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that importing the package takes no time."""
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
