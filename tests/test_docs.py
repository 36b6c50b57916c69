"""Documentation that cannot drift: what it names exists, and files that it links to are there."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from build_engines import acceptance
from build_engines.recipe import ClassifierEntry, DetectorEntry, Recipe
from edge import cli, manifest
from edge.archive.command import archive
from edge.bench.command import bench
from edge.records import State
from tests.error_texts import raised_in, says, texts_of

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = {
    "edge-run": cli.run,
    "edge-watch": cli.watch,
    "edge-bench": bench,
    "edge-demo": cli.demo,
    "edge-archive": archive,
}


def options(command: click.Command) -> set[str]:
    return {"--help"} | {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_every_option_of_a_command_in_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    named = [(name, line) for line in text.splitlines() for name in COMMANDS if name in line]
    assert {name for name, _ in named} >= {"edge-run", "edge-watch", "edge-bench"}
    for name, line in named:
        after = line.split(name, 1)[1].split("`")[0]
        assert set(re.findall(r"--[a-z-]+", after)) <= options(COMMANDS[name]), line


def test_every_option_of_edge_bench_is_explained() -> None:
    text = (ROOT / "docs" / "bench.md").read_text()
    documented = set(re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE))
    assert documented == options(bench) - {"--help"}


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= targets, page.name


def test_every_status_and_reason_of_an_image_is_explained() -> None:
    text = (ROOT / "README.md").read_text()
    for state in State:
        assert state is State.PENDING or f"`{state.value}`" in text


def keys_of(part: type[BaseModel]) -> Iterator[str]:
    """Of a part of a manifest or recipe and of all parts in it."""
    for key, field in part.model_fields.items():
        yield key
        for inner in re.findall(r"[\w.]+", str(field.annotation)):
            found = getattr(manifest, inner.split(".")[-1], None)
            if isinstance(found, type) and issubclass(found, BaseModel):
                yield from keys_of(found)


@pytest.mark.parametrize("part", [manifest.Manifest, DetectorEntry, ClassifierEntry, Recipe])
def test_every_key_of_a_manifest_and_of_a_recipe_is_explained(part: type[BaseModel]) -> None:
    keys = set(keys_of(part))
    assert keys >= ({"least_score", "crop_size", "windows", "passed"} if part is manifest.Manifest else set())
    text = (ROOT / "docs" / "bundle.md").read_text()
    explained = set(re.findall(r"`\[*(\w+)\]*`", text))
    assert keys - explained == set()


SAID_BY = [ROOT / "edge" / name for name in ("card_state.py", "engine_files.py", "selftest.py")]
SAID_BY += sorted([*ROOT.glob("edge/backends/*.py"), *ROOT.glob("build_engines/*.py")])


def troubles(page: str, heading: str) -> list[str]:
    """What stands in backticks in the first column of the table below a heading."""
    section = (ROOT / "docs" / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    firsts = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    return [said for first in firsts for said in re.findall(r"`([^`]+)`", first)]


TROUBLES = {
    "gpu.md": "When something refuses, in our own words",
    "engines.md": "When it refuses",
}


@pytest.mark.parametrize("page", TROUBLES)
def test_what_a_table_of_troubles_quotes_is_said_by_the_code(page: str) -> None:
    texts = [text for source in SAID_BY for text in texts_of(source)]
    quoted = troubles(page, TROUBLES[page])
    assert len(quoted) >= 4
    assert [row for row in quoted if not any(says(text, row) for text in texts)] == []


@pytest.mark.parametrize("name", ["cuda.py", "cuda_graph.py", "tensorrt.py"])
def test_every_error_of_the_card_is_explained(name: str) -> None:
    rows = troubles("gpu.md", TROUBLES["gpu.md"])
    raised = raised_in(ROOT / "edge" / "backends" / name, "BackendError", "EngineAway")
    assert raised
    assert [text for text in raised if not any(says(text, row) for row in rows)] == []


def test_a_text_is_found_by_what_is_quoted_of_it_and_by_nothing_else() -> None:
    assert says("… takes …, but is given uint8 …; run …", "… takes …, but is given uint8 …")
    assert not says("… takes …, but is given uint8 …", "… takes …, but is given int8 …")
    assert not says("is given what it takes", "takes … given")


def test_every_step_and_option_of_the_acceptance_run_is_explained() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text()
    assert re.findall(r"^\| ([A-Z]+) \|", text, re.MULTILINE) == [step.name for step in acceptance.steps()]
    documented = set(
        re.findall(r"`?(--[a-z-]+)", text.split("| option | |\n|---|---|\n")[1].split("\n## ")[0])
    )
    assert documented == options(acceptance.main) - {"--help"}
