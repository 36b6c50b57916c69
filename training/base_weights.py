"""Weights that a training begins from: from elsewhere, of an earlier training, or of a bundle."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from build_engines.checkpoint import FORMAT, Checkpoint, provenance_beside
from build_engines.graph_weights import weights_of_graph
from build_engines.networks import is_ultralytics, ultralytics_model
from edge.bundle import Bundle
from edge.manifest import ClassifierSpec
from edge.names import name_of
from training.loop import TrainingError


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """Weights with what is known of them.

    Attributes:
        path: where they come from.
        tensors: by the names that the network gives them; where its batch-norms are folded in, its
            convolutions have biases that it lacks.
        classes: class codes in the order of the outputs; empty if the network names none, or if nobody knows.
        provenance: of the training of this project that they come from; empty if it was none.
        sha256: of the file; empty where it is not told.
    """

    path: Path
    tensors: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


def facts_of(base: BaseWeights | None) -> dict[str, Any]:
    """What the provenance of a training says of the weights that it begins from."""
    if base is None:
        return {"base_weights": "none"}
    return {
        "base_weights": name_of(base.path),
        **({"base_weights_sha256": base.sha256} if base.sha256 else {}),
        **({"begun_from": base.provenance} if base.provenance else {}),
    }


def digest_of(base: BaseWeights | None) -> str:
    """By which a run knows its base weights again: their name, and a sha256 over what is known of them."""
    if base is None:
        return "none"
    digest = hashlib.sha256(json.dumps(facts_of(base)).encode()).hexdigest()
    return f"{name_of(base.path)}, sha256 {digest[:16]}"


def require_elsewhere(base: Path, *written: Path) -> None:
    """Refuse base weights that the training would write over, after which no run could begin with them.

    Args:
        base: where they are.
        written: the weights that the training writes.

    Raises:
        TrainingError: `base` is one of them.
    """
    if base.resolve() in [path.resolve() for path in written]:
        raise TrainingError(
            f"{base} lies where this training writes its own weights; give another folder as --out, or "
            "--resume its run with the weights that it began with."
        )


def begin_from(path: Path | None, left_out: Sequence[str], *, pickles: bool = False) -> BaseWeights | None:
    """Read base weights, if there are any, and make sure that they never saw what the training leaves out.

    Args:
        path, pickles: as for `read_base_weights`.
        left_out: names of sources.

    Raises:
        TrainingError: a training before saw one of the sources; else as `read_base_weights`.
    """
    if path is None:
        return None
    base = _without_seeing(left_out, read_base_weights(path, pickles=pickles))
    return replace(base, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def begin_from_ultralytics(model: str, left_out: Sequence[str]) -> BaseWeights | None:
    """The same of a model's name of ultralytics, which reads the weights themselves: `tensors` is empty.

    Args:
        model: `.pt` are weights, with the provenance of their training beside them if it was one of this
            project; all else is a new network.
        left_out: names of sources.

    Raises:
        TrainingError: a training before saw one of the sources.
        CheckpointError: the provenance is damaged.
    """
    path = Path(model)
    if path.suffix != ".pt":
        return None
    return _without_seeing(left_out, BaseWeights(path, {}, provenance=provenance_beside(path)))


def sources_seen(training: Mapping[str, Any]) -> set[str]:
    """The sources of which a training saw images, and those that the trainings before it saw.

    Args:
        training: provenance of a network.
    """
    before = sources_seen(training["begun_from"]) if "begun_from" in training else set()
    return {*training.get("sources", ()), *before}


def _without_seeing(left_out: Sequence[str], base: BaseWeights) -> BaseWeights:
    if seen := sorted(sources_seen(base.provenance) & set(left_out)):
        raise TrainingError(
            f"{base.path} was trained on images of {', '.join(seen)}, which this training leaves out; "
            "begin from weights that never saw them."
        )
    return base


def read_base_weights(path: Path, *, pickles: bool = False) -> BaseWeights:
    """A state dict of PyTorch (plain, or as "model" or "weights"), a checkpoint of this project, or a graph.

    Args:
        path: what its name ends with tells a graph, `BUNDLE/classifier.onnx`; its bundle lies about it.
        pickles: whether a classifier of ultralytics may be read, which is a pickle and can run code.

    Raises:
        TrainingError: the file holds something else.
        CheckpointError: it is ultralytics' and the one that is installed does not read it.
        BuildError: a graph does not hold its weights by name.
        BundleError: what lies about a graph is no bundle.
    """
    if path.suffix == ".onnx":
        return _of_graph(path)
    if pickles and is_ultralytics(path):
        tensors = ultralytics_model(path).model.float().state_dict()
        named = {f"network.{name}": tensor for name, tensor in tensors.items()}  # as in UltralyticsClassifier
        return BaseWeights(path, named, provenance=provenance_beside(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets
        raise TrainingError(
            f"{path} cannot be read as weights ({type(error).__name__}); give a state dict of PyTorch."
        ) from error
    weights = None
    if isinstance(content, dict):
        weights = content.get("model", content.get("weights", content))
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise TrainingError(f"{path} holds more or other things than weights; give a state dict of PyTorch.")
    if content.get("format") != FORMAT:
        return BaseWeights(path, weights)
    checkpoint = Checkpoint.of(content, path)
    return BaseWeights(path, checkpoint.weights, checkpoint.classes, checkpoint.provenance)


def _of_graph(path: Path) -> BaseWeights:
    manifest = Bundle.load(path.parent).manifest
    spec = next((one for one in manifest.networks if path.name in (one.graph.fp32, one.graph.fp16)), None)
    if spec is None:
        raise TrainingError(f"{path} is no network of the bundle in its folder; give one of the bundle's.")
    names = isinstance(spec, ClassifierSpec) or spec.names_classes
    classes = (spec.classes or manifest.classes) if names else ()
    return BaseWeights(path, weights_of_graph(path), classes, manifest.training_of(spec))


def take_over(network: nn.Module, tensors: dict[str, Tensor], calibrate: Callable[[], object]) -> list[str]:
    """Load the tensors that the network has in the same shape, and put its batch-norms back.

    A batch-norm that was folded into the convolution before it is put back without changing what the network
    computes: the mean and deviation of what it takes become both its running statistics and its affine
    part, which then cancel out.

    Args:
        calibrate: computes the network, with its head, on a batch of what it will be trained on.

    Returns:
        Names of the tensors that stay as they were, without counts of batches, which tell nothing.
    """
    own = network.state_dict()
    fitting = {n: tensor for n, tensor in tensors.items() if n in own and own[n].shape == tensor.shape}
    network.load_state_dict(fitting, strict=False)
    folded = {
        name: tensors[f"{name}.bias"]
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.bias is None
        if f"{name}.weight" in fitting and f"{name}.bias" in tensors
    }
    put_back = _unfold_batch_norms(network, folded, calibrate) if folded else set()
    new = own.keys() - fitting.keys() - put_back
    return sorted(name for name in new if not name.endswith(".num_batches_tracked"))


def _unfold_batch_norms(
    network: nn.Module, biases: dict[str, Tensor], calibrate: Callable[[], object]
) -> set[str]:
    """Give the batch-norm behind each named convolution a state; returns the names of the tensors."""
    waiting: list[Tensor] = []
    put_back: set[str] = set()

    def behind(bias: Tensor) -> Callable[..., None]:
        return lambda _conv, _inputs, _output: waiting.append(bias)

    def before(name: str) -> Callable[..., None]:
        def restore(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
            if not waiting:
                return
            bias, mean, variance = waiting.pop(), inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.data.copy_((variance + norm.eps).sqrt())
            norm.bias.data.copy_(mean + bias)
            put_back.update(f"{name}.{own}" for own in norm.state_dict())

        return restore

    modules = dict(network.named_modules())
    hooks = [modules[name].register_forward_hook(behind(bias)) for name, bias in biases.items()]
    hooks += [
        module.register_forward_pre_hook(before(name))
        for name, module in modules.items()
        if isinstance(module, nn.BatchNorm2d)
    ]
    network.eval()
    with torch.inference_mode():
        calibrate()
    for hook in hooks:
        hook.remove()
    return put_back
