"""One graph as one ONNX file that ONNX Runtime, OpenVINO and TensorRT take alike.

Precision travels in the file: a graph whose body is float16 becomes a file whose body is float16, which
is what a strongly typed TensorRT asks for. No converter touches the file afterwards.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
import torch
from onnx import TensorProto
from torch import nn

from edge.errors import EdgeError

OPSET = 18
"""Old enough for every TensorRT 10, and what torch's exporter writes without converting."""

DATA_DEPENDENT_OPS = frozenset({"If", "Loop", "Scan", "NonZero", "NonMaxSuppression", "Compress", "Unique"})
"""Control flow, and shapes that depend on values: TensorRT-RTX refuses some, and all slow a device down."""


class ExportError(EdgeError):
    """A graph did not become a file that all engines take."""


def export(
    module: nn.Module,
    example_shape: Sequence[int],
    path: Path,
    *,
    input_name: str,
    output_names: Sequence[str],
) -> None:
    """Write a graph with one uint8 input as a single ONNX file, after checking it with `refuse_unportable`.

    The same graph gives the same bytes, and the file holds nothing of the machine that wrote it.

    Args:
        module: a DetectorGraph, a ClassifierGraph, or any module from one uint8 tensor to its outputs.
        example_shape: [B,S,S,3]. S is fixed in the file, B is left open.
        path: the file to write; it is replaced if it exists.
        input_name, output_names: names in the file, outputs in the order of what forward returns.

    Raises:
        ExportError: the file would not run everywhere.
    """
    # torch takes a dynamic dimension of 1 in the example for a constant.
    example = torch.zeros((max(2, example_shape[0]), *example_shape[1:]), dtype=torch.uint8)
    program = torch.onnx.export(
        module,
        (example,),
        input_names=[input_name],
        output_names=list(output_names),
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise ExportError(f"torch wrote no graph for {type(module).__name__}; export it with verbose=True.")
    model = program.model_proto
    _forget_the_machine(model)
    refuse_unportable(model)
    onnx.save_model(model, path, save_as_external_data=False)


def refuse_unportable(model: onnx.ModelProto) -> None:
    """Check what a bundle promises of its files: whole, of fixed shapes but for the batch, for all engines.

    Raises:
        ExportError: the first promise that is broken.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx refuses the graph ({error}); change what the module computes.") from error
    if foreign := {entry.domain for entry in model.opset_import} - {"", "ai.onnx"}:
        raise ExportError(
            f"The graph uses operators of {', '.join(sorted(foreign))}, which not every engine has; "
            "write the module with ordinary tensor operations."
        )
    nodes = model.graph.node
    if refused := {node.op_type for node in nodes} & DATA_DEPENDENT_OPS:
        raise ExportError(
            f"The graph contains {', '.join(sorted(refused))}, whose work or shape depends on values; "
            "write that step with fixed shapes."
        )
    if any(weight.data_location == TensorProto.EXTERNAL for weight in model.graph.initializer):
        raise ExportError("The graph keeps weights outside its file; save it with its weights inside.")
    for tensor in model.graph.input:
        readers = {node.op_type for node in nodes if tensor.name in node.input} - {"Shape"}
        if tensor.type.tensor_type.elem_type != TensorProto.UINT8 or readers != {"Cast"}:
            raise ExportError(
                f"Input {tensor.name} goes into {', '.join(sorted(readers)) or 'nothing'}; it must be uint8 "
                "and go into Cast alone, for TensorRT takes nothing else: cast first, then transpose."
            )
    for tensor in (*model.graph.input, *model.graph.output):
        open_dimensions = [not size.HasField("dim_value") for size in tensor.type.tensor_type.shape.dim]
        if any(open_dimensions[1:]):
            raise ExportError(
                f"{tensor.name} has an open dimension besides the batch; make its size a constant."
            )


def _forget_the_machine(model: onnx.ModelProto) -> None:
    """Remove the stack traces and source paths that torch notes on every part of the graph."""
    graph = model.graph
    parts: Iterable[onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto] = (
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
    )
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
