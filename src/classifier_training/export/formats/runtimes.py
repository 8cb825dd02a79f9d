"""Formats of other makers' runtimes, each for its hardware: OpenVINO, Core ML, LiteRT and TensorRT."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.register import register
from classifier_training.export.job import ExportFormat

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.export.job import ExportJob
    from classifier_training.export.session import Runner


@register(group="format", name="openvino", extra="openvino")
@dataclass(frozen=True, kw_only=True)
class OpenVino(ExportFormat):
    """OpenVINO's format for Intel hardware: openvino/model.xml and model.bin, in float32."""

    file = "openvino"
    from_onnx = True

    def write(self, job: ExportJob, path: Path) -> None:
        """Convert from ONNX."""
        import openvino as ov

        path.mkdir(parents=True, exist_ok=True)
        ov.save_model(ov.convert_model(str(job.onnx_source())), str(path / "model.xml"), compress_to_fp16=False)

    def open(self, job: ExportJob, path: Path) -> Runner:  # noqa: ARG002 - the file needs nothing else
        """Run it on the processor."""
        import openvino as ov

        # Its processors compute in 16 bits where they can unless told otherwise.
        compiled = ov.Core().compile_model(str(path / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda inputs: np.asarray(compiled([inputs])[0], dtype=np.float32)


@register(group="format", name="coreml", extra="coreml")
@dataclass(frozen=True, kw_only=True)
class CoreMl(ExportFormat):
    """Core ML for Apple devices: model.mlpackage, one image at a time; compared on macOS, which alone can run it."""

    file = "model.mlpackage"
    batch_sizes = (1,)

    def write(self, job: ExportJob, path: Path) -> None:
        """Convert from a traced network."""
        import coremltools as ct
        import torch

        shape = (1, 3, job.image_size, job.image_size)
        # Its progress bars are for a conversion that is watched alone.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.inference_mode():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(job.network, torch.zeros(shape))  # type: ignore[no-untyped-call]
            model: Any = ct.convert(
                traced,
                inputs=[ct.TensorType(name="input", shape=shape)],
                outputs=[ct.TensorType(name="logits")],
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT32,
            )
        model.user_defined_metadata.update(job.info.metadata())
        model.save(str(path))

    def open(self, job: ExportJob, path: Path) -> Runner:  # noqa: ARG002 - the file needs nothing else
        """Run it with the system's own library."""
        import coremltools as ct

        model: Any = ct.models.MLModel(str(path))
        return lambda inputs: np.asarray(model.predict({"input": inputs})["logits"], dtype=np.float32)

    def why_not_run(self) -> str:
        """Only macOS has what runs it."""
        return "" if sys.platform == "darwin" else "Core ML runs on macOS alone"


@register(group="format", name="litert", extra="litert")
@dataclass(frozen=True, kw_only=True)
class LiteRt(ExportFormat):
    """LiteRT (TensorFlow Lite) for Android: model.tflite, one image at a time."""

    file = "model.tflite"
    batch_sizes = (1,)

    def write(self, job: ExportJob, path: Path) -> None:
        """Convert from PyTorch."""
        import litert_torch
        import torch

        example = torch.zeros(1, 3, job.image_size, job.image_size)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            litert_torch.convert(job.network, (example,)).export(str(path))

    def open(self, job: ExportJob, path: Path) -> Runner:  # noqa: ARG002 - the file needs nothing else
        """Run it with the interpreter."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()

        def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            interpreter.set_tensor(given["index"], inputs)
            interpreter.invoke()
            return np.array(interpreter.get_tensor(returned["index"]), dtype=np.float32)

        return run


@register(group="format", name="tensorrt")
@dataclass(frozen=True, kw_only=True)
class TensorRt(ExportFormat):
    """TensorRT for the NVIDIA GPU of this machine and this version of TensorRT: model.engine, in float32.

    Args:
        max_batch_size: largest batch that the engine takes; at least the largest that is compared.
    """

    max_batch_size: Annotated[int, Field(ge=7)] = 32

    file = "model.engine"
    from_onnx = True

    def write(self, job: ExportJob, path: Path) -> None:
        """Build an engine from ONNX.

        Raises:
            UserError: when TensorRT or a GPU is not there.
            CheckFailedError: when the engine cannot be built.
        """
        import torch

        try:
            import tensorrt as trt
        except ImportError as error:
            raise UserError(
                "format=tensorrt needs TensorRT, which is not installed",
                "NVIDIA's package, on a machine with the GPU that will run the engine",
                "uv pip install tensorrt",
            ) from error
        if not torch.cuda.is_available():
            raise UserError(
                "format=tensorrt: there is no CUDA device here",
                "the GPU that will run the engine: an engine is built for one kind",
                "export on that machine, or ship model.onnx, which TensorRT reads there",
            )
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        parsed = parser.parse(job.onnx_source().read_bytes())
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        # Its convolutions would otherwise round to 19 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        shape = (3, job.image_size, job.image_size)
        profile.set_shape("input", (1, *shape), (1, *shape), (self.max_batch_size, *shape))
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config) if parsed else None
        if engine is None:
            reasons = "; ".join(parser.get_error(number).desc() for number in range(parser.num_errors))
            raise CheckFailedError(
                f"TensorRT could not build an engine ({reasons or 'its messages stand above'})",
                "a network whose operators TensorRT has",
                "ship model.onnx and run it with ONNX Runtime",
            )
        path.write_bytes(bytes(engine))

    def open(self, job: ExportJob, path: Path) -> Runner:  # noqa: ARG002 - the file needs nothing else
        """Run it on the GPU."""
        import tensorrt as trt
        import torch

        loaded = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(path.read_bytes())
        context = loaded.create_execution_context()

        def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            given = torch.from_numpy(inputs).cuda()
            context.set_input_shape("input", tuple(given.shape))
            returned = torch.empty(tuple(context.get_tensor_shape("logits")), device="cuda")
            context.set_tensor_address("input", given.data_ptr())
            context.set_tensor_address("logits", returned.data_ptr())
            stream = torch.cuda.current_stream()
            context.execute_async_v3(stream.cuda_stream)
            stream.synchronize()
            return np.asarray(returned.cpu().numpy(), dtype=np.float32)

        return run
