"""TensorRT, for NVIDIA's graphics processors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.register import register
from classifier_training.core.run_dir import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from classifier_training.export.job import ExportedFile, ExportJob


@register(group="format", name="tensorrt")
def tensorrt(job: ExportJob, *, max_batch_size: Annotated[int, Field(ge=7)] = 32) -> list[ExportedFile]:
    """TensorRT for the NVIDIA GPU of this machine and this version of TensorRT: model.engine, in float32.

    Args:
        max_batch_size: largest batch that the engine takes; at least the largest that is compared.

    Raises:
        UserError: when TensorRT or a GPU is not there.
        CheckFailedError: when the engine cannot be built, or answers differently from PyTorch.
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
    engine = _build(trt, logger, job, max_batch_size)
    path = job.target.tensorrt
    with atomic_path(path) as temporary:
        temporary.write_bytes(engine)
    return [job.finish(path, "tensorrt", _runner(trt, logger, engine))]


def _build(trt: Any, logger: Any, job: ExportJob, max_batch_size: int) -> bytes:
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(job.onnx_source().read_bytes())
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    # Its convolutions would otherwise round to 19 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    side = job.image_size
    profile.set_shape("input", (1, 3, side, side), (1, 3, side, side), (max_batch_size, 3, side, side))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config) if parsed else None
    if engine is None:
        reasons = "; ".join(parser.get_error(number).desc() for number in range(parser.num_errors))
        raise CheckFailedError(
            f"TensorRT could not build an engine ({reasons or 'its messages stand above'})",
            "a network whose operators TensorRT has",
            "ship model.onnx and run it with ONNX Runtime",
        )
    return bytes(engine)


def _runner(trt: Any, logger: Any, engine: bytes) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    import torch

    loaded = trt.Runtime(logger).deserialize_cuda_engine(engine)
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
