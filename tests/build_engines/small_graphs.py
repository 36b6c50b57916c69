"""Small ONNX graphs for the tests of building engines, most of them with one fault each."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE_PX = 8


def save(path: Path, nodes: list[Any], *, outputs: dict[str, int] | None = None, shape: Any = None) -> Path:
    """A graph from `tiles` to its outputs (name and element type; `answer` in FP32 by default)."""
    weights = np.full((2, 3, 3, 3), 0.1, np.float32)
    tensors = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(weights.astype(np.float16), "half_weights"),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, shape or ["batch", SIDE_PX, SIDE_PX, 3])],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in (outputs or {"answer": TensorProto.FLOAT}).items()
        ],
        [tensor for tensor in tensors if tensor.name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def cast(source: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], to=kind)


def planes(half: bool) -> list[onnx.NodeProto]:
    """From `tiles` to `planes`, which a convolution takes."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    return [
        cast("tiles", "pixels", kind),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
    ]


def good(path: Path, *, half: bool = True, shape: Any = None) -> Path:
    """One convolution, with an FP16 body or all in FP32."""
    weights = "half_weights" if half else "weights"
    convolve = helper.make_node("Conv", ["planes", weights], ["found"], name="convolve")
    return save(path, [*planes(half), convolve, cast("found", "answer", TensorProto.FLOAT)], shape=shape)


def of_mixed_types(path: Path) -> Path:
    """Adds FP16 to FP32, as a converter left it."""
    return save(
        path,
        [
            cast("tiles", "half", TensorProto.FLOAT16),
            cast("tiles", "whole", TensorProto.FLOAT),
            helper.make_node("Add", ["half", "whole"], ["answer"], name="mixed"),
        ],
    )


def with_unknown_operator(path: Path) -> Path:
    node = helper.make_node("Frobnicate", ["whole"], ["answer"], name="odd")
    return save(path, [cast("tiles", "whole", TensorProto.FLOAT), node])


def half_in_disguise(path: Path) -> Path:
    """Two convolutions, one of which stayed in FP32."""
    return save(
        path,
        [
            *planes(half=True),
            helper.make_node("Conv", ["planes", "half_weights"], ["first"], name="convolve"),
            cast("planes", "whole", TensorProto.FLOAT),
            helper.make_node("Conv", ["whole", "weights"], ["second"], name="forgotten"),
            cast("first", "third", TensorProto.FLOAT),
            helper.make_node("Add", ["second", "third"], ["answer"]),
        ],
    )


def with_a_shape_from_values(path: Path) -> Path:
    """As many rows as the first pixel says."""
    nodes = [
        *planes(half=True),
        helper.make_node("Conv", ["planes", "half_weights"], ["found"], name="convolve"),
        cast("found", "flat_source", TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["flat_source"], ["most"], keepdims=0),
        cast("most", "count", TensorProto.INT64),
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
        helper.make_node("Reshape", ["count", "one"], ["counts"]),
        helper.make_node("ConstantOfShape", ["counts"], ["answer"], name="grow"),
    ]
    return save(path, nodes)
