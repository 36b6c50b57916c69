"""The faults that an audit looks for, in words, and what it does about each."""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What became of a row because of a fault."""

    MENDED = "mended"
    DROPPED = "dropped"
    KEPT = "kept"
    """Nothing was changed: somebody should look at it."""


class Fault(StrEnum):
    """Every kind of fault, by the name that the files and the report use."""

    CELLS = "wrong number of cells"
    BLANK = "blank cell"
    NO_NUMBER = "not a number"
    SPACES = "spaces around a cell"
    SPELLING = "other spelling"
    UNKNOWN_CLASS = "unknown class"
    TURNED = "corners the wrong way round"
    NO_AREA = "no area"
    BORDER = "over the border"
    OUTSIDE = "outside the image"
    SLIVER = "sliver"
    REPEATED = "repeated row"
    DOUBLED = "doubled box"
    CONTRADICTION = "contradictory classes"
    LOST_SOME = "image that lost boxes"
    NO_IMAGE = "row without an image"
    UNREADABLE = "unreadable image"
    REPAIRED = "repaired image"
    NO_ROWS = "image without rows"
    COPY = "copy of an image"
    COPIES_DISAGREE = "copies that disagree"
    NEAR_DUPLICATE = "near-duplicate image"
    IN_TWO_FILES = "image in two files"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A fault for people: what it is and what was done."""

    meaning: str
    treatment: str


EXPLANATIONS: dict[Fault, Explanation] = {
    Fault.CELLS: Explanation(
        "The row has more cells than the header has columns, so nobody can tell which is which.", "Dropped."
    ),
    Fault.BLANK: Explanation("The name, a coordinate or the class is missing.", "Dropped."),
    Fault.NO_NUMBER: Explanation("A coordinate is no number, or not a finite one.", "Dropped."),
    Fault.SPACES: Explanation("A cell begins or ends with spaces.", "Mended: the spaces were taken off."),
    Fault.SPELLING: Explanation(
        "The challenge's page and its file spell one class differently (LH_LyAc and LH_lyAct).",
        "Mended: written as in the file, LH_lyAct.",
    ),
    Fault.UNKNOWN_CLASS: Explanation(
        "The class is none of the 23, and not WBC, the mark of a leukocyte without a class.", "Dropped."
    ),
    Fault.TURNED: Explanation("x1 is greater than x2, or y1 than y2.", "Mended: swapped."),
    Fault.NO_AREA: Explanation("The box is zero pixels wide or high.", "Dropped."),
    Fault.BORDER: Explanation("The box reaches over the border of its image.", "Mended: clipped."),
    Fault.OUTSIDE: Explanation("Nothing of the box lies inside the image.", "Dropped."),
    Fault.SLIVER: Explanation(
        "A side of the box, clipped to the image, is too short for a cell.", "Dropped."
    ),
    Fault.REPEATED: Explanation(
        "The same box of the same class in the same image as an earlier row.", "Dropped; the first stays."
    ),
    Fault.DOUBLED: Explanation(
        "One cell was boxed twice: nearly the same box and the same class.", "Dropped; the first stays."
    ),
    Fault.CONTRADICTION: Explanation(
        "One box has two classes, and nobody can tell from the file which is right.",
        "Mended: the first row stays with the class WBC (a leukocyte without a class, which still trains the "
        "detector), the others were dropped.",
    ),
    Fault.LOST_SOME: Explanation(
        "Some boxes of the image were dropped and others kept. If a dropped one held a cell, a detector "
        "would learn that cell as background.",
        "Kept: look at the image, draw the box anew or leave the image out.",
    ),
    Fault.NO_IMAGE: Explanation("No image of that name is in the folders.", "Dropped."),
    Fault.UNREADABLE: Explanation(
        "The station's own decoder refuses the file, and it cannot be repaired without inventing pixels.",
        "The rows were dropped. Copy the file again from where it came.",
    ),
    Fault.REPAIRED: Explanation(
        "The station's decoder refuses the file, but all its pixels are there: foreign bytes stand before "
        "the image, or its end marker is missing.",
        "Mended: a repaired copy is in cleaned/images; the original was not touched.",
    ),
    Fault.NO_ROWS: Explanation(
        "The image is in the folder and no row names it. It may show no leukocyte, or have been forgotten.",
        "Kept as it is; the cleaned files do not name it.",
    ),
    Fault.COPY: Explanation(
        "The file has the same bytes as one that was named earlier.",
        "The rows of the later one were dropped. The order of the files counts: name first whose images "
        "should stay.",
    ),
    Fault.COPIES_DISAGREE: Explanation(
        "Two files with the same bytes have different boxes or classes.",
        "The rows of the first were kept: look at which is right.",
    ),
    Fault.NEAR_DUPLICATE: Explanation(
        "The image looks like another one, perhaps coded anew, resized, cut a little, turned by a quarter or "
        "mirrored. In training and validation at once it makes a model look better than it is.",
        "Kept: cleaned/provenance.csv has the group of each image in duplicate_group, and training.splits "
        "keeps a group together.",
    ),
    Fault.IN_TWO_FILES: Explanation(
        "One image is named by more than one of the CSV files. If one of them trains and another judges, the "
        "figures are worth nothing.",
        "Kept: take it out of one of them.",
    ),
}


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the log: one fault of one row, or of one image.

    Attributes:
        fault: a `Fault`; of a curation a `training.curation.Curated`.
        file: the CSV file as the report names it; the folder for an image without rows.
        line: of the row in that file, from 1; None where the whole image is meant.
        before: the cells x1,y1,x2,y2,class as given.
        after: the same as kept; empty if the row was dropped.
    """

    file: str
    line: int | None
    name: str
    action: Action
    fault: StrEnum
    reason: str
    before: str = ""
    after: str = ""
