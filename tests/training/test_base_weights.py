"""A training begins from a bundle or an earlier training: it computes the same, and knows what it saw."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from build_engines.checkpoint import Checkpoint, CropGeometry, build_network
from build_engines.errors import BuildError
from build_engines.graph_weights import weights_of_graph
from build_engines.graphs import classifier_graph, detector_graph
from build_engines.onnx_export import export
from edge.bundle import Bundle, embedded_bundle
from edge.demo.renderer import draw_tile
from edge.errors import BundleError
from edge.geometry import crop, letterbox
from training import yolox
from training.base_weights import BaseWeights, begin_from, facts_of, read_base_weights, take_over
from training.classifying import architecture_of, load_base_weights
from training.crops import normalised
from training.loop import TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = "test_efficientnet"
SMEARS = [draw_tile(seed, label) for seed, label in enumerate(("PNN", "LY", "EO", "MO", "BA", "Er"))]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(embedded_bundle())


def answers(graph: Path, given: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: given})
    return found


def crops_of(size_px: int, margin: float) -> Tensor:
    """uint8 [n, S, S, 3] RGB."""
    cells = [
        crop(smear.rgb, box, size_px, 0, margin, "square") for smear in SMEARS for box in smear.boxes_xyxy
    ]
    return torch.from_numpy(np.stack(cells))


class TestFromABundle:
    def test_a_classifier_answers_as_the_bundle_does(self, bundle: Bundle) -> None:
        spec = bundle.classifier
        assert spec is not None
        path = bundle.path / spec.graph.fp32
        crops, classes = crops_of(spec.crop_size, spec.margin_fraction), bundle.manifest.classes
        network = build_network("timm", {"name": spec.name}, len(classes))
        geometry = CropGeometry(spec.crop_size)
        load_base_weights(
            network, read_base_weights(path), classes, lambda: network(normalised(crops, geometry))
        )
        graph = classifier_graph(network.eval(), mean=None, std=None)
        with torch.inference_mode():
            found = graph(crops).numpy()
        assert found == pytest.approx(answers(path, crops.numpy())[0], abs=1e-3)
        assert found.max(1).min() > 0.2

    def test_a_detector_answers_as_the_bundle_does(self, bundle: Bundle) -> None:
        spec = bundle.detector
        path = bundle.path / spec.graph.fp32
        tiles = np.stack([letterbox(smear.rgb, spec.tile_size, spec.anchor)[0] for smear in SMEARS])
        network = build_network("yolox", yolox.NANO, 0)
        yolox.load_base_weights(network, read_base_weights(path), torch.from_numpy(tiles))
        tensors = onnx.load(path).graph.initializer
        (background,) = (numpy_helper.to_array(one)[0].tolist() for one in tensors if one.dims == [1, 3])
        options: dict[str, Any] = {"family": "yolox", "tile_size": spec.tile_size, "background": background}
        graph = detector_graph(network.eval(), **options)
        with torch.inference_mode():
            boxes, scores, _ = (answer.numpy() for answer in graph(torch.from_numpy(tiles)))
        expected_boxes, expected_scores = answers(path, tiles)[:2]
        assert scores == pytest.approx(expected_scores, abs=1e-3)
        sure = scores > 0.4
        assert sure.sum() >= len(SMEARS)
        assert boxes[sure] == pytest.approx(expected_boxes[sure], abs=0.05)

    def test_a_detector_of_another_size_is_refused(self, bundle: Bundle) -> None:
        base = read_base_weights(bundle.path / bundle.detector.graph.fp32)
        network = build_network("yolox", yolox.ARCHITECTURES["yolox-tiny"], 0)
        with pytest.raises(TrainingError, match=r"detector\.onnx is of another network than the one to"):
            yolox.load_base_weights(network, base, torch.zeros(1, 96, 96, 3, dtype=torch.uint8))

    def test_batch_norms_can_be_trained_on(self, bundle: Bundle) -> None:
        spec = bundle.classifier
        assert spec is not None
        crops = normalised(crops_of(96, spec.margin_fraction), CropGeometry(96))
        network = build_network("timm", {"name": spec.name}, len(bundle.manifest.classes))
        base = read_base_weights(bundle.path / spec.graph.fp32)
        load_base_weights(network, base, bundle.manifest.classes, lambda: network(crops))
        judging = network(crops)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()  # statistics of the batch, which are those that were put back
        training = network(crops)
        assert (training - judging).abs().mean() < 0.1 * judging.std()

    def test_its_training_is_known(self, bundle: Bundle) -> None:
        spec = bundle.classifier
        assert spec is not None
        base = read_base_weights(bundle.path / spec.graph.fp32)
        assert base.classes == bundle.manifest.classes
        assert facts_of(base) == {
            "base_weights": spec.graph.fp32,
            "begun_from": bundle.manifest.provenance["classifier"],
        }
        assert read_base_weights(bundle.path / bundle.detector.graph.fp32).classes == ()

    def test_files_that_are_no_network_of_a_bundle_are_refused(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "alone.onnx").write_bytes((bundle.path / bundle.detector.graph.fp32).read_bytes())
        with pytest.raises(BundleError, match="is no model bundle"):
            read_base_weights(tmp_path / "alone.onnx")
        for name in ("manifest.json", *bundle.manifest.sha256):
            (tmp_path / name).write_bytes((bundle.path / name).read_bytes())
        with pytest.raises(TrainingError, match=r"alone\.onnx is no network of the bundle in its folder"):
            read_base_weights(tmp_path / "alone.onnx")


@pytest.mark.parametrize("content", [b"junk", b""])
def test_weights_of_what_is_no_graph_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(
        BuildError, match=r"a\.onnx (cannot be read as a graph|holds no weights of a network)"
    ):
        weights_of_graph(tmp_path / "a.onnx")


def test_the_first_layer_of_a_yolox_is_as_it_was_trained_under_either_name(tmp_path: Path) -> None:
    focus = torch.arange(2 * 12 * 9).reshape(2, 12, 3, 3).float()
    strided = torch.zeros(2, 3, 6, 6)
    for place, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        strided[:, :, row::2, column::2] = focus[:, 3 * place : 3 * place + 3].flip(1)
    stem = "backbone.backbone.stem"
    for module, weight in (("conv", strided), ("conv.conv", strided), ("conv.conv", focus)):
        stored = {f"{stem}.{module}.weight": weight, f"{stem}.{module}.bias": torch.ones(2)}
        found = weights_of_graph(graph_of(stored, tmp_path))
        assert found.keys() == {f"{stem}.conv.conv.weight", f"{stem}.conv.conv.bias"}
        assert torch.equal(found[f"{stem}.conv.conv.weight"], focus)


def graph_of(tensors: dict[str, Tensor], folder: Path) -> Path:
    """A file with the tensors of a network."""
    stored = [numpy_helper.from_array(tensor.numpy(), f"network.{name}") for name, tensor in tensors.items()]
    onnx.save(helper.make_model(helper.make_graph([], "tensors", [], [], stored)), folder / "a.onnx")
    return folder / "a.onnx"


def test_a_graph_whose_linear_layers_have_no_names_is_refused(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), nn.Flatten(), nn.Linear(24, 2))
    graph = classifier_graph(layers.eval(), mean=None, std=None)
    export(
        graph, (1, 8, 8, 3), tmp_path / "vit.onnx",
        input_name=graph.input_name, output_names=graph.output_names,
    )  # fmt: skip
    said = r"vit\.onnx holds 1 linear layers of its network without their names.* give the best\.pt"
    with pytest.raises(BuildError, match=said):
        weights_of_graph(tmp_path / "vit.onnx")


class TestAStateDict:
    def test_may_lie_under_a_key(self, tmp_path: Path) -> None:
        weights = timm.create_model(MODEL, num_classes=2).state_dict()
        for key in ("model", "weights"):
            torch.save({key: weights}, tmp_path / "base.pth")
            base = read_base_weights(tmp_path / "base.pth")
            assert (base.tensors.keys(), base.classes, base.provenance) == (weights.keys(), (), {})

    def test_without_counts_of_batches_lacks_nothing(self) -> None:
        network = timm.create_model(MODEL, num_classes=2)
        weights = {name: own for name, own in network.state_dict().items() if "num_batches" not in name}
        assert len(weights) < len(network.state_dict())
        assert take_over(network, weights, lambda: None) == []

    def test_positions_that_cannot_be_resampled_stay_new(self) -> None:
        base = build_network(*architecture_of("pit_ti_224", 64), 2)
        network = build_network(*architecture_of("pit_ti_224", 96), 2)
        positions = network.pos_embed.detach().clone()
        weights = BaseWeights(Path("pit.pth"), base.state_dict())
        load_base_weights(network, weights, ("PNN", "LY"), lambda: None)
        assert torch.equal(network.pos_embed, positions)
        assert torch.equal(network.cls_token, base.cls_token)


class TestAnEarlierTraining:
    @staticmethod
    def saved(folder: Path, classes: tuple[str, ...], provenance: dict[str, Any]) -> Path:
        network = timm.create_model(MODEL, num_classes=len(classes))
        Checkpoint("timm", {"name": MODEL}, classes, CropGeometry(64), network.state_dict(), provenance).save(
            folder / "best.pt"
        )
        return folder / "best.pt"

    def test_the_last_layer_keeps_the_classes_that_both_have(self, tmp_path: Path) -> None:
        base = read_base_weights(self.saved(tmp_path, ("PNN", "LY", "MO"), {}))
        network = timm.create_model(MODEL, num_classes=3)
        new = copy.deepcopy(network.classifier)
        load_base_weights(network, base, ("MO", "EO", "PNN"), lambda: None)
        for own, theirs in ((0, 2), (2, 0)):
            assert torch.equal(network.classifier.weight[own], base.tensors["classifier.weight"][theirs])
            assert torch.equal(network.classifier.bias[own], base.tensors["classifier.bias"][theirs])
        assert torch.equal(network.classifier.weight[1], new.weight[1])

    def test_the_last_layer_of_more_classes_keeps_them_too(self, tmp_path: Path) -> None:
        base = read_base_weights(self.saved(tmp_path, ("PNN", "LY"), {}))
        network = timm.create_model(MODEL, num_classes=3)
        load_base_weights(network, base, ("LY", "EO", "PNN"), lambda: None)
        assert torch.equal(network.classifier.weight[2], base.tensors["classifier.weight"][0])

    def test_a_last_layer_with_a_batch_norm_keeps_that_whole(self) -> None:
        theirs, network = (build_network("timm", {"name": "repvit_m0_9"}, count) for count in (2, 3))
        theirs.head.head.bn.running_mean.uniform_()
        base = BaseWeights(Path("best.pt"), theirs.state_dict(), ("PNN", "LY"))
        load_base_weights(network, base, ("LY", "EO", "PNN"), lambda: None)
        assert torch.equal(network.head.head.bn.running_mean, theirs.head.head.bn.running_mean)
        assert torch.equal(network.head.head.l.weight[[2, 0]], theirs.head.head.l.weight)

    def test_what_it_saw_cannot_be_left_out(self, tmp_path: Path) -> None:
        first = {"sources": {"pbc": 100, "bccd": 3}}
        path = self.saved(tmp_path, ("PNN", "LY"), {"sources": {"pbc": 50}, "begun_from": first})
        with pytest.raises(TrainingError, match=r"best\.pt was trained on images of bccd, which"):
            begin_from(path, ["bccd", "lmu"])
        base = begin_from(path, ["lmu"])
        assert base is not None
        assert facts_of(base)["base_weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert facts_of(base)["begun_from"]["begun_from"] == first

    def test_nothing_to_begin_from(self) -> None:
        assert begin_from(None, ["bccd"]) is None
        assert facts_of(None) == {"base_weights": "none"}
        assert facts_of(BaseWeights(Path("a/base.pth"), {})) == {"base_weights": "base.pth"}
