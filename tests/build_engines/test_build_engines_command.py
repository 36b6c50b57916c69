"""`python build_engines/build.py` for engines: what it finds, builds and says, with and without a card."""

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from build_engines import build, preflight, station_build
from build_engines.preflight import Library, Preflight, find_library
from build_engines.station_build import Station
from edge.bundle import Bundle, embedded_bundle
from edge.engine_files import Machine, Target
from edge.errors import EngineAway
from tests.build_engines.test_engines_build import CARD, CardDouble, rtx

NO_DRIVER = "no NVIDIA driver"
NOTHING = {"tensorrt": Library(None, "tensorrt is missing"), "tensorrt_rtx": Library(None, "rtx is missing")}
ONLY_RTX = {**NOTHING, "tensorrt_rtx": Library(rtx)}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a card, whatever this one has, and a wide terminal."""
    monkeypatch.setattr(preflight, "probe", lambda: NO_DRIVER)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(preflight, "find_library", lambda target: ONLY_RTX[target])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded_bundle(), tmp_path / "bundle"))


def test_no_module_beside_the_command_hides_a_package() -> None:
    """Python looks for packages in a script's folder first: torch imports triton, its compiler, there."""
    beside = {path.stem for path in Path(build.__file__).parent.glob("*.py")} - {"__init__", "build"}
    assert {name for name in beside if find_spec(name) or name in packages_distributions()} == set()
    assert "triton" not in beside  # which torch has wherever it has CUDA


def run(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(build.main, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.output


def test_without_a_card_nothing_is_built_and_the_processor_is_tried(folder: Path) -> None:
    said = run("--bundle", folder, "--gate-images", 2)
    assert "No engine of tensorrt is built: no NVIDIA driver" in said
    assert "No engine of tensorrt_rtx is built: no NVIDIA driver." in said
    for engine in ("openvino f32", "onnxruntime f32", "onnxruntime f16"):
        assert any(engine in line and "passed" in line for line in said.splitlines()), engine
    assert "edge-watch runs demo-" in said
    assert " on openvino:" in said
    assert not (folder / "engines").exists()


def test_a_repository_for_triton_is_written_and_nothing_is_built(folder: Path, tmp_path: Path) -> None:
    said = run("--bundle", folder, "--triton", tmp_path / "models")
    assert "as ONNX" in said
    assert (tmp_path / "models" / "detector" / "config.pbtxt").exists()
    assert not (folder / "engines").exists()


def test_the_settings_say_which_bundle_and_engine(folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "station.toml"
    settings.write_text(f'inbox = "in"\nout = "results"\nbundle = "{folder}"\nbackend = "onnxruntime"\n')
    said = run("--settings", settings, "--gate-images", 1)
    assert " on onnxruntime:f32" in said
    assert "No engine of" not in said
    settings.write_text('bundel = "x"\n')
    assert "'bundel' in" in run("--settings", settings, code=1)


@pytest.mark.parametrize(
    ("backend", "has", "target", "said"),
    [
        ("auto", ("tensorrt", "tensorrt_rtx"), "tensorrt", ""),
        ("auto", ("tensorrt_rtx",), "tensorrt_rtx", ""),
        ("tensorrt", ("tensorrt", "tensorrt_rtx"), "tensorrt", ""),
        ("tensorrt", ("tensorrt_rtx",), None, "No engine of tensorrt is built: tensorrt is missing.\n"),
        ("tensorrt_rtx", ("tensorrt", "tensorrt_rtx"), "tensorrt_rtx", ""),
        ("tensorrt_rtx", ("tensorrt",), None, "No engine of tensorrt_rtx is built: rtx is missing.\n"),
        ("openvino", ("tensorrt", "tensorrt_rtx"), None, ""),
    ],
)
def test_a_backend_that_is_set_is_what_is_built_for(
    backend: str,
    has: tuple[Target, ...],
    target: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: object())
    libraries = {**NOTHING, **{name: Library(rtx) for name in has}}
    found = Preflight(CARD, "", libraries, 9_000_000_000)  # type: ignore[arg-type]
    station = Station(Bundle.load(embedded_bundle()), backend, "auto", None, None)
    assert station_build._target(station, found, None, ()) == target
    assert capsys.readouterr().out == said


def test_the_settings_say_which_server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def is_away(_bundle: Bundle, *engine: str | None) -> None:
        asked.append(engine)
        raise EngineAway("The server is away.")

    monkeypatch.setattr(station_build, "open_pipeline", is_away)
    url = "http://192.0.2.9:8000"
    settings = tmp_path / "station.toml"
    settings.write_text(f'bundle = "{folder}"\nbackend = "kserve"\nserver_url = "{url}"\n')
    assert "The server is away." in run("--settings", settings, "--gate-images", 1, code=1)
    assert asked == [("kserve", "auto", None, url)]


def test_the_environment_says_which_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOLOGIA_EDGE_BUNDLE", str(folder))
    assert f"in {folder}" in run("--check")
    assert "/nowhere is no model bundle" in run("--check", "--bundle", "/nowhere", code=1)


def test_check_tells_what_can_be_built_and_changes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    said = run("--check", "--bundle", folder)
    lines = [line.split("│") for line in said.splitlines()]
    rows = {cells[1].strip(): cells[2].strip() for cells in lines if len(cells) > 2}
    assert rows["driver"] == NO_DRIVER
    assert rows["tensorrt_rtx"] == rtx.__version__
    assert rows["build tensorrt"] == "no: no NVIDIA driver; tensorrt is missing"
    assert rows["build tensorrt_rtx"] == "no: no NVIDIA driver"
    assert rows["build tensorrt_rtx for other cards"].startswith("yes, for compute capability 7.5, 8.0")
    assert rows["engines, tensorrt"] == "none"
    assert "GB free" in rows["disk"]
    assert sorted(folder.rglob("*")) == before


def test_check_with_a_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "probe", lambda: CARD)
    monkeypatch.setattr(preflight, "find_spec", lambda name: object())
    said = run("--check", "--bundle", folder)
    for shown in (CARD.gpu, CARD.driver, "12.0 GB", "yes, on this card"):
        assert shown in said


@pytest.mark.parametrize(
    ("machine", "libraries", "disk_gb", "pycuda", "said"),
    [
        (CARD, ONLY_RTX, 9, True, ""),
        (None, ONLY_RTX, 9, True, "no NVIDIA driver"),
        (CARD, NOTHING, 9, True, "rtx is missing"),
        (CARD, ONLY_RTX, 9, False, "pycuda is not installed"),
        (CARD, ONLY_RTX, 0.5, True, "0.5 GB of disk are free, and 1 GB are needed"),
        (Machine("GTX 1080", "6.1", "", 0), ONLY_RTX, 9, True, "compute capability 6.1, and 7.5 is"),
    ],
)  # fmt: skip
def test_why_an_engine_cannot_be_built(
    machine: Machine | None, libraries: dict[str, Library], disk_gb: float, pycuda: bool, said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(preflight, "find_spec", lambda name: object() if pycuda else None)
    found = Preflight(machine, NO_DRIVER, libraries, int(disk_gb * 1e9))  # type: ignore[arg-type]
    assert said in found.why_not("tensorrt_rtx")
    assert bool(found.why_not("tensorrt_rtx")) == bool(said)
    assert found.best_target() == (None if said else "tensorrt_rtx")


def test_a_library_that_is_absent_broken_or_old_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert find_library("tensorrt").why_not == "tensorrt is not installed; `pip install tensorrt`"
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text('raise OSError("libnvinfer.so.10 is missing")')
    assert "does not load (libnvinfer.so.10 is missing)" in find_library("tensorrt").why_not
    (tmp_path / "tensorrt.py").write_text("import tensorrt_bindings  # which is not there")
    assert "does not load (No module named 'tensorrt_bindings')" in find_library("tensorrt").why_not
    (tmp_path / "tensorrt.py").write_text('raise ImportError("libnvinfer.so.10: cannot open shared object")')
    assert "does not load (libnvinfer.so.10: cannot open" in find_library("tensorrt").why_not
    (tmp_path / "tensorrt.py").write_text('__version__ = "10.9.1"  # and something to change its size')
    assert "tensorrt is 10.9.1 and must be 10.13 or newer" in find_library("tensorrt").why_not
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text('__version__ = "11.4.0.106"')
    assert find_library("tensorrt").version == "11.4.0.106"
    monkeypatch.delitem(sys.modules, "tensorrt")


def test_a_folder_that_this_user_may_not_look_into_has_the_disk_of_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.exists

    def exists(path: Path) -> bool:
        if path.is_relative_to(tmp_path / "closed" / "engines"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    assert Preflight.look(tmp_path / "closed" / "engines" / "new").disk_bytes > 0


@pytest.fixture
def nothing_for_others() -> Iterator[None]:
    """The umask of a root who lets nobody else read."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("nothing_for_others")
def test_engines_for_other_cards_go_where_they_are_told_and_all_may_read_them(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "release"
    said = run(
        "--bundle", folder, "--target", "tensorrt-rtx", "--compute-capability", "8.6", "--batch", 1,
        "--gate-images", 1, "--out", out,
    )  # fmt: skip
    for path in (out / "engines" / "tensorrt_rtx").iterdir():
        assert [stat.S_IMODE(one.stat().st_mode) for one in (out, path.parent, path)] == [0o755, 0o755, 0o644]
    assert {path.name for path in (out / "engines" / "tensorrt_rtx").glob("*.plan")} == {
        "detector.fp16-b1-sm86.plan",
        "classifier.fp16-b1-sm86.plan",
    }
    assert "tensors FP16" in said
    assert "They were run on no card yet" in said
    assert not (folder / "engines").exists()
    assert "edge-watch runs" not in said


def test_on_a_card_the_best_is_built_and_the_station_runs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a double of the card; the station's own choice is another test's."""
    from build_engines import engines_build

    monkeypatch.setattr(preflight, "probe", lambda: CARD)
    monkeypatch.setattr(preflight, "find_spec", lambda name: object())
    monkeypatch.setattr(engines_build, "find_backend", lambda name: CardDouble(Bundle.load(folder)))
    said = run("--bundle", folder, "--batch", 1, "--gate-images", 1)
    assert "detector.fp16-b1-sm86" in said
    assert "edge-watch runs" in said
    assert (folder / "engines" / "tensorrt_rtx" / "detector.fp16-b1-sm86.json").exists()


def test_a_station_whose_engine_fails_the_gate_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("build_engines.gate.TOLERANCES", dict.fromkeys(("f32", "f16", "bf16"), Strict()))
    said = run("--bundle", folder, "--gate-images", 1, code=1)
    assert "which the station takes, did not pass the gate" in said
    assert "set `precision` or `backend` to one that passed." in said
    refused = run(
        "--bundle",
        folder,
        "--gate-images",
        1,
        "--target",
        "tensorrt-rtx",
        "--compute-capability",
        "8.6",
        code=1,
    )
    # OpenVINO comes first where the processor computes in FP16.
    assert re.search(r"FP16 strays from FP32 already on (openvino|onnxruntime) f16", refused)
    assert not (folder / "engines").exists()


class Strict:
    """A tolerance that nothing passes."""

    box_px = score = probability = 1e-12

    def allows(self, found: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--target", "tensorrt"], "No engine of tensorrt can be built here (no NVIDIA driver"),
        (["--target", "tensorrt-rtx"], "for other cards than this machine's give --compute-capability."),
        (["--compute-capability", "8.6"], "is for `--target tensorrt-rtx` only"),
        (["--target", "tensorrt", "--compute-capability", "8.6"], "for the card of this machine only"),
        (["--per-layer"], "The layers were not compared, since that runs on a card (no NVIDIA driver)"),
    ],
)
def test_what_cannot_be_built_here_is_told_in_one_sentence(folder: Path, args: list[str], said: str) -> None:
    assert said in run("--bundle", folder, "--gate-images", 1, *args, code=1)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--target", "onnx"], "a bundle needs --detector or --recipe, --out"),
        (["--detector", "d.pt", "--out", "o", "--target", "tensorrt"], "engines come after it"),
        (["--detector", "d.pt", "--out", "o", "--check"], "--check is for engines"),
        (["--classifier", "c.pt"], "--classifier is for a bundle, which needs --detector"),
        (["--detector", "d.pt", "--out", ""], "it is empty; name a folder"),
        (["--bundle", ""], "it is empty; name a folder"),
        (["--detector", "d.pt", "--out", "o", "--threshold", "1.5"], "1.5 is not in the range 0<=x<=1"),
        (["--detector", "d.pt", "--out", "o", "--tile-size", "-32"], "-32 is not in the range x>=1"),
        *(
            (
                ["--target", "tensorrt-rtx", "--compute-capability", wrong],
                f"{wrong!r} is no compute capability",
            )
            for wrong in ("sm_86", "86", "8", "8.6.0", "1.20", "8.x", "", "-8.6")
        ),
    ],
)
def test_options_that_mean_nothing_or_do_not_go_together_are_refused(args: list[str], said: str) -> None:
    assert said in run(*args, code=2)


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_a_station_builds_no_bundle_and_says_what_is_missing(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("build_engines.bundle_build", "build_engines.compact"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    said = run("--detector", "d.pt", "--out", "o", code=1)
    assert said == (
        f"Error: No bundle is built here, since {package} is not installed; `pip install '.[training]'`.\n"
    )


def test_polygraphy_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from build_engines import per_layer
    from build_engines.errors import EngineError

    monkeypatch.setattr(per_layer, "find_spec", lambda name: None if name == "polygraphy" else object())
    with pytest.raises(EngineError, match="since polygraphy is not installed; `pip install polygraphy"):
        per_layer.compare_layers(Bundle.load(embedded_bundle()), "tensorrt_rtx")


PEEK = """
import sys
from click.testing import CliRunner
from build_engines.build import main
result = CliRunner().invoke(main, ["--bundle", {bundle!r}, "--gate-images", "1", "--batch", "1",
    "--target", "tensorrt-rtx", "--compute-capability", "8.6"])
assert result.exit_code == 0, result.output
print(*[name for name in ("torch", "onnx", "ultralytics", "timm") if name in sys.modules])
"""


def test_a_station_builds_engines_without_torch_and_onnx(folder: Path) -> None:
    code = PEEK.format(bundle=str(folder))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_help_is_quick_to_load() -> None:
    code = (
        "import sys, build_engines.build; print(*[m for m in ('numpy', 'torch', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
