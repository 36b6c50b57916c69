"""Which bundle of another run may teach one that leaves sources out."""

from collections.abc import Sequence
from pathlib import Path

from edge.bundle import Bundle
from training.base_weights import sources_seen
from training.provenance import file_word
from training.recipe_keys import RecipeError


def bundle_of_teacher(run: Path, excluded: Sequence[str]) -> Path:
    """That of the run, or one of those that it trained without a source: the first that saw none of these.

    Raises:
        RecipeError: there is none.
        BundleError: one is damaged.
    """
    tried = []
    for bundle in (run / "bundle", *(run / f"without-{file_word(one)}/bundle" for one in excluded)):
        if not (bundle / "manifest.json").exists():
            tried.append(f"{bundle} is not there")
            continue
        manifest = Bundle.load(bundle).manifest
        trainings = [manifest.training_of(spec) for spec in manifest.networks]
        seen = sorted(set().union(*map(sources_seen, trainings)) & set(excluded))
        if not excluded or (not seen and all("sources" in one for one in trainings)):
            return bundle
        tried.append(f"{bundle} saw {', '.join(seen) or 'sources that it does not name'}")
    what = f" trained without {', '.join(excluded)}" if excluded else ""
    raise RecipeError(
        f"The teacher's run {run} has no bundle{what} ({', '.join(tried)}); train it with "
        "python -m training.recipe, or leave --teacher out."
    )
