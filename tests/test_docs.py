"""Documentation that cannot drift: what it names exists, and files that it links to are there."""

import re
from pathlib import Path

import click
import pytest

from edge import cli
from edge.records import State

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = {"edge-run": cli.run, "edge-watch": cli.watch, "edge-bench": cli.bench, "edge-demo": cli.demo}


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


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= targets, page.name


def test_every_status_and_reason_of_an_image_is_explained() -> None:
    text = (ROOT / "README.md").read_text()
    for state in State:
        assert state is State.PENDING or f"`{state.value}`" in text
