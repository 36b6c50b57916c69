"""The commands, as a user runs them."""

import csv
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from edge import cli, opening
from edge.demo.renderer import draw_field, draw_tile
from edge.errors import StationError
from edge.oneshot import find_files, run_once
from edge.overlay import encode_jpeg
from edge.records import State
from tests.edge.pipeline_doubles import OneCell


def read_csv(path: Path) -> list[dict[str, str]]:
    """What stands in it at one moment: it may be written meanwhile."""
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))


def run(*args: object) -> Result:
    return CliRunner().invoke(cli.run, [str(arg) for arg in args])


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    """A folder as a camera leaves it: two samples, a field, and what should not be there."""
    folder = tmp_path / "camera"
    for sample, seed in (("smear-1", 1), ("smear-2", 2)):
        (folder / sample).mkdir(parents=True)
        (folder / sample / "cell.jpg").write_bytes(encode_jpeg(draw_tile(seed, "LY").rgb))
    (folder / "field.jpg").write_bytes(encode_jpeg(draw_field(1, cells=3, size_wh=(800, 600)).rgb))
    (folder / "copying.jpg.part").write_bytes(b"half a file")
    return folder


def test_every_file_of_a_folder_has_its_answer(camera: Path, tmp_path: Path) -> None:
    result = run(camera, "--out", tmp_path / "out", "--overlay")
    assert result.exit_code == 0, result.output
    assert "3 files" in result.output
    images = read_csv(tmp_path / "out/images.csv")
    assert [(row["NAME"], row["status"], row["sample"]) for row in images] == [
        ("field.jpg", "done", ""),
        ("cell.jpg", "done", "smear-1"),
        ("cell.jpg", "done", "smear-2"),
    ]
    rows = read_csv(tmp_path / "out/results.csv")
    assert list(rows[0])[:6] == ["NAME", "x1", "y1", "x2", "y2", "class"]
    assert len(rows) == sum(int(row["leukocytes"]) for row in images) >= 4
    with Image.open(tmp_path / "out/annotated/smear-2/cell.jpg.jpg") as picture:
        assert picture.size == (360, 363)


def test_a_second_run_adds_nothing(camera: Path, tmp_path: Path) -> None:
    run(camera, "--out", tmp_path / "out")
    before = (tmp_path / "out/results.csv").read_bytes()
    result = run(camera, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "of these answered before" in result.output
    assert (tmp_path / "out/results.csv").read_bytes() == before


def test_a_second_run_tells_of_the_first_ones_images(camera: Path, tmp_path: Path) -> None:
    run(camera / "smear-1", "--out", tmp_path / "out")
    output = run(camera, "--out", tmp_path / "out", "--overlay").output
    assert "leukocytes found now" in output.splitlines()[0]
    assert "1 were answered before: no annotated copies were made of them now." in output
    assert (tmp_path / "out/annotated/smear-2/cell.jpg.jpg").exists()


def test_samples_of_several_folders_begin_with_their_names(camera: Path, tmp_path: Path) -> None:
    run(camera / "smear-1", camera / "smear-2", camera / "field.jpg", "--out", tmp_path / "out", "--overlay")
    images = read_csv(tmp_path / "out/images.csv")
    assert [row["sample"] for row in images] == ["smear-1", "smear-2", ""]
    assert (tmp_path / "out/annotated/smear-1/cell.jpg.jpg").exists()
    assert (tmp_path / "out/annotated/smear-2/cell.jpg.jpg").exists()


def test_a_file_that_changed_is_tried_again_when_all_others_have_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 6), (len(name),) * 3).save(tmp_path / "in" / name)
    changing = iter(["a.png"])
    read = opening._read_regular

    def read_regular(path: Path, *rest: Any) -> object:
        if path.name == next(changing, None):
            raise opening._ChangingError
        return read(path, *rest)

    monkeypatch.setattr(opening, "_read_regular", read_regular)
    results = run_once([tmp_path / "in"], tmp_path / "out", OneCell())
    assert [(one.path.name, one.status) for one in results] == [
        ("a.png", State.DUPLICATE),
        ("b.png", State.DONE),
        ("c.png", State.DUPLICATE),
    ]


def test_files_that_nothing_would_tell_apart_are_refused(camera: Path, tmp_path: Path) -> None:
    files = (camera / "smear-1/cell.jpg", camera / "smear-2/cell.jpg")
    result = run(*files, "--out", tmp_path / "out")
    assert result.exit_code == 78
    assert "would have the same NAME and sample; give a folder that holds both" in result.output
    assert run(files[0], files[0], "--out", tmp_path / "out").exit_code == 0


def write_cells(folder: Path) -> Path:
    """Two images and a text, with other bytes in each folder."""
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text(str(folder))
    for grey, name in enumerate(("a.png", "b.png"), len(folder.name)):
        Image.new("RGB", (8, 6), (grey,) * 3).save(folder / name)
    return folder


def test_a_file_with_the_name_of_another_one_that_was_read_before_is_refused(tmp_path: Path) -> None:
    first, second = write_cells(tmp_path / "p1"), write_cells(tmp_path / "patient-2")
    run_once([first], tmp_path / "out", OneCell())
    before = (tmp_path / "out/images.csv").read_bytes()
    with pytest.raises(StationError) as refused:
        run_once([second], tmp_path / "out", OneCell())
    assert str(refused.value) == (
        f"{first}/a.png and {second}/a.png would have the same NAME and sample; give a folder that holds "
        "both, or read them into two output folders."
    )
    assert (tmp_path / "out/images.csv").read_bytes() == before
    run_once([tmp_path], tmp_path / "out", OneCell())
    read = [row for row in read_csv(tmp_path / "out/images.csv") if row["status"] == "done"]
    assert [(row["NAME"], row["sample"]) for row in read] == [
        *(("a.png", ""), ("b.png", "")),
        *(("a.png", "patient-2"), ("b.png", "patient-2")),
    ]


def test_a_file_beside_a_folder_that_was_read_before_is_refused_for_its_name(tmp_path: Path) -> None:
    folder, out = write_cells(tmp_path / "in/a"), tmp_path / "out"
    run_once([folder], out, OneCell())
    Image.new("RGB", (8, 6), (200,) * 3).save(tmp_path / "in/a.png")
    with pytest.raises(
        StationError, match=r"in/a/a\.png and .*in/a\.png would have the same NAME and sample"
    ):
        run_once([tmp_path / "in"], out, OneCell())


def test_folders_that_are_given_as_links_are_named_as_they_are_given(tmp_path: Path) -> None:
    for patient in ("anna", "bert"):
        (tmp_path / patient).symlink_to(write_cells(tmp_path / f"store/{patient}1/scan"))
    found = find_files([tmp_path / "anna", tmp_path / "bert"], tmp_path / "out")
    assert {arrival.sample for arrival in found} == {"anna", "bert"}


def test_a_folder_is_read_again_changed_moved_or_under_another_name(tmp_path: Path) -> None:
    folder, out = write_cells(tmp_path / "in"), tmp_path / "out"
    run_once([folder], out, OneCell())
    Image.new("RGB", (8, 6), (200,) * 3).save(folder / "a.png")
    assert [one.is_new for one in run_once([folder], out, OneCell())] == [True, False, False]
    (tmp_path / "link").symlink_to(folder)
    states = [one.status for one in run_once([tmp_path / "link"], out, OneCell())]
    assert states == [State.DUPLICATE, State.DUPLICATE, State.REJECTED]
    folder.rename(tmp_path / "moved")
    (tmp_path / "link").unlink()
    states = [one.status for one in run_once([tmp_path / "moved"], out, OneCell())]
    assert states == [State.DUPLICATE, State.DUPLICATE, State.REJECTED]


def test_what_is_no_image_may_have_the_same_name_in_all_folders(tmp_path: Path) -> None:
    for name in ("one", "another"):
        folder = write_cells(tmp_path / name)
        for image in ("a.png", "b.png"):
            (folder / image).rename(folder / f"{name}-{image}")
        run_once([folder], tmp_path / "out", OneCell())
    assert [row["NAME"] for row in read_csv(tmp_path / "out/images.csv")].count("notes.txt") == 2


def test_results_within_the_images_folder_are_not_read_as_images(camera: Path) -> None:
    assert run(camera, "--out", camera / "out", "--overlay").exit_code == 0
    result = run(camera, "--out", camera / "out", "--overlay")
    assert "3 files" in result.output


@pytest.mark.skipif(
    not os.geteuid() and shutil.which("setpriv") is None, reason="root may read everything, without setpriv"
)
def test_promise_09_bad_files_are_answered_and_the_good_one_after_them_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    good = encode_jpeg(draw_tile(1).rgb)
    (folder / "1-empty.jpg").write_bytes(b"")
    (folder / "2-text.jpg").write_text("dear hospital")
    (folder / "3-half.jpg").write_bytes(good[: len(good) // 2])
    huge = Image.new("1", (30_000, 30_000))
    huge.save(folder / "4-huge.png")
    (folder / "5-unreadable.jpg").write_bytes(good)
    (folder / "5-unreadable.jpg").chmod(0)
    (folder / "6-good.jpg").write_bytes(encode_jpeg(draw_tile(2).rgb))
    # Root may read everything, unless it gives that right away.
    unprivileged = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*unprivileged, Path(sys.executable).with_name("edge-run"), folder, "--out", tmp_path / "out"]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    rows = {row["NAME"]: (row["status"], row["reason"]) for row in read_csv(tmp_path / "out/images.csv")}
    assert rows == {
        "1-empty.jpg": ("rejected", "empty"),
        "2-text.jpg": ("rejected", "not an image"),
        "3-half.jpg": ("rejected", "truncated"),
        "4-huge.png": ("rejected", "too large"),
        "5-unreadable.jpg": ("failed", "permission"),
        "6-good.jpg": ("done", ""),
    }


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--backend", "tpu"], "There is no backend 'tpu'"),
        (["--bundle", "nowhere"], "nowhere is no model bundle"),
        (["--precision", "int3"], "has no precision 'int3'"),
    ],
)
def test_promise_12_what_cannot_be_opened_ends_with_one_sentence_and_78(
    camera: Path, tmp_path: Path, args: list[str], said: str
) -> None:
    result = run(camera, "--out", tmp_path / "out", *args)
    assert result.exit_code == 78
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.skipif(
    not os.geteuid() and shutil.which("setpriv") is None, reason="root may enter everything, without setpriv"
)
def test_a_folder_that_may_be_listed_and_not_entered_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "listed"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encode_jpeg(draw_tile(1).rgb))
    folder.chmod(0o644)
    unprivileged = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*unprivileged, Path(sys.executable).with_name("edge-run"), folder, "--out", tmp_path / "out"]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=100, text=True)
    folder.chmod(0o755)
    assert ended.returncode == 78
    assert f"{folder} cannot be read (Permission denied); correct its rights" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_an_empty_variable_of_a_shell_is_no_output_folder(
    camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(camera, "--out", "")
    assert result.exit_code == 2
    assert "it is empty; name a folder, or write . for the current one." in result.output
    assert not (tmp_path / "results.csv").exists()


def test_a_link_is_named_and_the_file_that_it_leads_to_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "z-real.jpg").write_bytes(encode_jpeg(draw_tile(1).rgb))
    (folder / "a-link.jpg").symlink_to("z-real.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    result = run(folder, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert [row["NAME"] for row in read_csv(tmp_path / "out/images.csv")] == ["z-real.jpg"]


def test_a_folder_may_hold_images_and_results_alike(tmp_path: Path, camera: Path) -> None:
    assert run(camera, "--out", camera.parent).exit_code == 0
    assert len(read_csv(camera.parent / "images.csv")) == 3
    assert run(camera.parent, "--out", camera.parent).exit_code == 0
    assert len(read_csv(camera.parent / "images.csv")) == 3


def test_a_copy_that_cannot_be_written_costs_no_row(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    name = "n" * 250 + ".jpg"
    (folder / name).write_bytes(encode_jpeg(draw_tile(1).rgb))
    result = run(folder, "--out", tmp_path / "out", "--overlay")
    assert result.exit_code == 0, result.output
    assert [row["status"] for row in read_csv(tmp_path / "out/images.csv")] == ["done"]


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    result = run(tmp_path / "nothing", "--out", tmp_path / "out")
    assert result.exit_code == 78
    assert "holds no file" in result.output


PEEK = """
from edge.cli import {command}
{command}({args!r}, standalone_mode=False)
"""


def loaded_by(code: str, *names: str) -> set[str]:
    """Which of the modules a fresh interpreter has loaded by the end of some code."""
    report = f"print('loaded:', *(name for name in {names!r} if name in sys.modules))"
    lines = f"import atexit, sys\natexit.register(lambda: {report})\n{code}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=100)
    assert "loaded:" in done.stdout, done.stderr
    return set(done.stdout.rsplit("loaded:", 1)[1].split())


FOREIGN = ("torch", "torchvision", "ultralytics", "timm", "onnx", "yolox", "training", "build_engines")


def test_a_whole_run_loads_nothing_that_only_training_needs(camera: Path, tmp_path: Path) -> None:
    code = PEEK.format(command="run", args=[str(camera), "--out", str(tmp_path / "out")])
    assert loaded_by(code, *FOREIGN, "openvino") == {"openvino"}
    assert read_csv(tmp_path / "out/results.csv")


WATCH_NETWORK = """
import os, socket, sys
def refuse(event, args):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto"):
        print("network:", event, args, file=sys.stderr, flush=True)
        os._exit(99)
sys.addaudithook(refuse)
"""


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_run_neither_opens_the_network_nor_leaves_anything_at_home(
    camera: Path, tmp_path: Path, backend: str
) -> None:
    """The hook is inherited by forked children, which is how one engine's telemetry works."""
    args = [str(camera), "--out", str(tmp_path / "out"), "--backend", backend]
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WATCH_NETWORK + PEEK.format(command="run", args=args)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "HOME": str(home)},
    )
    assert "network:" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert len(read_csv(tmp_path / "out/images.csv")) == 3
    assert list(home.iterdir()) == []


def test_importing_the_station_needs_no_engine() -> None:
    code = "import edge, edge.pipeline, edge.daemon, edge.bench, edge.bench.command, edge.oneshot, edge.cli"
    assert loaded_by(code, *FOREIGN, "openvino", "onnxruntime") == set()


def test_help_loads_nothing_heavy() -> None:
    code = PEEK.format(command="watch", args=["--help"])
    assert loaded_by(code, "numpy", "cv2", "pydantic", "rich", "openvino", "watchdog") == set()


def test_the_daemon_answers_what_arrives_and_stops_when_told(camera: Path, tmp_path: Path) -> None:
    """edge-watch as a process: start scan, an arrival, SIGTERM, and a restart that repeats nothing."""
    out = tmp_path / "out"
    command = [
        str(Path(sys.executable).with_name("edge-watch")),
        str(camera),
        "--out",
        str(out),
        "--overlays",
    ]

    def await_rows(count: int) -> list[dict[str, str]]:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            if (out / "images.csv").exists() and len(rows := read_csv(out / "images.csv")) >= count:
                return rows
            os.sched_yield()
        raise AssertionError(f"no {count} rows in time")

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            await_rows(3)
            (camera / "late.part").write_bytes(encode_jpeg(draw_tile(9).rgb))
            (camera / "late.part").rename(camera / "late.jpg")
            assert await_rows(4)[-1]["NAME"] == "late.jpg"
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            assert int(status.split("VmHWM:")[1].split()[0]) < 500_000  # kB, the most that it ever used
        finally:
            daemon.terminate()
        assert daemon.wait(30) == 0, daemon.stderr and daemon.stderr.read()
    before = (out / "images.csv").read_bytes()
    assert (out / "annotated/late.jpg.jpg").exists()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        (camera / "last.jpg").write_bytes(encode_jpeg(draw_tile(10).rgb))
        try:
            await_rows(5)
        finally:
            daemon.terminate()
        assert daemon.wait(30) == 0
    after = (out / "images.csv").read_bytes()
    assert after.startswith(before)
    assert len(after.splitlines()) == len(before.splitlines()) + 1
