"""Documentation that cannot drift: what it names exists, and files that it links to are there."""

import re
import sqlite3
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from build_engines import acceptance
from build_engines.recipe import ClassifierEntry, DetectorEntry, Recipe, read_recipe
from edge import cli, manifest
from edge.archive.command import archive
from edge.archive.tables import IMAGES_SCHEMA, RESULTS_SCHEMA
from edge.bench.command import bench
from edge.exit_codes import ExitCode
from edge.images import _ADVICE
from edge.journal_file import MIGRATIONS
from edge.journal_tool.command import journal
from edge.manifest import Fusion
from edge.records import State
from edge.results import IMAGE_COLUMNS
from edge.walking import IGNORED_NAMES
from tests.error_texts import raised_in, says, texts_of
from training.recipe_keys import TrainingRecipe

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("training/**/*.md")])
COMMANDS = {
    "edge-run": cli.run,
    "edge-watch": cli.watch,
    "edge-bench": bench,
    "edge-demo": cli.demo,
    "edge-archive": archive,
    "edge-journal": journal,
}


def command(name: str) -> click.Command:
    """Of what is typed: edge-run, build_engines/build.py, python -m training.audit."""
    if name in COMMANDS:
        return COMMANDS[name]
    module = "build_engines.build" if name == "build.py" else name.removeprefix("python -m ")
    is_package = find_spec(f"{module}.command") if find_spec(module).submodule_search_locations else None
    return import_module(f"{module}.command" if is_package else module).main


def options(command: click.Command) -> set[str]:
    found = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return {"--help"}.union(found, *map(options, inner))


def code_of(page: Path) -> Iterator[str]:
    """What stands in backticks or is indented, each in one line."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    yield from re.findall(r"^    .*$", text, re.MULTILINE)
    for words in re.findall(r"`([^`]+)`", text):
        yield " ".join(words.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]
    missing = [link for link in links if not leads_somewhere(page, *link.partition("#")[::2])]
    assert missing == []


def leads_somewhere(page: Path, path: str, heading: str) -> bool:
    """Whether a file is there, with a heading that GitHub calls so."""
    target = page.parent / path if path else page
    if not target.exists() or not heading:
        return target.exists()
    found = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
    return heading in [re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in found]


def test_every_option_of_a_command_exists() -> None:
    named: dict[str, list[str]] = {}
    for code in (code for page in PAGES for code in code_of(page)):
        found = re.search(
            r"(edge-[a-z]+|build\.py|python -m (?:training|build_engines)[\w.]*)(?= )(.*)", code
        )
        if found and (found[1] in COMMANDS or not found[1].startswith("edge-")):
            named.setdefault(found[1], []).extend(re.findall(r"(?<!\S)--[a-z-]+", found[2]))
    assert len(named) > 20
    unknown = {name: set(given) - options(command(name)) for name, given in named.items()}
    assert {name: some for name, some in unknown.items() if some} == {}


def test_every_option_of_edge_bench_is_explained_with_its_default() -> None:
    text = (ROOT / "docs" / "bench.md").read_text()
    rows = dict(re.findall(r"^\| `(--[a-z-]+)` \| (.*) \|$", text, re.MULTILINE))
    assert rows.keys() == options(bench) - {"--help"}
    numbers = {one.opts[0]: one.default for one in bench.params if type(one.default) in (int, float)}
    assert len(numbers) >= 5
    assert [name for name, number in numbers.items() if not re.search(rf"; {number:g}\b", rows[name])] == []


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = {name for code in code_of(page) for name in re.findall(r"(?<!\S)make ([a-z-]+)(?!\w)", code)}
        assert named <= targets, page.name


def test_every_status_and_reason_of_an_image_is_explained() -> None:
    text = (ROOT / "README.md").read_text()
    for word in ({state.value for state in State} | _ADVICE.keys()) - {State.PENDING.value}:
        assert f"`{word}`" in text


def test_the_readme_tells_which_names_are_left_alone_and_how_the_daemon_ends() -> None:
    text = (ROOT / "README.md").read_text()
    (names,) = re.findall(r"files named\s(.*?), in small letters or capitals", text, re.DOTALL)
    assert {name.lower() for name in re.findall(r"`(.*?)`", names)} == set(IGNORED_NAMES)
    (ends,) = re.findall(r"The daemon ends with(.*?)\.\n", text, re.DOTALL)
    assert {int(code) for code in re.findall(r"(\d+)\s(?:when|after)", ends)} == set(ExitCode)


def test_every_column_of_the_journal_is_explained() -> None:
    db = sqlite3.connect(":memory:")
    for statements in MIGRATIONS:
        db.executescript(statements)
    text = (ROOT / "docs" / "journal.md").read_text().split("## What it holds")[1].split("\n## ")[0]
    for table, part in zip(("images", "writes"), text.strip().split("\n\n"), strict=True):
        columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        told = set(re.findall(r"`(\w+)`", part))
        assert set(columns) - told == ({"id"} if table == "writes" else set())
    db.close()


def test_every_column_of_an_archive_is_explained() -> None:
    text = (ROOT / "docs" / "archive.md").read_text()
    told = set(re.findall(r"`(\w+)`", text))
    assert set(RESULTS_SCHEMA.names) - told == set()
    assert set(IMAGES_SCHEMA.names) - {name.lower() for name in IMAGE_COLUMNS} - told == set()


def test_the_map_of_rooms_names_files_that_exist_and_all_of_edge() -> None:
    rows = re.findall(r"^\| (`.*`) \| .*\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    named: set[Path] = set()
    for row in rows:
        folder = ROOT
        for path in (path for path in re.findall(r"`([^`]+)`", row) if not path.startswith("make ")):
            folder = (ROOT / path).parent if "/" in path else folder
            found = list(folder.glob(Path(path).name))
            assert found, path
            named.update(found)
    every = {
        path for path in (ROOT / "edge").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert every - named == {ROOT / "edge" / "__init__.py"}


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


def test_the_example_of_a_recipe_is_understood_and_says_what_is_so_without_it(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "bundle.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "ensemble.toml").write_text(example)
    assert len(read_recipe(tmp_path / "ensemble.toml").detector) == 2
    for name, field in Fusion.model_fields.items():
        assert f"| `{name}` | {field.default} |" in text


def test_every_key_of_a_training_recipe_is_explained() -> None:
    text = (ROOT / "training" / "recipes" / "README.md").read_text().split("\n## The file\n")[1]
    assert TrainingRecipe.model_fields.keys() - set(re.findall(r"`\[?(\w+)", text)) == set()


def test_every_extra_that_is_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    for page in PAGES:
        named = re.findall(r"EXTRAS=([a-z,]+)|(?:'\.|cytologia-edge)\[([a-z,]+)\]", page.read_text())
        assert {extra for one in named for extra in "".join(one).split(",")} <= extras, page.name


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
