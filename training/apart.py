"""Whether what is judged by was kept apart from what is trained on."""

from collections.abc import Sequence

from training.annotations import AnnotatedImage
from training.groups import groups_sharing
from training.loop import TrainingError


def require_apart(training: Sequence[AnnotatedImage], validation: Sequence[AnnotatedImage]) -> None:
    """Refuse an image that is in both.

    Raises:
        TrainingError: there is one.
    """
    trained_on = {image.path.resolve() for image in training}
    if both := [image.path for image in validation if image.path.resolve() in trained_on]:
        raise TrainingError(
            f"{len(both)} of {len(validation)} validation images are trained on, too ({both[0]}); take them "
            "out of one of the files, or split one file with training.splits."
        )


def kinship(training: Sequence[AnnotatedImage], validation: Sequence[AnnotatedImage]) -> str:
    """Which validation images belong together with training images, in a sentence; "" if none do."""
    groups = groups_sharing([image.together for image in (*training, *validation)]).tolist()
    trained_on = set(groups[: len(training)])
    of_validation = zip(validation, groups[len(training) :], strict=True)
    kin = [image.name for image, group in of_validation if group in trained_on]
    if not kin:
        return ""
    return (
        f"{len(kin)} of {len(validation)} validation images share a patient or a duplicate_group with images "
        f"that are trained on (first {kin[0]}), so that figures on them flatter; split the files with "
        "training.splits."
    )
