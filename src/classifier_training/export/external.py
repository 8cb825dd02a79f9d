"""ONNX files may keep tensors in other files; what they name there is held to their own folder. Needs no torch."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from classifier_training.core.contained import contained
from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnx import GraphProto, ModelProto, TensorProto

MARK = b"location"
"""What stands in every file that keeps a tensor elsewhere. The others need not be parsed twice."""


def refuse_escaping_data(path: Path) -> None:
    """Raise when an ONNX file keeps tensors outside its folder.

    Raises:
        UserError: for the first such tensor; or when the file is no ONNX.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            return  # what opens it says that it is empty
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(MARK) < 0:
                return
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's, which has no types
        raise UserError(f"{path}: no ONNX file ({error})", "the file that the run exported", "restore it") from error
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                contained(path.parent, entry.value, where=f"{path}, tensor {tensor.name!r}")


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: object) -> Iterator[TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                if graph.node or graph.initializer or graph.sparse_initializer:
                    yield from _graph_tensors(graph)
