"""The two graph contracts of a bundle as torch modules, complete from uint8 pixels to float32 answers."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from build_engines.checkpoint import Activation
from build_engines.families import DetectorFamily, UltralyticsDetector, YoloxDetector
from build_engines.white_balance import WhiteBalance
from edge.geometry import SAME_CELL_IOU

Channels = tuple[float, float, float]

_SUPPRESSION_ROUNDS = 24


class NonMaximumSuppression(nn.Module):
    """Greedy, class-agnostic non-maximum suppression with fixed shapes and plain tensor arithmetic.

    Greedy suppression keeps a box when no kept box of higher score overlaps it. Starting from "all are
    kept", that rule is applied to all boxes at once, a fixed number of times. After n rounds the answer
    is exact for every box that ends no chain (a row of boxes of falling score in which each overlaps the
    next) of more than n + 1 boxes: the first of a chain is right from the start, and each round settles
    the next. `rounds` = K - 1 is exact for any K boxes. 24 rounds are exact for all but boxes laid out
    like tiles of a roof in order of score: of 100 boxes crowded at random none needed more than 10.

    The only product in it sums zeros and ones and asks whether the sum is less than one, so that it is
    exact in any precision in which an engine may choose to compute it.
    """

    outranked: Tensor

    def __init__(self, iou_threshold: float, box_count: int, rounds: int) -> None:
        """Args:
        iou_threshold: boxes whose intersection over union is greater are the same object.
        box_count: K.
        rounds: how often the rule is applied.
        """
        super().__init__()
        self.iou_threshold = iou_threshold
        self.rounds = rounds
        self.register_buffer("outranked", torch.ones(box_count, box_count).tril(-1) > 0, persistent=False)

    def forward(self, boxes_xyxy: Tensor) -> Tensor:
        """Which boxes stay.

        Args:
            boxes_xyxy: float32 [B,K,4] in order of falling score; of equal scores the first counts as higher.

        Returns:
            bool [B,K].
        """
        rivals = ((pairwise_iou(boxes_xyxy) > self.iou_threshold) & self.outranked).to(torch.float32)
        kept = torch.ones_like(boxes_xyxy[..., :1])
        for _ in range(self.rounds):
            # Not a product of matrices: TensorRT-RTX has none in FP32 for Turing, and this is faster on CPUs.
            kept = torch.relu(1 - (rivals * kept.transpose(1, 2)).amax(-1, keepdim=True))
        return kept.squeeze(-1) > 0


def pairwise_iou(boxes_xyxy: Tensor) -> Tensor:
    """Intersection over union of every box with every box, [B,K,4] → [B,K,K]; 0 where both have no area."""
    x1, y1, x2, y2 = boxes_xyxy.chunk(4, -1)  # each [B,K,1]
    width = torch.minimum(x2, x2.transpose(1, 2)) - torch.maximum(x1, x1.transpose(1, 2))
    height = torch.minimum(y2, y2.transpose(1, 2)) - torch.maximum(y1, y1.transpose(1, 2))
    intersection = width.clamp(min=0) * height.clamp(min=0)
    area = (x2 - x1) * (y2 - y1)
    union = area + area.transpose(1, 2) - intersection
    return torch.div(intersection, union.clamp(min=torch.finfo(torch.float32).tiny))


class DetectorGraph(nn.Module):
    """The detector contract: uint8 tiles in, at most K boxes a tile out.

    forward: `tiles` uint8 [B,S,S,3] RGB → a tuple in the order of `output_names`:
        boxes: float32 [B,K,4] xyxy in tile pixels, not clipped to the tile.
        scores: float32 [B,K], descending; the highest class score of each box.
        labels: int32 [B,K], the class with that score.
        probabilities: float32 [B,K,C], only where C > 1: the box's class scores divided by their sum.

    Places without a box come last and have score 0, label 0, a box of zeros and equal probabilities.
    """

    input_name = "tiles"

    def __init__(
        self,
        family: DetectorFamily,
        suppression: NonMaximumSuppression | None,
        max_detections: int,
        balance: WhiteBalance | None = None,
    ) -> None:
        super().__init__()
        if max_detections > family.candidate_count:
            raise ValueError(
                f"max_detections={max_detections} is more than the {family.candidate_count} places at which "
                f"the network can put a box in a tile of {family.tile_size} pixels; take a larger tile."
            )
        self.balance = balance
        self.family = family
        self.suppression = suppression
        self.max_detections = max_detections

    @property
    def tile_size(self) -> int:
        """S in pixels."""
        return self.family.tile_size

    @property
    def class_count(self) -> int:
        """C."""
        return self.family.class_count

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what forward returns, in order."""
        names = ("boxes", "scores", "labels")
        return (*names, "probabilities") if self.class_count > 1 else names

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        _require_pixels(self.input_name, tiles, self.tile_size)
        pixels = tiles.to(torch.float32)
        if self.balance is not None:
            pixels = self.balance(pixels)
        if self.family.takes_fractions:
            pixels = pixels / 255
        boxes, class_scores = self.family(_planes(pixels))
        scores, places = class_scores.amax(-1).topk(self.max_detections, dim=1)
        boxes, class_scores = _take(boxes, places), _take(class_scores, places)
        if self.suppression is not None:
            kept = self.suppression(boxes)
            scores = torch.where(kept, scores, 0.0)
            scores, places = scores.topk(self.max_detections, dim=1)
            boxes, class_scores = _take(boxes, places), _take(class_scores, places)
        used = scores > 0
        boxes = torch.where(used.unsqueeze(-1), boxes, 0.0)
        labels = torch.where(used, class_scores.argmax(-1), 0).to(torch.int32)
        if self.class_count == 1:
            return boxes, scores, labels
        total = class_scores.sum(-1, keepdim=True)
        probabilities = class_scores / total.clamp(min=torch.finfo(torch.float32).tiny)
        return boxes, scores, labels, torch.where(used.unsqueeze(-1), probabilities, 1 / self.class_count)


class ClassifierGraph(nn.Module):
    """The classifier contract.

    forward: `crops` uint8 [N,S,S,3] RGB → `probabilities` float32 [N,C], each row summing to 1: by softmax,
    or of a network that was trained on several labels an image by sigmoid and over its sum.
    """

    input_name = "crops"
    output_names = ("probabilities",)

    def __init__(
        self, network: nn.Module, mean: Channels | None, std: Channels | None, activation: Activation
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = mean, std
        self.activation = activation

    def forward(self, crops: Tensor) -> Tensor:
        _require_pixels(self.input_name, crops, None)
        normalised = normalise(_planes(crops.to(torch.float32)) / 255, self.mean, self.std)
        logits: Tensor = self.network(normalised.to(next(self.network.parameters()).dtype))
        logits = logits.to(torch.float32)
        if self.activation == "softmax":
            return logits.softmax(-1)
        scores = logits.sigmoid()
        return scores / scores.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def detector_graph(
    network: Any,
    *,
    family: Literal["ultralytics", "yolox"],
    tile_size: int,
    max_detections: int = 100,
    iou_threshold: float = SAME_CELL_IOU,
    one_to_one: bool | None = None,
    background: Channels | None = None,
    half: bool = False,
) -> DetectorGraph:
    """A trained detector as the contract has it; the network itself is copied and left as it is.

    Args:
        network: an ultralytics DetectionModel (the `.model` of a YOLO), or a YoloxModule.
        family: which of the two.
        tile_size: S in pixels, a multiple of the network's largest stride (32 for all usual ones).
        max_detections: K.
        iou_threshold: above it two boxes are one object, from 0 to 1.
        one_to_one: ultralytics heads with two branches only, see UltralyticsDetector.
        background: to which that of each tile is first brought, see WhiteBalance; None changes no tile.
        half: float16 body between float32 ends.

    Raises:
        ValueError: the arguments do not fit the network or each other, or its weights do not fit float16.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(
            f"iou_threshold={iou_threshold} lies outside 0 to 1; choose one inside, say {SAME_CELL_IOU}."
        )
    adapted: DetectorFamily
    if family == "ultralytics":
        adapted = UltralyticsDetector(network, tile_size, one_to_one)
    elif one_to_one is None:
        adapted = YoloxDetector(network, tile_size)
    else:
        raise ValueError(f"one_to_one={one_to_one} was given for YOLOX, which has one branch; leave it out.")
    if half:
        _halve(adapted.network)
    suppression = None
    if adapted.needs_suppression:
        rounds = min(_SUPPRESSION_ROUNDS, max_detections - 1)  # no more are ever needed
        suppression = NonMaximumSuppression(iou_threshold, max_detections, rounds)
    balance = WhiteBalance(background) if background else None
    return DetectorGraph(adapted, suppression, max_detections, balance).eval()


def classifier_graph(
    network: nn.Module,
    *,
    mean: Channels | None,
    std: Channels | None,
    activation: Activation = "softmax",
    half: bool = False,
) -> ClassifierGraph:
    """A trained classifier as the contract has it; the network itself is copied and left as it is.

    Args:
        network: from float [N,3,S,S] RGB to logits [N,C], any model of timm for one.
        mean, std: of RGB on a scale of 0 to 1, as it was trained with; see `normalise`.
        activation: from its logits to probabilities, see `ClassifierGraph`.
        half: float16 body between float32 ends.

    Raises:
        ValueError: the weights do not fit float16.
    """
    network = copy.deepcopy(network).float().eval()
    if half:
        _halve(network)
    return ClassifierGraph(network, mean, std, activation).eval()


def normalise(rgb: Tensor, mean: Channels | None, std: Channels | None) -> Tensor:
    """float [N,3,S,S] RGB on a scale of 0 to 1 to the classifier's own scale, same shape.

    None takes each crop's own mean and standard deviation, channel by channel (Ulyanov et al. 2016,
    arXiv 1607.08022, on the input alone): a change of stain, exposure or white balance, which is close to
    affine in each channel, then changes nothing. The 0.05 keeps an empty crop from becoming noise.
    """
    if mean is None or std is None:
        centred = rgb - rgb.mean((2, 3), keepdim=True)
        return centred / (centred.square().mean((2, 3), keepdim=True).sqrt() + 0.05)
    return (rgb - rgb.new_tensor(mean).view(1, 3, 1, 1)) / rgb.new_tensor(std).view(1, 3, 1, 1)


def _halve(network: nn.Module) -> None:
    network.half()
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{name} has values beyond 65504, the largest of float16, or not finite at all; "
                "build this model in float32 only."
            )


def _require_pixels(name: str, pixels: Tensor, size: int | None) -> None:
    wanted = "[any,S,S,3]" if size is None else f"[any,{size},{size},3]"
    fits = pixels.ndim == 4 and pixels.shape[3] == 3 and size in (None, pixels.shape[1])
    if pixels.dtype != torch.uint8 or not fits or pixels.shape[1] != pixels.shape[2]:
        raise ValueError(
            f"{name} must be uint8 {wanted}, not {pixels.dtype} {list(pixels.shape)}; "
            "letterbox or crop on the host and give RGB pixels as they are."
        )


def _planes(pixels: Tensor) -> Tensor:
    """float32 [B,S,S,3] → [B,3,S,S], same values."""
    # Of float32: TensorRT takes uint8 into nothing but a cast. Contiguous because torch decomposes a global
    # average pool of a channels-last tensor into a gather over strides, which the exported file would keep.
    # Arithmetic before it, and not behind it, lets OpenVINO lay out, cast and compute in one pass.
    return pixels.permute(0, 3, 1, 2).contiguous()


def _take(rows: Tensor, places: Tensor) -> Tensor:
    """rows [B,A,D] at places [B,K] → [B,K,D]."""
    return rows.gather(1, places.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
