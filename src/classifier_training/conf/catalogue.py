"""Every module that registers a component: one line each. Importing this file fills the register."""

import classifier_training.callbacks.checkpoint
import classifier_training.callbacks.confusion_matrix
import classifier_training.callbacks.dataset_statistics
import classifier_training.callbacks.early_stopping
import classifier_training.callbacks.ema
import classifier_training.callbacks.history
import classifier_training.callbacks.model_info
import classifier_training.callbacks.onnx_export
import classifier_training.callbacks.progress
import classifier_training.callbacks.sample_grid
import classifier_training.callbacks.sampler_monitor
import classifier_training.data.formats.auto
import classifier_training.data.formats.digits
import classifier_training.data.formats.files
import classifier_training.data.formats.image_folder
import classifier_training.data.formats.jsonl
import classifier_training.data.formats.slides
import classifier_training.data.formats.table
import classifier_training.data.samplers
import classifier_training.data.transforms
import classifier_training.export.formats.coreml
import classifier_training.export.formats.litert
import classifier_training.export.formats.onnx
import classifier_training.export.formats.openvino
import classifier_training.export.formats.ort
import classifier_training.export.formats.safetensors
import classifier_training.export.formats.tensorrt
import classifier_training.export.formats.torchscript
import classifier_training.models.resnet
import classifier_training.models.timm_models
import classifier_training.training.loggers
import classifier_training.training.losses
import classifier_training.training.optim
import classifier_training.training.settings  # noqa: F401
