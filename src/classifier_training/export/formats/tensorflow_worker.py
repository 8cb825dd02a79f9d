"""Writes and runs a SavedModel in an environment of its own, which has TensorFlow and onnx2tf, and nothing of ours.

    tensorflow_worker.py write model.onnx FOLDER
    tensorflow_worker.py run FOLDER

`run` answers each line `INPUTS.npy OUTPUTS.npy` of its input, tab between, with a line once the outputs are written.
"""

# ruff: noqa: T201 - a program that another interpreter runs, whose lines are its answers

from __future__ import annotations

import sys


def write(onnx_path: str, folder: str) -> None:
    """Convert an ONNX file: `input` float32 [B, 3, H, W] -> `logits` float32 [B, K], as signature serving_default."""
    import onnx2tf
    import tensorflow

    network = onnx2tf.convert(
        input_onnx_file_path=onnx_path,
        # What it would write itself names its outputs by numbers.
        disable_model_save=True,
        # Else the images would have their channels last.
        keep_shape_absolutely_input_names=["input"],
        non_verbose=True,
    )
    served = tensorflow.Module()
    served.network = network
    shape = (None, *network.inputs[0].shape[1:])

    @tensorflow.function(input_signature=[tensorflow.TensorSpec(shape, tensorflow.float32, name="input")])  # type: ignore[untyped-decorator]
    def serve(images: object) -> dict[str, object]:
        given = network(images)
        return {"logits": given[0] if isinstance(given, (list, tuple)) else given}

    tensorflow.saved_model.save(served, folder, signatures={"serving_default": serve})


def run(folder: str) -> None:
    """Load a SavedModel as TensorFlow Serving does, by its signature alone, and answer until the input ends."""
    import numpy as np
    import tensorflow

    signature = tensorflow.saved_model.load(folder).signatures["serving_default"]
    for line in sys.stdin:
        inputs, outputs = line.rstrip("\n").split("\t")
        logits = signature(input=tensorflow.constant(np.load(inputs)))["logits"]
        np.save(outputs, logits.numpy())
        print("done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*sys.argv[2:])
    else:
        run(sys.argv[2])
