"""Every module that registers a component: one line each. Importing this file fills the register.

Packages that add components are loaded when the register is first looked up: once there is a log to name one that
fails in, and only in commands that look.
"""

import classifier_training.callbacks.lightning
import classifier_training.callbacks.model_files
import classifier_training.callbacks.plots
import classifier_training.data.augmenting.transforms
import classifier_training.data.formats.downloads
import classifier_training.data.formats.image_folder
import classifier_training.data.formats.jsonl
import classifier_training.data.formats.lance
import classifier_training.data.formats.listing
import classifier_training.data.formats.table
import classifier_training.data.formats.webdataset
import classifier_training.data.sample_sets.builders
import classifier_training.data.samplers
import classifier_training.evaluation.metrics
import classifier_training.evaluation.verdict
import classifier_training.export.formats.onnx
import classifier_training.export.formats.pytorch
import classifier_training.export.formats.runtimes
import classifier_training.export.formats.saved_model
import classifier_training.export.formats.triton
import classifier_training.models.huggingface
import classifier_training.models.own
import classifier_training.models.prune
import classifier_training.models.shallow
import classifier_training.models.timm_models
import classifier_training.models.torchvision_models
import classifier_training.registry.publishing
import classifier_training.training.imbalance
import classifier_training.training.loggers
import classifier_training.training.losses
import classifier_training.training.optim
import classifier_training.training.settings
import classifier_training.training.transfer  # noqa: F401
from classifier_training.core.plugins import load_plugins
from classifier_training.core.register import when_asked

when_asked(load_plugins)
