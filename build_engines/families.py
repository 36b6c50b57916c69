"""What is particular to a family of detectors: colour order, where its body ends, how its boxes are decoded.

A family is a module from RGB pixels to every candidate box with its class scores, all in float32. Its
body (backbone, neck, convolutions of the head) may be float16: casts stand in front of it and behind it.
"""

import copy
import os
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def import_ultralytics() -> ModuleType:
    """ultralytics, with its usage reports, its look-ups of hosts and its installing of packages off.

    Where there is no terminal, its bars are one line each, written when they end: it draws them over and over
    into journals and files, too, if the console is none that it knows.

    It reads the two variables when it is first imported, so every import in this project goes through
    here. The user's settings file keeps its `sync`, which governs his other programs.
    """
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    import ultralytics
    from ultralytics.utils import tqdm
    from ultralytics.utils.events import events

    if not sys.stdout.isatty():
        tqdm.is_noninteractive_console = lambda: True
    events.enabled = False  # for the process in which something else imported ultralytics first
    module: ModuleType = ultralytics
    return module


class DetectorFamily(nn.Module, ABC):
    """From pixels to candidates.

    Attributes:
        tile_size: S, the side of a tile in pixels.
        class_count: C.
        candidate_count: A, the places at which the network may put a box.
        needs_suppression: whether several candidates may stand for one object.
        takes_fractions: whether the network takes channels of 0 to 1, not of 0 to 255.
    """

    class_count: int
    needs_suppression: bool
    takes_fractions: bool
    cell_centres: Tensor
    cell_strides: Tensor

    def __init__(self, tile_size: int, strides: list[int], cell_offset: float) -> None:
        """Args:
        tile_size: S in pixels, a multiple of the largest stride.
        strides: pixels a grid cell, one a level, in the order in which the head joins its levels.
        cell_offset: where in a cell its reference point lies, in cells: 0.5 its centre, 0 its corner.
        """
        super().__init__()
        if tile_size % max(strides):
            raise ValueError(
                f"A tile of {tile_size} pixels does not divide into the network's cells of {max(strides)} "
                f"pixels; choose a multiple of {max(strides)}."
            )
        self.tile_size = tile_size
        centres, cell_strides = [], []
        for stride in strides:
            side = torch.arange(tile_size // stride, dtype=torch.float32) + cell_offset
            y, x = torch.meshgrid(side, side, indexing="ij")
            centres.append(torch.stack((x.flatten(), y.flatten())))
            cell_strides.append(torch.full((1, x.numel()), float(stride)))
        self.register_buffer("cell_centres", torch.cat(centres, 1), persistent=False)
        self.register_buffer("cell_strides", torch.cat(cell_strides, 1), persistent=False)
        self.candidate_count = self.cell_centres.shape[1]

    @abstractmethod
    def body(self, rgb: Tensor) -> tuple[Tensor, ...]:
        """The network up to its last convolutions.

        Args:
            rgb: float32 [B,3,S,S] RGB, 0 to 1 or to 255.

        Returns:
            What `decode` takes, in the precision of the weights.
        """

    @abstractmethod
    def decode(self, *raw: Tensor) -> tuple[Tensor, Tensor]:
        """Raw float32 maps → boxes [B,A,4] xyxy in tile pixels, class scores [B,A,C] from 0 to 1."""

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [B,3,S,S] RGB → boxes [B,A,4] xyxy in tile pixels, scores [B,A,C]; float32."""
        return self.decode(*(raw.to(torch.float32) for raw in self.body(rgb)))


class _RawHead(nn.Module):
    """An ultralytics head without its decoding, in the head's place within the network's list of layers."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head
        self.f, self.i = head.f, head.i  # where the network's own forward looks for this layer's inputs

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        branch = self.head.one2one if self.head.end2end else self.head.one2many
        raw = self.head.forward_head(features, **branch)
        return raw["boxes"], raw["scores"]


class UltralyticsDetector(DetectorFamily):
    """A YOLO with ultralytics' anchor-free Detect head: v8, v9, v10, v11, v26. Input RGB 0 to 1.

    Decoding as in ultralytics.nn.modules.head.Detect and ultralytics.utils.tal.dist2bbox: each side of a
    box is a distance from the cell's centre in cells, the mean of a distribution over `reg_max` bins (DFL,
    https://arxiv.org/abs/2006.04388) or, where there is one bin, the number itself.
    """

    takes_fractions = True

    def __init__(self, network: Any, tile_size: int, one_to_one: bool | None) -> None:
        """Args:
        network: a DetectionModel; it is copied.
        one_to_one: for heads with two branches (v10, v26), whether to take the one that was trained to give
            one box an object and needs no suppression. None takes what the head has selected, as its
            predict does.
        """
        network = copy.deepcopy(network).float().eval()
        head = network.model[-1]
        if type(head).__name__ not in ("Detect", "v10Detect"):  # OBB derives from Detect too
            raise ValueError(
                f"The network ends in {type(head).__name__}, not in a Detect head; "
                "train one with task=detect, or give it as another family."
            )
        if one_to_one is not None:
            has_branch = getattr(head, "one2one_cv2" if one_to_one else "cv2", None) is not None
            if not has_branch:
                raise ValueError(
                    f"one_to_one={one_to_one} asks for a branch that this {type(head).__name__} head does "
                    f"not have; pass one_to_one={not one_to_one}, or load a checkpoint that still has both."
                )
            head.end2end = one_to_one
        super().__init__(tile_size, [int(stride) for stride in head.stride.tolist()], cell_offset=0.5)
        self.class_count = int(head.nc)
        self.needs_suppression = not head.end2end
        self.bin_count = int(head.reg_max)
        network.fuse(verbose=False)
        network.model[-1] = _RawHead(head)
        self.network = network
        self.register_buffer("bins", torch.arange(self.bin_count, dtype=torch.float32), persistent=False)

    bins: Tensor

    def body(self, rgb: Tensor) -> tuple[Tensor, ...]:
        raw: tuple[Tensor, ...] = self.network(rgb.to(next(self.network.parameters()).dtype))
        return raw

    def decode(self, *raw: Tensor) -> tuple[Tensor, Tensor]:
        sides, logits = raw  # [B,4R,A], [B,C,A]
        if self.bin_count > 1:
            distribution = sides.view(-1, 4, self.bin_count, self.candidate_count).softmax(2)
            sides = (distribution * self.bins.view(1, 1, -1, 1)).sum(2)
        left_top, right_bottom = sides.chunk(2, 1)
        corners = torch.cat((self.cell_centres - left_top, self.cell_centres + right_bottom), 1)
        return (corners * self.cell_strides).transpose(1, 2), logits.sigmoid().transpose(1, 2)


class YoloxDetector(DetectorFamily):
    """A YOLOX of any depth and width. Input BGR 0 to 255, not normalised.

    Decoding as in yolox.models.YoloxHead.decode_outputs (https://arxiv.org/abs/2107.08430): the centre is
    an offset from the cell's corner in cells, width and height are exponentials in cells, and a class
    score is objectness times class probability.
    """

    needs_suppression = True
    takes_fractions = False

    def __init__(self, network: Any, tile_size: int) -> None:
        """Args:
        network: a YoloxModule, its batch-norms fused or not; it is copied.
        """
        network = copy.deepcopy(network).float().eval()
        super().__init__(tile_size, [int(stride) for stride in network.head.strides], cell_offset=0.0)
        self.class_count = int(network.head.num_classes)
        # The first batch-norm sees pixels of 0 to 255, and its variance may exceed what float16 holds.
        for module in network.modules():
            if isinstance(getattr(module, "bn", None), nn.BatchNorm2d):
                module.conv = fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()
        network.backbone.backbone.stem = _StridedStem(network.backbone.backbone.stem)
        self.network = network

    def body(self, rgb: Tensor) -> tuple[Tensor, ...]:
        head = self.network.head
        features = self.network.backbone(rgb.to(next(self.network.parameters()).dtype))
        levels = []
        for level, feature in enumerate(features):
            stem = head.stems[level](feature)
            class_feature, box_feature = head.cls_convs[level](stem), head.reg_convs[level](stem)
            raw = (head.reg_preds[level](box_feature), head.obj_preds[level](box_feature))
            levels.append(torch.cat((*raw, head.cls_preds[level](class_feature)), 1).flatten(2))
        return (torch.cat(levels, 2),)

    def decode(self, *raw: Tensor) -> tuple[Tensor, Tensor]:
        offsets, log_sizes, objectness, classes = raw[0].tensor_split((2, 4, 5), 1)
        centres = (offsets + self.cell_centres) * self.cell_strides
        half_sizes = log_sizes.exp() * self.cell_strides / 2
        boxes = torch.cat((centres - half_sizes, centres + half_sizes), 1)
        return boxes.transpose(1, 2), (objectness.sigmoid() * classes.sigmoid()).transpose(1, 2)


STRIDED_STEM = "backbone.backbone.stem."
"""Where the first layer lies in a YOLOX."""

_PLACES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Rows and columns of the four pixels of a square, in the order in which Focus lays them."""


def focus_weight(strided: Tensor) -> Tensor:
    """What `_StridedStem` made of a Focus's weight, undone: [C,3,6,6] → [C,12,3,3]."""
    return torch.cat([strided[:, :, row::2, column::2].flip(1) for row, column in _PLACES], 1)


class _StridedStem(nn.Module):
    """YOLOX's first layer, from RGB: one convolution of 6 x 6 at every second pixel.

    yolox.models.network_blocks.Focus takes BGR, lays the four pixels of each 2 x 2 square behind each other
    and convolves them by 3 x 3. These are the same products and sums; engines are slow to pick every second
    pixel, which took a sixth of the whole YOLOX-Nano on a processor.
    """

    def __init__(self, focus: Any) -> None:
        """Args:
        focus: a Focus whose batch-norm is folded in.
        """
        super().__init__()
        of_squares = focus.conv.conv
        self.conv = nn.Conv2d(3, of_squares.out_channels, 6, stride=2, padding=2)
        self.conv.bias, self.act = of_squares.bias, focus.conv.act
        with torch.no_grad():
            for place, (row, column) in enumerate(_PLACES):
                bgr = of_squares.weight[:, 3 * place : 3 * place + 3]
                self.conv.weight[:, :, row::2, column::2] = bgr.flip(1)

    def forward(self, rgb: Tensor) -> Tensor:
        """[B,3,S,S] RGB 0 to 255 → [B,C,S/2,S/2]."""
        return torch.as_tensor(self.act(self.conv(rgb)))


def classifies(model: str) -> bool:
    """Whether a name is that of an architecture of ultralytics that classifies, as yolo11l-cls.yaml."""
    import_ultralytics()
    from ultralytics.nn.tasks import guess_model_task, yaml_model_load

    try:
        return Path(model).name == model and guess_model_task(yaml_model_load(model)) == "classify"
    except (OSError, ValueError):
        return False


class UltralyticsClassifier(nn.Module):
    """An ultralytics classification network as the classifier graph takes one: from pixels to logits."""

    def __init__(self, network: Any) -> None:
        """Args:
        network: a ClassificationModel.
        """
        super().__init__()
        self.network = network.float().eval()

    @classmethod
    def untrained(cls, model: str, class_count: int) -> "UltralyticsClassifier":
        """A new network of an architecture by its name, as yolo11l-cls.yaml."""
        import_ultralytics()
        from ultralytics.nn.tasks import ClassificationModel

        return cls(ClassificationModel(model, nc=class_count, verbose=False))

    def get_classifier(self) -> nn.Module:
        """The last layer, as models of timm give theirs."""
        last: nn.Module = self.network.model[-1].linear
        return last

    def forward(self, rgb: Tensor) -> Tensor:
        """float [N,3,S,S] RGB 0 to 1 → logits [N,C]."""
        answer = self.network(rgb)
        return torch.as_tensor(answer if self.training else answer[1])  # probabilities before the logits
