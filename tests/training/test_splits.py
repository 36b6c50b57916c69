"""Splits: nothing that belongs together is parted, nothing lost, and what cannot be balanced is said."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tests.real_files import data_path
from tests.training.damaged_smears import jpeg, rgb, write_csv, write_images
from training.annotations import read_beside
from training.folds import (
    BoxRow,
    Pair,
    SplitError,
    class_counts,
    groups_of,
    k_folds,
    leave_one_source_out,
    shortfalls,
)
from training.split_files import summary
from training.splits import main


def box(name: str, label: str = "LY", source: str = "lab", together: tuple[str, ...] = ()) -> BoxRow:
    return BoxRow((name, "0", "0", "50", "50", label), label, source, together)


_BOXES = st.builds(
    box,
    st.integers(0, 15).map("{}.jpg".format),
    st.sampled_from(["LY", "MO", "PNN", "WBC"]),
    st.sampled_from(["north", "south", "west"]),
    st.sets(st.sampled_from(["patient 1", "patient 2", "patient 3", "copy 1"]), max_size=1).map(tuple),
)


@given(st.lists(_BOXES, min_size=1, max_size=60), st.integers(2, 5), st.integers(0, 3))
def test_no_group_is_in_two_folds_and_every_row_in_exactly_one(
    rows: list[BoxRow], n_folds: int, seed: int
) -> None:
    groups = groups_of(rows).tolist()
    if len(set(groups)) < n_folds:
        with pytest.raises(SplitError, match=f"{n_folds} folds were asked for"):
            k_folds(rows, n_folds, seed)
        return
    pairs = k_folds(rows, n_folds, seed)
    assert len(pairs) == n_folds
    assert sum((Counter(pair.val) for pair in pairs), Counter()) == Counter(rows)
    for pair in pairs:
        assert pair.val
        assert Counter(pair.train) + Counter(pair.val) == Counter(rows)
        assert not {row.name for row in pair.train} & {row.name for row in pair.val}
        for mark in ("patient 1", "patient 2", "patient 3", "copy 1"):
            assert (
                len(
                    {part for part in ("train", "val") for row in getattr(pair, part) if mark in row.together}
                )
                < 2
            )
    assert pairs == k_folds(rows, n_folds, seed)


@given(
    st.dictionaries(st.sampled_from(["LY", "MO", "PNN", "EO"]), st.integers(10, 40), min_size=1),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_classes_are_even_where_every_image_can_go_anywhere(
    counts: dict[str, int], n_folds: int, seed: int
) -> None:
    rows = [box(f"{label}{place}.jpg", label) for label, count in counts.items() for place in range(count)]
    for pair in k_folds(rows, n_folds, seed):
        for label, total in counts.items():
            assert abs(class_counts(pair.val)[label] - total / n_folds) <= 1
    assert shortfalls(rows, k_folds(rows, n_folds, seed)) == []


def test_sources_are_even_within_a_class_and_the_seed_decides_what_goes_where() -> None:
    rows = [box(f"{source}{place}.jpg", source=source) for source in ("a", "b") for place in range(20)]
    for seed in range(3):
        for pair in k_folds(rows, 4, seed):
            assert Counter(row.source for row in pair.val) == {"a": 5, "b": 5}
    assert k_folds(rows, 4, 0) != k_folds(rows, 4, 1)


def test_a_class_with_as_many_images_as_folds_is_in_each() -> None:
    rows = [box(f"{label}{place}.jpg", label) for label in ("LY", "MO", "EO") for place in range(4)]
    for seed in range(3):
        pairs = k_folds(rows, 4, seed)
        assert all(class_counts(pair.val) == {"LY": 1, "MO": 1, "EO": 1} for pair in pairs)
        assert shortfalls(rows, pairs) == []


def test_a_rare_class_does_not_unbalance_the_others() -> None:
    rows = [box(f"{label}{place}.jpg", label) for label in ("LY", "MO", "EO") for place in range(12)]
    for seed in range(3):
        for pair in k_folds([box("rare.jpg", "SS"), *rows], 4, seed):
            counts = class_counts(pair.val)
            assert [counts[label] for label in ("LY", "MO", "EO")] == [3, 3, 3]


def test_a_fold_may_miss_a_fifth_of_the_even_number() -> None:
    rows = [box(f"{place}.jpg", "EO") for place in range(200)]
    for first, said in ((81, False), (79, True)):
        pairs = [Pair("fold-1", (), tuple(rows[:first])), Pair("fold-2", (), tuple(rows[first:]))]
        assert bool(shortfalls(rows, pairs)) == said


@given(st.lists(_BOXES, min_size=1, max_size=40))
def test_a_source_that_is_left_out_is_judged_whole_and_never_trained_on(rows: list[BoxRow]) -> None:
    try:
        pairs = leave_one_source_out(rows)
    except SplitError as error:
        assert str(error).startswith(("All images are of one source", "Without "))  # noqa: PT017
        return
    assert [pair.name for pair in pairs] == sorted({row.source for row in rows})
    for pair in pairs:
        assert {row.source for row in pair.val} == {pair.name}
        assert Counter(pair.train) + Counter(pair.val) + Counter(pair.left_out) == Counter(rows)
        kept_apart = dict(zip(rows, groups_of(rows).tolist(), strict=True))
        assert not {kept_apart[row] for row in pair.train} & {kept_apart[row] for row in pair.val}


def test_groups_join_through_others() -> None:
    rows = [
        box("a.jpg", together=("patient 1",)),
        box("b.jpg"),
        box("c.jpg", together=("copy 1", "patient 1")),
        box("d.jpg", together=("copy 1",)),
        box("b.jpg", "MO"),
    ]
    assert groups_of(rows).tolist() == [0, 1, 0, 0, 1]


def test_a_class_with_fewer_groups_than_folds_is_said() -> None:
    rows = [box(f"{place}.jpg") for place in range(20)] + [box("x.jpg", "SS"), box("y.jpg", "SS")]
    (sentence,) = shortfalls(rows, k_folds(rows, 4))
    assert sentence.startswith("SS is in 2 groups of images, fewer than 4 folds: fold-")
    assert sentence.endswith("cannot judge it.")


def test_a_class_that_a_fold_lacks_though_it_need_not_is_said() -> None:
    rows = [box(f"{place}.jpg", "EO") for place in range(4)]
    pairs = [Pair(f"fold-{place + 1}", (), (row,)) for place, row in enumerate(rows)]
    assert shortfalls(rows, pairs) == []
    pairs = [Pair("fold-1", (), (rows[0], rows[3])), *pairs[1:3], Pair("fold-4", (), ())]
    assert shortfalls(rows, pairs) == ["EO is absent from fold-4."]


def test_a_class_that_one_patient_has_most_of_is_said() -> None:
    rows = [box(f"{place}.jpg", "EO", together=("patient 1",)) for place in range(20)]
    rows += [box(f"x{place}.jpg", "EO") for place in range(8)]
    pairs = k_folds(rows, 4)
    (sentence,) = shortfalls(rows, pairs)
    counts = ", ".join(f"{pair.name} {len(pair.val)}" for pair in pairs)  # also those that have too few
    assert sentence == f"EO should have 7.0 boxes a fold, and has in {counts}."


def test_the_summary_counts_boxes_and_images_to_judge_by() -> None:
    rows = [box(f"{place}.jpg", label) for place, label in enumerate(["LY", "PNN", "LY", "EO", "LY", "PNN"])]
    rows.append(box("0.jpg", "LY"))
    pairs = [
        Pair("fold-1", (*rows[3:6],), (*rows[:3], rows[6])),
        Pair("fold-2", (*rows[:3], rows[6]), (*rows[3:6],)),
    ]
    text = summary(rows, pairs, ["a.csv", "b.csv"], ["patient"], by_source=False, seed=3)
    assert (
        text
        == """# 2 folds, seed 3

7 boxes on 6 images of a.csv, b.csv. Never parted: the same image, the same patient (6 groups). \
Near-duplicates are not kept together: no duplicate_group of training.audit was used.

Boxes to judge by, by class:

| class | fold-1 | fold-2 | all |
|---|---:|---:|---:|
| PNN | 1 | 1 | 2 |
| EO | 0 | 1 | 1 |
| LY | 3 | 1 | 4 |
| **boxes** | 4 | 3 | 7 |
| **images** | 3 | 3 | 6 |

## What could not be balanced

- EO is in 1 groups of images, fewer than 2 folds: fold-1 cannot judge it.
"""
    )


def test_the_summary_of_sources_says_what_a_model_without_one_never_saw() -> None:
    labels = {"north": ["LY", "EO"], "south": ["LY", "MO", "LY"]}
    rows = [
        box(f"{source}{place}.jpg", label, source)
        for source, own in labels.items()
        for place, label in enumerate(own)
    ]
    text = summary(rows, leave_one_source_out(rows), ["a.csv"], ["duplicate_group"], by_source=True, seed=0)
    assert "Near-duplicates" not in text
    assert text.splitlines()[-3:] == [
        "",
        "- north judges EO, LY; without it no image to train on has EO.",
        "- south judges MO, LY; without it no image to train on has MO.",
    ]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve images of three sources, two patients of each by the same numbers.

    Near-duplicates across sources leave five groups that may be parted; a smear joins three of these.
    """
    names = [f"i{place}" for place in range(12)]
    write_images(tmp_path / "data/images", **{name: jpeg(rgb(place)) for place, name in enumerate(names)})
    rows = [f"{name}.jpg,10,20,90,100,{('LY', 'MO')[place % 2]}" for place, name in enumerate(names)]
    sources = ("north", "south", "west")
    copies, smear = {0: "i0.jpg", 4: "i0.jpg"}, {4: "s", 5: "s", 11: "s"}
    told = [
        f"{name}.jpg,{sources[place // 4]},p{place % 2},{copies.get(place, '')},{smear.get(place, '')}"
        for place, name in enumerate(names)
    ]
    write_csv(tmp_path / "data/provenance.csv", *told, header="NAME,source,patient,duplicate_group,smear")
    return write_csv(tmp_path / "data/boxes.csv", *rows)


def place_of(name: str) -> int:
    return int(name[1:-4])


def names_in(path: Path) -> set[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["NAME"] for row in csv.DictReader(file)}


def test_the_trainers_read_what_is_written(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(data, "--out", out, "--folds", 2).exit_code == 0
    for fold in (1, 2):
        train, val = (read_beside([out / f"fold-{fold}-{part}.csv"]) for part in ("train", "val"))
        assert len(train) + len(val) == 12
        assert {image.source for image in (*train, *val)} == {"north", "south", "west"}
        patients = [{(image.source, place_of(image.name) % 2) for image in one} for one in (train, val)]
        assert not patients[0] & patients[1]
        names = {image.name for image in val}
        assert ("i0.jpg" in names) == ("i4.jpg" in names)
    assert (out / "images/i3.jpg").resolve() == data.parent / "images/i3.jpg"
    summary = (out / "summary.md").read_text(encoding="utf-8")
    assert "12 boxes on 12 images of boxes.csv" in summary
    assert "the same image, the same patient, the same duplicate_group (5 groups)" in summary


def test_what_is_grouped_by_is_kept_together_besides_patients_and_near_duplicates(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(data, "--out", out, "--folds", 2, "--group-by", "smear")
    assert result.exit_code == 0, result.output
    assert "the same patient, the same duplicate_group, the same smear (3 groups)" in result.output
    for fold in (1, 2):
        places = {place_of(name) for name in names_in(out / f"fold-{fold}-val.csv")}
        for together in ({0, 2, 4, 5, 6, 7, 9, 11}, {1, 3}, {8, 10}):
            assert together <= places or not together & places


def test_patients_of_two_sources_by_one_number_are_two(data: Path, tmp_path: Path) -> None:
    names = [f"i{place}.jpg,{'north' if place < 6 else 'south'},{place % 2}" for place in range(12)]
    write_csv(data.with_name("provenance.csv"), *names, header="NAME,source,patient")
    result = run(data, "--out", tmp_path / "out", "--leave-one-source-out")
    assert result.exit_code == 0, result.output
    assert "(4 groups)" in result.output
    assert names_in(tmp_path / "out/without-north-train.csv") == {f"i{place}.jpg" for place in range(6, 12)}
    two = read_beside([data])
    assert two[0].together == two[2].together != two[6].together


def test_one_source_is_left_out_at_a_time(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(data, "--out", out, "--leave-one-source-out")
    assert result.exit_code == 0, result.output
    assert names_in(out / "without-north-val.csv") == {f"i{place}.jpg" for place in range(4)}
    assert names_in(out / "without-north-train.csv") == {f"i{place}.jpg" for place in (5, 7, 8, 9, 10, 11)}
    assert "2 boxes of other sources belong to its images and are left out" in result.output
    assert "west judges MO, LY." in result.output
    assert len(list(out.glob("without-*.csv"))) == 6


def test_without_provenance_the_source_is_the_folder(tmp_path: Path) -> None:
    files = []
    for place, lab in enumerate(("north", "south")):
        write_images(tmp_path / lab / "images", **{lab: jpeg(rgb(place))})
        files.append(write_csv(tmp_path / lab / "boxes.csv", f"{lab}.jpg,10,20,90,100,LY"))
    result = run(*files, "--out", tmp_path / "out", "--leave-one-source-out")
    assert result.exit_code == 0, result.output
    assert names_in(tmp_path / "out/without-north-val.csv") == {"north.jpg"}
    assert names_in(tmp_path / "out/without-north-train.csv") == {"south.jpg"}


def test_two_images_of_one_name_are_not_split_together(tmp_path: Path) -> None:
    files = []
    for place, lab in enumerate(("north", "south")):
        write_images(tmp_path / lab / "images", same=jpeg(rgb(place)), **{lab: jpeg(rgb(2 + place))})
        rows = [f"{name}.jpg,10,20,90,100,LY" for name in ("same", lab)]
        files.append(write_csv(tmp_path / lab / "boxes.csv", *rows))
    result = run(*files, "--out", tmp_path / "out", "--folds", 2)
    assert result.exit_code == 78
    assert "are two images of one NAME; rename one of them" in " ".join(result.output.split())
    assert not list((tmp_path / "out").glob("*.csv"))


def test_without_duplicate_groups_the_summary_says_so(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "boxes.csv", *(f"{place}.jpg,0,0,50,50,SS" for place in range(4)))
    result = run(path, "--out", tmp_path / "out", "--folds", 2)
    assert "Near-duplicates are not kept together" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "9"], "9 folds were asked for, and there are only 5 groups"),
        (["--folds", "2", "--leave-one-source-out"], "are two ways to split; give one of them"),
        (
            ["--group-by", "slide"],
            "no column slide to group by, only NAME, duplicate_group, patient, smear, source;",
        ),
        (["--leave-one-source-out"], "nothing is left to train on, since all images belong together"),
    ],
)
def test_what_cannot_be_done_ends_with_one_sentence(
    arguments: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    if "--leave-one-source-out" in arguments and len(arguments) == 1:
        names = (f"i{place}.jpg,{'north' if place else 'south'},copy" for place in range(12))
        write_csv(data.parent / "provenance.csv", *names, header="NAME,source,duplicate_group")
    result = run(data, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 78
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_rows_that_want_cleaning_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "boxes.csv", "a.jpg,1,2,50,60,LY", "b.jpg,1,2,50,60,RBC")
    result = run(path, "--out", tmp_path / "out")
    assert result.exit_code == 78
    assert "on line 3 b.jpg,1,2,50,60,RBC, which is no box of a known class; clean it" in result.output


def test_files_of_two_sources_that_differ_in_signs_only_are_not_mixed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "boxes.csv", "a.jpg,1,2,50,60,LY", "b.jpg,1,2,50,60,LY")
    write_csv(tmp_path / "provenance.csv", "a.jpg,lab 1", "b.jpg,lab/1", header="NAME,source")
    result = run(path, "--out", tmp_path / "out", "--leave-one-source-out")
    assert result.exit_code == 78
    assert "Two sources would give files of one name" in result.output


def test_the_originals_survive_a_folder_that_is_theirs(data: Path, tmp_path: Path) -> None:
    copied = write_csv(tmp_path / "elsewhere/boxes.csv", *data.read_text().splitlines()[1:])
    before = {path: path.read_bytes() for path in data.parent.rglob("*") if path.is_file()}
    result = run(copied, "--out", data.parent)
    assert result.exit_code == 78
    assert "so they are not of a former run; give an empty folder" in result.output
    (data.parent / "summary.md").write_text("")
    run(copied, "--out", data.parent)
    images = {path: content for path, content in before.items() if path.suffix == ".jpg"}
    assert {path: path.read_bytes() for path in images} == images
    assert not any(path.is_symlink() for path in images)


def test_a_second_run_goes_where_the_first_went(data: Path, tmp_path: Path) -> None:
    first = run(data, "--out", tmp_path / "out", "--folds", 2)
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.csv")}
    assert run(data, "--out", tmp_path / "out", "--folds", 2).output == first.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.csv")} == written


def test_no_fold_of_a_former_split_is_left(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(data, "--out", out, "--folds", 4).exit_code == 0
    (out / "fold-1").mkdir()  # of somebody who trains in the same folder
    kept = [out / name for name in ("fold-1/best.pt", "mine-train.csv", "fold-notes.csv")]
    for path in kept:
        path.touch()
    assert run(data, "--out", out, "--folds", 2).exit_code == 0
    folds = [f"fold-{fold}-{part}.csv" for fold in (1, 2) for part in ("train", "val")]
    own = ["fold-notes.csv", "mine-train.csv", "provenance.csv"]
    assert sorted(path.name for path in out.glob("*.csv")) == sorted([*folds, *own])
    assert run(data, "--out", out, "--leave-one-source-out").exit_code == 0
    assert not list(out.glob("fold-?-*.csv"))
    assert run(data, "--out", out, "--folds", 2).exit_code == 0
    assert sorted(path.name for path in out.glob("*.csv")) == sorted([*folds, *own])
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("clash", ["image", "source"])
def test_a_split_that_is_refused_leaves_the_former_one(clash: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(data, "--out", out, "--folds", 2).exit_code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    if clash == "image":
        other = write_csv(tmp_path / "other/boxes.csv", *data.read_text().splitlines()[1:])
        write_images(other.parent / "images", i0=jpeg(rgb(5)))
        result = run(other, "--out", out, "--folds", 3)
    else:
        names = (f"i{place}.jpg,lab{' ' if place else '/'}1" for place in range(12))
        write_csv(data.parent / "provenance.csv", *names, header="NAME,source")
        result = run(data, "--out", out, "--leave-one-source-out")
    assert result.exit_code == 78
    said = {"image": "whose place it has; give an empty folder", "source": "give files of one name"}[clash]
    assert said in " ".join(result.output.split())
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_made_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(data, "--out", tmp_path / "file/out", "--folds", 2)
    assert result.exit_code == 74
    assert "file/out cannot be written (Not a directory)" in result.output


def test_the_real_smears_are_spread_evenly(tmp_path: Path) -> None:
    smears = data_path("smears")
    result = run(smears / "train.csv", smears / "val.csv", "--out", tmp_path / "out", "--folds", 4)
    assert result.exit_code == 0, result.output
    for fold in range(1, 5):
        images = read_beside([tmp_path / f"out/fold-{fold}-val.csv"])
        assert sum(len(image.labels) for image in images) == pytest.approx(1904 / 4, abs=5)
        assert {image.source for image in images} == {"pbc", "bccd", "lmu_aml", "sidhom_apl"}
