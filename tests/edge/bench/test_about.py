"""What a figure was measured on."""

from pathlib import Path

from edge.bench import machine
from edge.bench.about import disk, governor


def test_the_machine_is_told_with_its_versions() -> None:
    about = machine()
    assert about["cores"] >= 1
    assert about["processor"]
    assert about["packages"]["openvino"]


def test_the_governors_of_all_cores_are_told(tmp_path: Path) -> None:
    assert governor(tmp_path) == "not told"
    for core, said in enumerate(("powersave", "performance", "powersave")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{said}\n")
    assert governor(tmp_path) == "performance, powersave"


def test_the_file_system_of_a_folder_is_told(tmp_path: Path) -> None:
    assert disk(tmp_path) not in ("", "unknown")
    assert disk(Path("/proc")) == "proc"
