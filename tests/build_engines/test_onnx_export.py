"""The files answer as the torch modules do, in the engines that need no GPU, and keep their promises."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import timm
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from build_engines.families import import_ultralytics
from build_engines.graphs import ClassifierGraph, DetectorGraph, classifier_graph, detector_graph
from build_engines.onnx_export import ExportError, export, refuse_unportable
from tests.real_files import weights_path

Graph = DetectorGraph | ClassifierGraph
SIDE_PIXELS = 320


def images(count: int) -> np.ndarray:
    """The first of three uint8 [S,S,3], coarse coloured patches with noise."""
    random = np.random.default_rng(4)
    patches = random.integers(0, 200, (3, 10, 10, 3)).repeat(32, 1).repeat(32, 2)
    return (patches + random.integers(0, 56, patches.shape)).astype(np.uint8)[:count]


def settle(network: nn.Module, scale: float, offset: float = 0.0) -> None:
    """Make an untrained network's answers differ from place to place; it takes pixels * scale + offset."""
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.from_numpy(images(3)).permute(0, 3, 1, 2) * scale + offset)
    network.eval()


def yolo11(half: bool) -> DetectorGraph:
    network = import_ultralytics().YOLO("yolo11n.yaml").model
    settle(network, 1 / 255)
    for level in network.model[-1].one2many["cls_head"]:
        level[-1].weight.data *= 0.5
        level[-1].bias.data.zero_()
    return detector_graph(network, family="ultralytics", tile_size=SIDE_PIXELS, half=half)


def yolox_nano(half: bool) -> DetectorGraph:
    from yolox.models import YoloPafpn, YoloxHead, YoloxModule
    from yolox.models.network_blocks import BaseConv

    path = weights_path("yolox_nano_fused_torch.pth")
    channels = [256, 512, 1024]
    backbone = YoloPafpn(0.33, 0.25, depthwise=True, in_channels=channels)
    network = YoloxModule(backbone, YoloxHead(80, 0.25, in_channels=channels, depthwise=True)).eval()
    for module in network.modules():  # the weights at hand have their batch-norms fused in
        if isinstance(module, BaseConv):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    for layer in (*network.head.obj_preds, *network.head.cls_preds):
        layer.bias.data += 4  # lifts the scores of pictures that show nothing
    background = (240.0, 215.0, 191.0)
    return detector_graph(network, family="yolox", tile_size=SIDE_PIXELS, background=background, half=half)


def efficientnet(half: bool) -> ClassifierGraph:
    network = timm.create_model("tf_efficientnet_lite0", num_classes=23)
    settle(network, 2 / 255, -1.0)
    return classifier_graph(network, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), half=half)


@dataclass
class Exported:
    path: Path
    graph: Graph
    model: onnx.ModelProto


@pytest.fixture(scope="module", params=[yolo11, yolox_nano, efficientnet])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Exported, Exported]:
    """The same network as a float32 file and as a file with a float16 body."""
    folder = tmp_path_factory.mktemp("exported")
    make: Callable[[bool], Graph] = request.param
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YOLO_CONFIG_DIR", str(folder))
        exported = []
        for half in (False, True):
            torch.manual_seed(11)
            graph = make(half)
            path = folder / f"{make.__name__}_{half}.onnx"
            shape = (1, SIDE_PIXELS, SIDE_PIXELS, 3)
            export(graph, shape, path, input_name=graph.input_name, output_names=graph.output_names)
            exported.append(Exported(path, graph, onnx.load(path)))
    return exported[0], exported[1]


def torch_answers(graph: Graph, pixels: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        outputs: Any = graph(torch.from_numpy(pixels))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: output.numpy() for name, output in zip(graph.output_names, outputs, strict=True)}


Engine = Callable[[np.ndarray], dict[str, np.ndarray]]
"""From pixels to the outputs by name."""


def open_onnxruntime(path: Path) -> Engine:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    tensor_name = session.get_inputs()[0].name
    return lambda pixels: dict(zip(names, session.run(names, {tensor_name: pixels}), strict=True))


def open_openvino(path: Path) -> Engine:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", options)

    def answer(pixels: np.ndarray) -> dict[str, np.ndarray]:
        results = compiled([pixels])
        return {output.get_any_name(): results[output] for output in compiled.outputs}

    return answer


TOLERANCES = {"boxes": 1e-2, "scores": 1e-4, "labels": 0, "probabilities": 1e-4}  # boxes in pixels


def distinct_places(answers: dict[str, np.ndarray]) -> Any:
    """An index of the places whose order no rounding can change; for a classifier, of everything."""
    if "scores" not in answers:
        return ...
    gaps = -np.diff(answers["scores"], axis=1, prepend=2, append=-1)
    clear = (gaps[:, :-1] > 1e-5) & (gaps[:, 1:] > 1e-5)
    assert (clear.sum(1) > 10).all()
    return clear


@pytest.mark.parametrize("open_engine", [open_onnxruntime, open_openvino])
def test_engines_agree_with_torch_on_any_batch(
    open_engine: Callable[[Path], Engine], both: tuple[Exported, Exported]
) -> None:
    engine = open_engine(both[0].path)
    for batch_size in (1, 3):
        pixels = images(batch_size)
        expected = torch_answers(both[0].graph, pixels)
        answers = engine(pixels)
        assert answers.keys() == expected.keys()
        for name, values in expected.items():
            assert answers[name].dtype == values.dtype
            rows = distinct_places(expected) if name != "scores" else ...
            found, wanted = answers[name][rows], values[rows]
            np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCES[name], err_msg=name)


def test_half_files_answer_nearly_the_same(both: tuple[Exported, Exported]) -> None:
    pixels = images(2)
    graph = copy.deepcopy(both[0].graph)
    if isinstance(graph, DetectorGraph):  # rounding may change which of two overlapping boxes is the better
        graph.suppression = None
    expected = torch_answers(graph, pixels)
    answers = open_onnxruntime(both[1].path)(pixels)
    for name, values in expected.items():
        assert (answers[name].dtype, answers[name].shape) == (values.dtype, values.shape)
    if "boxes" not in expected:
        np.testing.assert_allclose(answers["probabilities"], expected["probabilities"], atol=0.02)
        return
    for row in range(2):
        apart_pixels = np.abs(answers["boxes"][row, :10, None] - expected["boxes"][row, None]).max(-1)
        same = apart_pixels.argmin(1)
        assert (apart_pixels.min(1) < 6).all()  # of boxes about 100 pixels wide
        np.testing.assert_allclose(answers["scores"][row, :10], expected["scores"][row, same], atol=0.02)


def float16_share(model: onnx.ModelProto) -> float:
    """The share of the floating-point weights that are float16, 0 to 1. A file nobody converted has 0."""
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
    counts = dict.fromkeys(floats, 0)
    for weight in model.graph.initializer:
        if weight.data_type in counts:
            counts[weight.data_type] += math.prod(weight.dims)
    total = sum(counts.values())
    return counts[TensorProto.FLOAT16] / total if total else 0.0


def test_half_files_have_float16_weights_and_whole_ends(both: tuple[Exported, Exported]) -> None:
    whole, half = both
    assert float16_share(whole.model) == 0
    assert float16_share(half.model) > 0.99
    ends = (*half.model.graph.input, *half.model.graph.output)
    types = [tensor.type.tensor_type.elem_type for tensor in ends]
    assert types[0] == TensorProto.UINT8
    assert set(types[1:]) <= {TensorProto.FLOAT, TensorProto.INT32}
    assert half.path.stat().st_size < 0.62 * whole.path.stat().st_size


def test_files_are_whole_and_only_the_batch_is_open(both: tuple[Exported, Exported]) -> None:
    for exported in both:
        assert list(exported.path.parent.glob(f"{exported.path.stem}*")) == [exported.path]
        for tensor in (*exported.model.graph.input, *exported.model.graph.output):
            first, *others = tensor.type.tensor_type.shape.dim
            assert first.dim_param == "batch"
            assert all(size.dim_value > 0 for size in others)


def test_files_hold_nothing_of_the_machine(both: tuple[Exported, Exported]) -> None:
    written = both[0].path.read_bytes()
    assert str(Path(__file__).resolve().parents[2]).encode() not in written
    assert b"site-packages" not in written
    assert b"stack_trace" not in written


class Small(nn.Module):
    """[B,8,8,3] → [B,4]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 4)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.linear(pixels.to(torch.float32).flatten(1))  # type: ignore[no-any-return]


def export_small(module: nn.Module, path: Path) -> Path:
    export(module, (2, 8, 8, 3), path, input_name="pixels", output_names=["values"])
    return path


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    small = Small()
    first, second = (export_small(small, tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    assert first == second


class Brightest(Small):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).flatten().nonzero()


class Uncast(Small):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.transpose(1, 2))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Brightest(), "contains NonZero, whose work or shape depends on values; write"),
        (Uncast(), "pixels goes into Transpose; it must be uint8 and go into Cast alone.* cast first"),
    ],
)
def test_graphs_that_not_every_engine_takes_are_refused(
    module: nn.Module, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_small(module, tmp_path / "refused.onnx")
    assert not any(tmp_path.iterdir())


def model_of(
    nodes: list[onnx.NodeProto], size: int | str = 4, other_domain: str | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "made by hand",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", size])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", size])],
    )
    other = [helper.make_opsetid(other_domain, 1)] if other_domain else []
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), *other])


CAST = helper.make_node("Cast", ["pixels"], ["values"], to=TensorProto.FLOAT)


def test_refuse_unportable_takes_a_plain_model() -> None:
    refuse_unportable(model_of([CAST]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of([CAST], size="width"), "pixels has an open dimension besides the batch; make"),
        (model_of([CAST], other_domain="com.microsoft"), "uses operators of com.microsoft, .*; write"),
        (model_of([]), "onnx refuses the graph"),
    ],
)
def test_models_that_not_every_engine_takes_are_refused(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        refuse_unportable(model)
