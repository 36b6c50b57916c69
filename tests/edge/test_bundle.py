"""A bundle is whole and understood, or refused."""

import json
import os
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bundle import MANIFEST, Bundle, Golden, Known
from edge.errors import BundleError


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "bundle"))


def change(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_the_embedded_bundle_is_whole_small_and_permissively_usable(bundle: Bundle) -> None:
    size_bytes = sum(path.stat().st_size for path in bundle.path.iterdir())
    assert size_bytes < 25e6
    assert bundle.classifier is not None
    card = (bundle.path / "MODEL_CARD.md").read_text()
    for said in ("CC BY 4.0", "Must not be used for", "no medical device", "experimental", "unknown to it"):
        assert said in card


def test_the_id_names_the_content(bundle: Bundle, copy: Path) -> None:
    assert Bundle.load(copy).id == bundle.id
    change(copy, thresholds={"detection": 0.123})
    assert Bundle.load(copy).id != bundle.id


@pytest.mark.parametrize("name", [MANIFEST, "golden.npz", "detector.onnx"])
def test_a_file_that_is_replaced_or_gone_after_it_was_compared_is_named(copy: Path, name: str) -> None:
    loaded = Bundle.load(copy)
    former_id = loaded.id
    os.utime(copy / "MODEL_CARD.md", ns=(0, 0))
    loaded.require_unchanged()
    shutil.copy(copy / name, copy / "new")
    (copy / "new").replace(copy / name)
    sentence = f"{copy / name} was replaced while the bundle {former_id} was opened; start again when all "
    for _ in range(2):
        with pytest.raises(BundleError, match=re.escape(sentence)):
            loaded.require_unchanged()
        (copy / name).unlink(missing_ok=True)


def test_a_bundle_that_was_never_calibrated_has_temperature_one_and_no_class_threshold(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest.pop("temperature", None)
    manifest["thresholds"].pop("classification", None)
    (copy / MANIFEST).write_text(json.dumps(manifest))
    loaded = Bundle.load(copy).manifest
    assert (loaded.temperature, loaded.thresholds.classification) == (1.0, None)


def test_golden_answers_survive_their_file(bundle: Bundle) -> None:
    golden = bundle.golden()
    again = Golden.of_arrays(golden.arrays())
    assert [one.outputs.keys() for one in again.networks] == [
        {"boxes", "scores", "labels"},
        {"probabilities"},
    ]
    for ours, theirs in zip(golden.networks, again.networks, strict=True):
        np.testing.assert_array_equal(ours.inputs, theirs.inputs)
        for name in ours.outputs:
            np.testing.assert_array_equal(ours.outputs[name], theirs.outputs[name])


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no model bundle .*build\.py"):
        Bundle.load(tmp_path)


def test_promise_12_a_flipped_byte_is_noticed(copy: Path) -> None:
    file = copy / "detector.onnx"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"detector\.onnx has sha256 .* but the manifest says"):
        Bundle.load(copy)


def test_a_missing_file_is_noticed(copy: Path) -> None:
    (copy / "classifier.onnx").unlink()
    with pytest.raises(BundleError, match=r"classifier\.onnx of the bundle is missing"):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 2}, "schema_version"),  # of a later version
        ({"surprise": 1}, "surprise"),  # a key that this version would ignore
        ({"classes": ["PNN", "WBC"]}, "WBC"),  # not a class
        ({"classifiers": []}, "names the classes"),  # nobody names the cells
        ({"detectors": []}, "0 detectors"),
        ({"temperature": 0.0}, "temperature"),  # nothing can be divided by it
        ({"thresholds": {"detection": float("nan")}}, "detection: .*finite"),  # nothing is more than it
        ({"classes": ["PNN", "LY", "PNN"]}, "PNN, LY, PNN; each must be there once"),
        ({"thresholds": {"detection": 0.4, "classification": 1.5}}, "classification"),  # no probability
        ({"thresholds": {"detection": -5}}, "detection: .* 0"),
        ({"name": "two\nlines"}, r"name: .*'two\\nlines' cannot be printed on one line"),
        ({"name": ""}, "name: .* on one line"),
        ({"sha256": {"../other/golden.npz": "0"}}, r"'\.\./other/golden\.npz' is no name of a file inside"),
        ({"sha256": {"/dev/zero": "0"}}, "'/dev/zero' is no name of a file inside"),  # it has no end
        ({"sha256": {"a\0b": "0"}}, r"'a\\x00b' is no name of a file inside"),
        ({"provenance": {"detector": "from elsewhere"}}, r"provenance\.detector"),  # the card has its facts
    ],
)
def test_a_manifest_that_is_not_understood_is_refused(copy: Path, changes: dict[str, Any], said: str) -> None:
    change(copy, **changes)
    with pytest.raises(BundleError, match=said):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("networks", "key", "value"),
    [
        ("detectors", "pad", 300),  # no grey
        ("classifiers", "margin_px", -1e9),
        ("classifiers", "margin_px", 1e10),
        ("classifiers", "margin_fraction", 1e5),  # a crop of it has no place in memory
        ("classifiers", "graph", {"fp32": "/srv/other/classifier.onnx", "fp16": "classifier.fp16.onnx"}),
    ],
)
def test_what_would_fail_with_every_image_is_refused(copy: Path, networks: str, key: str, value: Any) -> None:
    (network,) = json.loads((copy / MANIFEST).read_text())[networks]
    change(copy, **{networks: [{**network, key: value}]})
    with pytest.raises(BundleError, match=rf"{networks}\.0\.{key}"):
        Bundle.load(copy)


def test_a_bundle_whose_known_answers_tell_nothing_is_refused(bundle: Bundle, copy: Path) -> None:
    golden = bundle.golden()
    (tiles,) = golden.detectors
    blank = {**tiles.outputs, "scores": np.zeros_like(tiles.outputs["scores"])}
    arrays = Golden((Known(tiles.inputs, blank),), golden.classifiers).arrays()
    np.savez_compressed(copy / "golden.npz", allow_pickle=False, **arrays)
    changed = replace(bundle, path=copy)
    with pytest.raises(BundleError, match="has no finding by which an engine could be tested"):
        changed.golden()
    for broken in (b"no archive", b"PK\3\4 no archive either"):
        (copy / "golden.npz").write_bytes(broken)
        with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
            changed.golden()


def test_known_answers_of_other_networks_than_the_manifests_are_refused(bundle: Bundle, copy: Path) -> None:
    golden = bundle.golden()
    twice = Golden(golden.detectors * 2, golden.classifiers)
    np.savez_compressed(copy / "golden.npz", allow_pickle=False, **twice.arrays())
    with pytest.raises(BundleError, match="of 2 detectors and 1 classifiers, the manifest has 1 "):
        replace(bundle, path=copy).golden()


@pytest.mark.parametrize(
    ("networks", "key", "value", "said"),
    [
        (
            "detectors",
            "tile_size",
            512,
            "tiles of .* as uint8 [4, 416, 416, 3], .* [4, 512, 512, 3]",
        ),
        ("detectors", "max_detections", 300, "boxes of .* are float32 [4, 300, 4]"),
        ("detectors", "names_classes", True, "probabilities of .* as nothing, .* are float32 [4, 100, 15]"),
        ("classifiers", "crop_size", 224, "crops of .* are uint8 [7, 224, 224, 3]"),
        (
            "classifiers",
            "classes",
            ["PNN", "LY"],
            "probabilities of .* as float32 [7, 15], .* [7, 2]",
        ),
    ],
)
def test_promise_12_a_manifest_of_other_networks_than_the_known_answers_is_refused(
    copy: Path, networks: str, key: str, value: Any, said: str
) -> None:
    (network,) = json.loads((copy / MANIFEST).read_text())[networks]
    change(copy, **{networks: [{**network, key: value}]})
    with pytest.raises(BundleError, match=said.replace("[", r"\[")):
        Bundle.load(copy).golden()


def test_a_graph_that_the_id_does_not_tell_is_refused(copy: Path) -> None:
    sha256 = json.loads((copy / MANIFEST).read_text())["sha256"]
    del sha256["detector.onnx"], sha256["golden.npz"]
    change(copy, sha256=sha256)
    with pytest.raises(BundleError, match=r"has no sha256 of detector\.onnx, golden\.npz, without which"):
        Bundle.load(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"classifier_probabilities": np.full((7, 15), np.nan, np.float32)},  # from which nothing strays
        {"detector_more": np.float32(3)},  # not one for each tile
        {"tiles": np.uint8(1)},
        {"detector_scores": np.array(["a"])},
    ],
)
def test_known_answers_that_are_no_answers_are_refused(
    bundle: Bundle, copy: Path, changes: dict[str, Any]
) -> None:
    np.savez(copy / "golden.npz", allow_pickle=False, **{**bundle.golden().arrays(), **changes})
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        replace(bundle, path=copy).golden()


def test_known_answers_in_another_kind_of_file_are_refused(bundle: Bundle, copy: Path) -> None:
    with (copy / "golden.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        replace(bundle, path=copy).golden()
    with zipfile.ZipFile(copy / "golden.npz", "w") as archive:
        archive.writestr("tiles.npy", b"x")
    data = bytearray((copy / "golden.npz").read_bytes())
    for place in (6, data.rfind(b"PK\1\2") + 8):
        data[place] |= 1  # encrypted
    (copy / "golden.npz").write_bytes(data)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read \(RuntimeError\)"):
        replace(bundle, path=copy).golden()
