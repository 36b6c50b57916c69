"""YOLOv10's own branch survives the way into a file: ONNX Runtime answers as torch does."""

from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch

from build_engines.graphs import detector_graph
from build_engines.onnx_export import export
from edge.demo.renderer import draw_tile
from edge.geometry import letterbox
from tests.build_engines.untrained import run, spread_outputs

SIDE_PX = 128


def test_the_branch_without_suppression_answers_from_its_file(
    ultralytics: ModuleType, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    network = ultralytics.YOLO("yolov10n.yaml").model
    tiles = torch.from_numpy(np.stack([letterbox(draw_tile(seed).rgb, SIDE_PX)[0] for seed in (1, 2)]))
    spread_outputs(network, tiles)
    graph = detector_graph(network, family="ultralytics", tile_size=SIDE_PX, one_to_one=True)
    assert graph.suppression is None
    path = tmp_path / "detector.onnx"
    export(graph, (1, SIDE_PX, SIDE_PX, 3), path, input_name="tiles", output_names=graph.output_names)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    answers = session.run(list(graph.output_names), {"tiles": tiles.numpy()})
    told = dict(zip(graph.output_names, answers, strict=True))
    expected = dict(zip(graph.output_names, (one.numpy() for one in run(graph, tiles)), strict=True))
    gaps = np.diff(expected["scores"], axis=1, prepend=2, append=-1)
    clear = (-gaps[:, :-1] > 1e-4) & (-gaps[:, 1:] > 1e-4)  # whose order no rounding changes
    assert (clear.sum(1) > 10).all()
    for name, tolerance in (("scores", 1e-3), ("boxes", 0.2), ("probabilities", 1e-3)):
        assert told[name][clear] == pytest.approx(expected[name][clear], abs=tolerance)
    assert np.array_equal(told["labels"][clear], expected["labels"][clear])
