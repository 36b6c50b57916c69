"""With which code a command ends; the unit file of systemd refers to these."""

import logging
from enum import IntEnum

from edge.errors import EdgeError, EngineAway, JournalError
from edge.locks import FolderLockedError, OutputFullError, OutputUnwritableError

log = logging.getLogger(__name__)


class ExitCode(IntEnum):
    """How the process ends; numbers of sysexits.h where one fits."""

    STOPPED = 0
    """As asked, by SIGTERM or SIGINT."""
    UNFORESEEN = 1
    """An error that nobody thought of; its traceback is in the log."""
    USAGE = 2
    """A flag is unknown or has no sense, as all commands of click tell it."""
    ENGINE_FAULT = 70
    """The inference engine failed, or its card or server is away: start again, the image is tried again."""
    OUTPUT = 74
    """The journal or a CSV file cannot be written or read, and waiting does not help."""
    LOCKED = 75
    """Another process holds the state or the output folder."""
    CONFIGURATION = 78
    """Settings, bundle, engine or the inbox are wrong: starting again without a change does not help."""


def exit_code_of(error: EdgeError) -> ExitCode:
    """The code with which a process ends that met an error."""
    if isinstance(error, FolderLockedError):
        return ExitCode.LOCKED
    if isinstance(error, OutputUnwritableError | OutputFullError | JournalError):
        return ExitCode.OUTPUT
    if isinstance(error, EngineAway):
        return ExitCode.ENGINE_FAULT
    return ExitCode.CONFIGURATION


def log_and_code_of(error: Exception) -> ExitCode:
    """Log what ends the daemon, with a traceback if it is no `EdgeError`, and tell the code."""
    if isinstance(error, EdgeError):
        log.critical("%s", error)
        return exit_code_of(error)
    log.critical("The station met an error that nobody thought of; report it.", exc_info=error)
    return ExitCode.UNFORESEEN
