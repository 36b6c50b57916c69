"""Log lines: one a event, readable by people, by the journal of systemd, and by what collects JSON."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.logs import JsonFormatter, TextFormatter, is_read_by_journal

NASTY = [
    "a\nb",
    "a\r\nb",
    "tab\there",
    "\x1b[31mred",
    "\x85\u2028\u2029\x0b\x0c",
    "\u202egpj",
    "\udcff\ud800",
]


def record(message: str, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    made = {"name": "edge.desk", "msg": message, "levelno": level, "levelname": logging.getLevelName(level)}
    return logging.makeLogRecord(made | extra)


def with_traceback(message: str) -> logging.LogRecord:
    try:
        raise OSError("first\nsecond")
    except OSError:
        return record(message, exc_info=sys.exc_info())


FORMATTERS = [TextFormatter(), TextFormatter(for_journal=True), JsonFormatter()]


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "journal", "json"])
@pytest.mark.parametrize("text", NASTY)
def test_promise_23_a_log_event_stays_on_one_line(formatter: logging.Formatter, text: str) -> None:
    for event in (record(text), with_traceback(text), record("x", image=text)):
        line = formatter.format(event)
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        line.encode("utf-8")


def test_text_has_the_time_the_level_and_what_is_printable_as_it_is() -> None:
    line = TextFormatter().format(record("É 🔬 C:\\new"))
    time, text = line[:23], line[23:]
    assert time.count(":") == 2
    assert text == " WARNING É 🔬 C:\\new"


def test_a_traceback_is_kept_and_a_person_gets_it_on_lines_of_its_own() -> None:
    event = with_traceback("x")
    folded = TextFormatter().format(event)
    assert "x\\nTraceback (most recent call last):\\n" in folded
    assert folded.endswith("OSError: first\\nsecond")
    lines = TextFormatter(for_person=True).format(event).splitlines()
    assert lines[0].endswith("WARNING x")
    assert lines[1] == "Traceback (most recent call last):"
    assert TextFormatter(for_person=True).format(record("a\nb")).endswith("a\\nb")


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.CRITICAL, "<2>CRITICAL "),
        (logging.ERROR, "<3>ERROR "),
        (logging.WARNING, "<4>WARNING "),
        (logging.INFO, "<6>INFO "),
        (logging.DEBUG, "<7>DEBUG "),
    ],
)
def test_for_the_journal_a_line_begins_with_its_priority_and_has_no_time(level: int, prefix: str) -> None:
    assert TextFormatter(for_journal=True).format(record("text", level)) == f"{prefix}text"


def test_json_has_the_fields_of_the_event() -> None:
    told = json.loads(JsonFormatter().format(record("text", image="/in/a.png", leukocytes=2, latency_ms=8.5)))
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "warning",
        "logger": "edge.desk",
        "message": "text",
        "image": "/in/a.png",
        "leukocytes": 2,
        "latency_ms": 8.5,
    }
    assert json.loads(JsonFormatter().format(with_traceback("x")))["traceback"].endswith("first\nsecond")


def test_json_has_bytes_that_are_not_utf8_as_the_csv_files_have_them() -> None:
    name = os.fsdecode(b"caf\xe9 \xf0\x9f\x94\xac.png")
    line = JsonFormatter().format(record("x", image=Path(name), reason=f"as {name}\u2028"))
    told = json.loads(line.encode("utf-8"))
    assert told["image"] == r"caf\xe9 🔬.png"
    assert told["reason"] == "as caf\\xe9 🔬.png\u2028"


def test_the_journal_reads_only_the_stream_that_systemd_names(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        named = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_read_by_journal(stream, named)
        assert not is_read_by_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:1"})
        assert not is_read_by_journal(stream, {})


@pytest.mark.parametrize(
    ("form", "for_journal", "begins"),
    [
        ("auto", True, "<4>WARNING x"),
        ("text", True, "<4>WARNING x"),
        ("json", True, '{"'),
        ("auto", False, "2"),
        ("json", False, '{"'),
    ],
)
def test_what_a_process_writes_to_standard_error(
    tmp_path: Path, form: str, for_journal: bool, begins: str
) -> None:
    code = (
        f"import logging; from edge.logs import start_logging; start_logging({form!r}); logging.warning('x')"
    )
    with (tmp_path / "log").open("wb") as log:
        status = os.fstat(log.fileno())
        # A variable that is inherited names another stream.
        inode = status.st_ino if for_journal else 1
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{inode}"}
        subprocess.run([sys.executable, "-c", code], stderr=log, env=environment, check=True)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(begins)


def edge_watch(tmp_path: Path, code: str = "", *args: str) -> tuple[int, list[dict[str, str]]]:
    """Exit code and log of the command, which finds nothing to do and must not begin to work."""
    (tmp_path / "in").mkdir()
    argv = [str(tmp_path / "in"), "--out", str(tmp_path / "out"), *args]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nfrom edge.cli import watch\nwatch({argv!r})"],
        capture_output=True,
        text=True,
        env={**os.environ, "CYTOLOGIA_EDGE_LOG_FORMAT": "json"},
        timeout=60,
    )
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


def test_why_the_daemon_does_not_start_is_a_line_of_the_log(tmp_path: Path) -> None:
    code, (line,) = edge_watch(tmp_path, "", "--backend", "tpu")
    assert code == 78
    assert line["level"] == "critical"
    assert "There is no backend 'tpu'" in line["message"]
    assert "traceback" not in line


def test_wrong_settings_are_a_line_of_the_log_for_the_journal_too(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from edge.cli import watch; watch(['--settings', 'absent.toml'])"]
    with (tmp_path / "log").open("wb") as log:
        status = os.fstat(log.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert subprocess.run(command, stderr=log, env=environment).returncode == 78
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("<2>CRITICAL the settings file 'absent.toml' cannot be read")


def test_an_error_at_the_start_that_nobody_thought_of_is_a_line_of_the_log(tmp_path: Path) -> None:
    fails = "import edge.pipeline as pipeline\ndef fail(*_): raise MemoryError('none left')"
    code, (line,) = edge_watch(tmp_path, f"{fails}\npipeline.open_pipeline = fail")
    assert code == 1
    assert line["level"] == "critical"
    assert line["traceback"].endswith("MemoryError: none left")
