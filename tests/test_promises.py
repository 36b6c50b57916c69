"""docs/reliability.md and the tests name each other: from every promise a reader finds its tests."""

import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
COUNT = 34


def promises_in_tests() -> dict[int, set[str]]:
    files = defaultdict(set)
    for path in TESTS.rglob("test_*.py"):
        for number in re.findall(r"^def test_promise_(\d\d)_", path.read_text(), re.MULTILINE):
            files[int(number)].add(path.relative_to(TESTS).as_posix())
    return files


def test_every_promise_is_proved_by_the_tests_that_the_page_names() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    page = {int(number): set(re.findall(r"`(.*?)`", files)) for number, files in rows}
    assert sorted(page) == list(range(1, COUNT + 1))
    assert page == promises_in_tests()


def test_the_readme_counts_the_promises() -> None:
    assert f" {COUNT} promises" in (TESTS.parent / "README.md").read_text()


def test_every_promise_has_a_fast_proof() -> None:
    slow_only = [
        number
        for number, files in promises_in_tests().items()
        if all(file.startswith("chaos/") for file in files)
    ]
    assert slow_only == []
