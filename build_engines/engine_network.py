"""An ONNX graph as a TensorRT network with nothing left open: shapes, names and types are what was ordered.

Networks are strongly typed: the precision is the graph's, and a graph that is not what it is sold as is
refused here, for nobody can look into the engine later.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from build_engines.errors import EngineError
from edge.backends.tensorrt_log import one_line
from edge.engine_files import TensorSpec

Precision = Literal["f16", "f32"]

BUILDER_LEVEL = 3
"""TensorRT's own choice, from 0 (builds fast) to 5 (tries all)."""
WORKSPACE_BYTES = 1 << 30

_TYPE_OF = {"f16": "HALF", "f32": "FLOAT"}
_NUMPY_NAME = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "UINT8": "uint8"}
_CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built.

    Attributes:
        onnx_path: the graph; its batch is open, or is `batch`.
        input_name: of its only input, uint8 [batch, side_px, side_px, 3].
        output_names: of its outputs, in any order.
        precision: of its body; the graph must have it already.
        compute_capabilities: of the cards that it is for, like "8.6"; TensorRT-RTX alone takes several, or
            another than this machine's.
        workspace_bytes: most that a layer may use for itself.
        timing_cache: file of what was measured in earlier builds; TensorRT-RTX has none.
    """

    onnx_path: Path
    input_name: str
    output_names: frozenset[str]
    side_px: int
    batch: int
    compute_capabilities: tuple[str, ...]
    precision: Precision = "f16"
    workspace_bytes: int = WORKSPACE_BYTES
    builder_level: int = BUILDER_LEVEL
    timing_cache: Path | None = None

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """[B, S, S, 3]."""
        return (self.batch, self.side_px, self.side_px, 3)

    def __str__(self) -> str:
        return f"{self.onnx_path.name} for {self.batch} at a time on {', '.join(self.compute_capabilities)}"


@dataclass(frozen=True, slots=True)
class ReadNetwork:
    """A network that was read from a graph and found in order.

    Attributes:
        network: `INetworkDefinition`.
        parser: holds the weights until the engine is built.
        onnx_sha256: of the bytes that were read.
        layer_types: how many layer outputs have which type.
    """

    network: Any
    parser: Any
    onnx_sha256: str
    layer_types: dict[str, int]
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


def read_network(trt: Any, builder: Any, logger: Any, order: Order) -> ReadNetwork:
    """Read the graph of an order.

    Args:
        trt: TensorRT's module.
        builder, logger: of that module.
        order: what is to be built.

    Raises:
        EngineError: the graph cannot be read, or is not what was ordered.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    try:
        graph = order.onnx_path.read_bytes()
    except OSError as error:
        raise EngineError(
            f"{order.onnx_path} cannot be read ({error.strerror}); copy the bundle again."
        ) from error
    if not parser.parse(graph):
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot read {order.onnx_path} ({_parser_errors(parser)}); "
            "rebuild the bundle, or copy it again if it was damaged."
        )
    _fix_shapes(network, order)
    return ReadNetwork(
        network,
        parser,
        hashlib.sha256(graph).hexdigest(),
        audit_types(network, order.onnx_path.name, order.precision),
        {tensor.name: _spec(tensor) for tensor in _inputs(network)},
        {tensor.name: _spec(tensor) for tensor in _outputs(network)},
    )


def audit_types(network: Any, graph: str, precision: Precision) -> dict[str, int]:
    """How many layer outputs of a parsed network have which type, which is what it will compute in.

    Args:
        network: parsed.
        graph: its name, for the message.
        precision: that it is sold as.

    Raises:
        EngineError: a convolution, or most of convolutions and matrix products, have another type.
    """
    types: Counter[str] = Counter()
    body: Counter[tuple[bool, str]] = Counter()
    for layer, tensor in _layer_outputs(network):
        types[tensor.dtype.name] += 1
        if layer.type.name in (*_CONVOLUTIONS, "MATRIX_MULTIPLY"):
            body[layer.type.name in _CONVOLUTIONS, tensor.dtype.name] += 1
    wanted = _TYPE_OF[precision]
    other = sum(count for (_, kind), count in body.items() if kind != wanted)
    convolution_strays = any(convolves and kind != wanted for convolves, kind in body)
    if convolution_strays or other * 2 > body.total() or not body:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(types.items()))
        raise EngineError(
            f"{other} of the {body.total()} convolutions and matrix products of {graph} do not compute in "
            f"{wanted}, so it is no {precision} graph (outputs of its layers: {found}); rebuild the bundle."
        )
    return dict(sorted(types.items()))


def _fix_shapes(network: Any, order: Order) -> None:
    """Make the batch a constant, and with it every shape of the network."""
    name = order.onnx_path.name
    inputs = _inputs(network)
    found = ", ".join(f"{tensor.name} {tensor.dtype.name} {list(tensor.shape)}" for tensor in inputs)
    fits = [
        tensor.name == order.input_name
        and tensor.dtype.name == "UINT8"
        and len(tensor.shape) == 4
        and all(has in (-1, wants) for has, wants in zip(tensor.shape, order.input_shape, strict=True))
        for tensor in inputs
    ]
    if fits != [True]:
        raise EngineError(
            f"{name} takes {found or 'nothing'}, but the station gives it {order.input_name} UINT8 "
            f"{list(order.input_shape)}; rebuild the bundle."
        )
    outputs = {tensor.name for tensor in _outputs(network)}
    if outputs != order.output_names:
        raise EngineError(
            f"{name} answers with {', '.join(sorted(outputs)) or 'nothing'}, but the station reads "
            f"{', '.join(sorted(order.output_names))}; rebuild the bundle."
        )
    inputs[0].shape = order.input_shape
    open_layers = [layer.name for layer, tensor in _layer_outputs(network) if -1 in tuple(tensor.shape)]
    if open_layers:
        raise EngineError(
            f"{len(open_layers)} layers of {name} have shapes that depend on values, {open_layers[0]} for "
            "one; rebuild the bundle with fixed shapes."
        )


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(index) for index in range(network.num_inputs)]


def _outputs(network: Any) -> list[Any]:
    return [network.get_output(index) for index in range(network.num_outputs)]


def _layer_outputs(network: Any) -> Iterator[tuple[Any, Any]]:
    """Each layer with each of its outputs."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for output in range(layer.num_outputs):
            tensor = layer.get_output(output)
            if tensor is not None:  # an output that a layer may have, and has not
                yield layer, tensor


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(shape=tuple(tensor.shape), dtype=_NUMPY_NAME.get(tensor.dtype.name, tensor.dtype.name))


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = []
    for error in errors[:3]:
        place = f"{error.node_operator()} {error.node_name()}: " if error.node_operator() else ""
        said.append(place + one_line(error.desc()))
    more = [f"and {len(errors) - 3} more"] if len(errors) > 3 else []
    return "; ".join([*said, *more]) or "and does not say why"
