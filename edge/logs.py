"""Log lines: plain text for people and systemd's journal, JSON for collectors. An event is one line."""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

_OF_EVERY_RECORD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class TextFormatter(logging.Formatter):
    """Level and message on one line, and the traceback where there is one.

    Args:
        for_journal: begin with the priority as sd-daemon(3) has it, `<4>` for a warning, and leave out the
            time, which the journal has.
        for_person: on a terminal, let a traceback have lines of its own.
    """

    def __init__(self, *, for_journal: bool = False, for_person: bool = False) -> None:
        super().__init__(f"{'' if for_journal else '%(asctime)s '}%(levelname)s %(message)s")
        self._for_journal = for_journal
        self._for_person = for_person

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without a traceback."""
        prefix = f"<{_priority(record.levelno)}>" if self._for_journal else ""
        return prefix + _one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = super().format(record)
        return line if self._for_person else _one_line(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger and message; the traceback, where there is one; and
    the fields that `extra=` gave. What is not UTF-8 in a name is written as `\\xHH`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        line.update((name, value) for name, value in vars(record).items() if name not in _OF_EVERY_RECORD)
        return _as_plain_utf8(json.dumps(line, ensure_ascii=False, default=str))


def start_logging(form: Literal["auto", "text", "json"] = "auto", level: int = logging.INFO) -> None:
    """Send the log to standard error. "auto" is text."""
    handler = logging.StreamHandler()
    if form == "json":
        if hasattr(handler.stream, "reconfigure"):
            handler.stream.reconfigure(encoding="utf-8")  # JSON is, under every locale
        handler.setFormatter(JsonFormatter())
    else:
        stream = handler.stream
        handler.setFormatter(
            TextFormatter(for_journal=is_read_by_journal(stream), for_person=stream.isatty())
        )
    logging.basicConfig(level=level, handlers=[handler])


def is_read_by_journal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd's journal is at the other end: programs inherit the variable, but not the stream."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a stand-in without a file
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _priority(level: int) -> int:
    """The level of syslog(3)."""
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


def _one_line(text: str) -> str:
    """Line ends, other control characters and lone surrogates are written as Python writes them: `\\n`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _as_plain_utf8(line: str) -> str:
    """JSON without what is not UTF-8, and without what some programs take for the end of a line."""
    return line if line.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in line)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8 (PEP 383)
        return f"\\\\x{code - 0xDC00:02x}"
    if 0xD800 <= code <= 0xDFFF:
        return f"\\\\u{code:04x}"
    return json.dumps(character)[1:-1]
