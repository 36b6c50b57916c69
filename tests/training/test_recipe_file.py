"""What a recipe's file may say, and that the shipped ones are understood by the trainers as they are."""

import re
from pathlib import Path

import pytest

from training.recipe_file import read_recipe
from training.recipe_keys import RecipeError, TrainingRecipe

SHIPPED = sorted(Path(__file__).parents[2].glob("training/recipes/*.toml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8-sig")  # editors of Windows begin it with a mark
    return path


def network(recipe: TrainingRecipe, name: str) -> dict[str, object]:
    return dict(recipe.networks("detector"))[name].training


@pytest.fixture
def empty_base_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of that with the base weights; files in it are empty."""
    monkeypatch.setenv("CYTOLOGIA_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_understood_once_its_base_weights_are_there(
    path: Path, size: str, empty_base_weights: Path
) -> None:
    for name in re.findall(r"\$CYTOLOGIA_WEIGHTS/([\w.-]+)", path.read_text()):
        (empty_base_weights / name).touch()
    recipe = read_recipe(path, size)
    assert recipe.about
    for name, own in recipe.networks("detector"):
        assert own.bundle["windows"]["size_px"] >= 608, f"{name} reads tiles of the challenge in pieces"


def test_a_size_is_laid_over_what_both_share_key_by_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [every_detector]
        epochs = 3
        [detector.yolox]
        tile_size = 256
        batch_size = 4
        [small.detector.yolox]
        tile_size = 128
        [full.every_detector]
        epochs = 90
        [full.detector.other]
        model = "yolo11n.yaml"
        [classifier.c]
        """,
    )
    small, full = read_recipe(path, "small"), read_recipe(path, "full")
    assert dict(small.networks("detector")).keys() == {"yolox"}
    assert network(small, "yolox") == {"epochs": 3, "tile_size": 128, "batch_size": 4}
    assert network(full, "yolox") == {"epochs": 90, "tile_size": 256, "batch_size": 4}
    assert network(full, "other") == {"epochs": 90, "model": "yolo11n.yaml"}


def test_a_key_goes_to_whoever_knows_it(tmp_path: Path) -> None:
    text = "[detector.a]\nepochs = 2\nweight = 0.5\ntta = ['hflip']\ntile_size = 128\n[classifier.c]"
    path = write(tmp_path, text)
    [(_, one)] = read_recipe(path, "small").networks("detector")
    assert one.training == {"epochs": 2, "tile_size": 128}
    assert one.bundle == {"weight": 0.5, "tta": ["hflip"], "tile_size": 128}


def test_one_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    text = "[detector.a]\nmodel = 'yolo11n.yaml'\none_stage = true\n[likeness]\nsame_source = 'pool=pbc'"
    assert read_recipe(write(tmp_path, text), "small").likeness == {"same_source": "pool=pbc"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[detector.a]\nepoch = 2", "epoch is neither an option of python -m training.detector nor a key"),
        ("[detector.a]\nresume = true", "resume is given by the runner; leave it out"),
        ("[detector.a]\nepochs = 0", r"detector.a.epochs: 0 is not in the range x>=1; mend it"),
        ("[detector.a]\ntile_size = 100", "detector.a.tile_size: 100 is no multiple of 32"),
        ("[detector.a]\none_stage = 'yes'", "detector.a.one_stage is 'yes' and must be true or false"),
        ("[detector.a]\nweight = -1", r"detector.a.weight is not understood .*; see docs/bundle.md"),
        ("[detector.a]\nfolds = true", "detector.a wants one network a fold and the recipe has no folds"),
        ("[detector.a]\nfolds = 3", "folds: Input should be a valid boolean"),
        ("[detector.a]", "detector.a names no classes and no classifier beside it always does; say"),
        ("[detector.a]\n[classifier.b]\nonly_when_alone = true", "detector.a names no classes"),
        (
            "folds = 2\n[detector.a]\n[classifier.b]\n[curation.detector.c]",
            "curation.detector.c names no classes",
        ),
        (
            "[detector.a]\n[classifier.b]\npretrained = 'absent.pth'",
            "are not there: absent.pth; put them there",
        ),
        ("[detector.a]\npretrained = '$NOT_SET_ANYWHERE/a.pth'", "environment variable that is not set"),
        ("[detector.a]\n[classifier.b]\nmodel = 'no_such'", "classifier.b.model: .*no_such"),
        ("[detector.a]\n[fusion]\nio = 1", r"fusion.io: Extra inputs are not permitted"),
        ("[detector.a]\n[audit]\nside = 3", "audit.side is none of min_side, provenance, without_images"),
        (
            "[detector.a]\n[classifier.b]\nview = 'tile'\nmargin = 0.1",
            r"classifier.b: --margin is for --view crop only; leave it out\.",
        ),
        (
            "[detector.a]\n[every_classifier]\nfocal_gamma = 1\n[classifier.b]",
            "b: --focal-gamma is for --loss",
        ),
        ("[detector.a]\none_stage = true", "detector.a: yolox-nano only finds cells; choose a model of"),
        ("[detector.a]\ndevice = '0,1'\n[classifier.b]", "detector.a: --device is for models of ultralytics"),
        (
            "[detector.a]\nmodel = 'yolo11n.yaml'\nema_decay = 0.9\n[classifier.b]",
            "detector.a: yolo11n.yaml is trained by ultralytics, which does not take --ema-decay; leave",
        ),
        (
            "[detector.a]\nmodel = 'yolo99z.yaml'\n[classifier.b]",
            r"a.model: 'yolo99z.yaml' is no architecture of ultralytics [\d.]+, nor a file; give a name",
        ),
        (
            "[detector.a]\nmodel = 'yolo99z.pt'\n[classifier.b]",
            "a.model: 'yolo99z.pt' is no file, nor the name of base weights that ultralytics",
        ),
        (
            "[detector.a]\nmodel = 'no/yolo11n.pt'\n[detector.b]\nmodel = 'no/b.pt'\n[classifier.c]",
            "are not there: no/yolo11n.pt, no/b.pt; put them there",
        ),
        (
            "[detector.a]\nmodel = 'yolox-x'\n[classifier.b]",
            "a.model: 'yolox-x' is neither a YOLOX nor a model",
        ),
        (
            "[detector.a]\nmodel = ['yolox-s']\n[classifier.b]",
            r"model is \['yolox-s'\] and must be one value",
        ),
        (
            "folds = 2\n[distillation]\nteacher = 't.toml'\n[every_classifier]\nsoft_weight = 0.5\n"
            "[detector.a]\n[classifier.b]\n[curation.detector.c]\n[curation.classifier.d]",
            "curation.classifier.d: --soft-weight is for --soft-labels only",
        ),
        (
            "[detector.a]\nmodel = 'yolo11n.yaml'\none_stage = true\n[likeness]\nsame_source = 'pool'",
            "same_source: 'pool' is not of",
        ),
        (
            "[detector.a]\nmodel = 'yolo11n.yaml'\none_stage = true\n[likeness]\nsame_source = 3",
            "same_source: '3' is not of",
        ),
        ("thresholds = 0.4\n[detector.a]", r"thresholds: Extra inputs are not permitted"),
        ("threshold = 0.4", r"detector: Field required"),
        ("[detector.a", "is no TOML"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence_with_the_key(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=says) as raised:
        read_recipe(write(tmp_path, text), "small")
    assert "mine.toml" in str(raised.value)
    assert "\n" not in str(raised.value).strip()
