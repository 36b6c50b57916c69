"""The 23 classes of the CytologIA challenge, and what the station says of one leukocyte."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Lineage(StrEnum):
    """Groups of classes, in the order in which a hematologist reads a differential count."""

    GRANULOCYTE = "granulocyte"
    MONOCYTE = "monocyte"
    LYMPHOCYTE = "lymphocyte"
    BLAST = "blast"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class CellClass:
    """One class: the code that the challenge's files use, and its names for people."""

    code: str
    english: str
    french: str
    lineage: Lineage
    leukocyte: bool = True
    """False for cells that are reported per 100 leukocytes and not among them (Er, Thromb)."""


CELL_CLASSES: tuple[CellClass, ...] = (
    CellClass("PNN", "neutrophil", "polynucléaire neutrophile", Lineage.GRANULOCYTE),
    CellClass("EO", "eosinophil", "polynucléaire éosinophile", Lineage.GRANULOCYTE),
    CellClass("BA", "basophil", "polynucléaire basophile", Lineage.GRANULOCYTE),
    CellClass("MM", "metamyelocyte", "métamyélocyte", Lineage.GRANULOCYTE),
    CellClass("M", "myelocyte", "myélocyte", Lineage.GRANULOCYTE),
    CellClass("PM", "promyelocyte", "promyélocyte", Lineage.GRANULOCYTE),
    CellClass("MO", "monocyte", "monocyte", Lineage.MONOCYTE),
    CellClass("LY", "lymphocyte", "lymphocyte", Lineage.LYMPHOCYTE),
    CellClass("LGL", "large granular lymphocyte", "grand lymphocyte à grains", Lineage.LYMPHOCYTE),
    CellClass(
        "LH_lyAct",
        "hyperbasophilic or activated lymphocyte",
        "lymphocyte hyperbasophile ou activé",
        Lineage.LYMPHOCYTE,
    ),
    CellClass(
        "LLC",
        "chronic lymphocytic leukaemia cell",
        "cellule de leucémie lymphoïde chronique",
        Lineage.LYMPHOCYTE,
    ),
    CellClass("LF", "follicular lymphoma cell", "cellule de lymphome folliculaire", Lineage.LYMPHOCYTE),
    CellClass("LM", "mantle cell lymphoma cell", "cellule de lymphome du manteau", Lineage.LYMPHOCYTE),
    CellClass(
        "LZMG", "marginal zone lymphoma cell", "cellule de lymphome de la zone marginale", Lineage.LYMPHOCYTE
    ),
    CellClass("SS", "Sézary cell", "cellule de Sézary", Lineage.LYMPHOCYTE),
    CellClass("MBL", "myeloblast", "myéloblaste", Lineage.BLAST),
    CellClass("MoB", "monoblast", "monoblaste", Lineage.BLAST),
    CellClass("LyB", "lymphoblast", "lymphoblaste", Lineage.BLAST),
    CellClass("B", "undifferentiated blast", "blaste indifférencié", Lineage.BLAST),
    CellClass("LAM3", "acute promyelocytic leukaemia blast", "blaste de LAM 3", Lineage.BLAST),
    CellClass("Lysee", "lysed cell", "cellule lysée", Lineage.OTHER),
    CellClass("Er", "erythroblast", "érythroblaste", Lineage.OTHER, leukocyte=False),
    CellClass("Thromb", "giant platelet", "thrombocyte géant", Lineage.OTHER, leukocyte=False),
)
"""All classes of the challenge in the order of a differential count. A model's own order of outputs
is another matter: it differs from one model to the next and travels in the bundle's manifest."""

_BY_CODE = {cell_class.code: cell_class for cell_class in CELL_CLASSES}
_OTHER_SPELLINGS = {"LH_LyAc": "LH_lyAct"}
"""The challenge's page and its data file spell one class differently; the file's spelling is ours."""


def cell_class(code: str) -> CellClass:
    """The class of a code, in either of the challenge's spellings.

    Raises:
        ValueError: the code is none of the 23.
    """
    try:
        return _BY_CODE[_OTHER_SPELLINGS.get(code, code)]
    except KeyError:
        raise ValueError(
            f"{code!r} is none of the 23 classes of the challenge; use one of {', '.join(_BY_CODE)}."
        ) from None


def leukocytes_in_words(cells: Mapping[str, int]) -> str:
    """How many leukocytes there are among findings, counted by class code, and how many of what is none."""
    others = {
        cell.code: cells[cell.code] for cell in CELL_CLASSES if not cell.leukocyte and cells.get(cell.code)
    }
    told = [f"{sum(cells.values()) - sum(others.values())} leukocytes"]
    return ", ".join(told + [f"{count} {code}" for code, count in others.items()])


@dataclass(frozen=True, slots=True)
class Unlikeness:
    """How unlike an image is to all that its bundle was trained on; see `edge.likeness`.

    Attributes:
        ratio: its distance from the nearest training images, as a part of the limit.
        because: in what it differs, in words; empty if it is not marked.
    """

    ratio: float
    because: str = ""

    @property
    def is_marked(self) -> bool:
        """Whether it is beyond the limit."""
        return self.ratio > 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One leukocyte in one smear image.

    Attributes:
        box_xyxy: left, top, right, bottom in pixels of the decoded image, inside it.
        label: the code of its class.
        detection_score: the detector's score, 0 to 1.
        class_score: the probability of `label`, 0 to 1.
        probabilities: class code to probability, summing to 1, most probable first.
    """

    box_xyxy: tuple[float, float, float, float]
    label: str
    detection_score: float
    class_score: float
    probabilities: dict[str, float]

    @property
    def runner_up(self) -> tuple[str, float] | None:
        """The second choice, its class code and probability; None where only one class is known."""
        others = ((code, p) for code, p in self.probabilities.items() if code != self.label)
        return max(others, key=lambda other: other[1], default=None)
