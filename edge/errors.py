"""The exceptions of the station, one tree.

    EdgeError
    ├── SettingsError      a key, a value or a path of the settings is wrong
    ├── BundleError        a model bundle is missing, damaged or of another schema
    ├── BackendError       an inference engine is absent, or does not give the answers it must give
    │   └── EngineAway     the card or the server that computes for the station does not answer now
    ├── ImageRejected      the bytes of one file are not an image that may be read
    ├── JournalError       the journal cannot be opened, or contradicts itself
    ├── StationError       the inbox, the output folder or another daemon is in the way
    ├── ArchiveError       the cluster that reads an archive is not there, or cannot go on
    └── BenchError         what is to be measured or compared is not there, or is of another kind

Building and training add their own below EdgeError, beside what raises them: CheckpointError, ExportError,
BuildError and EngineError; AnnotationError, SplitError, TrainingError and RecipeError.

Every message is one sentence that says what happened, with both values where two disagree, and what
to do. Errors of other libraries are wrapped in one of these where they cross into the station.
"""


class EdgeError(Exception):
    """Base of all errors that a user of the station can meet."""


class SettingsError(EdgeError):
    """A key, a value or a path of the settings is wrong."""


class BundleError(EdgeError):
    """A model bundle is missing, damaged or of another schema."""


class BackendError(EdgeError):
    """An inference engine is absent, or does not give the answers it must give."""


class EngineAway(BackendError):
    """The card or the server that computes does not answer now: starting again can help."""


class ImageRejected(EdgeError):
    """The bytes of one file are not an image that may be read.

    Attributes:
        reason: a short fixed phrase ("empty", "not an image", "too large", "truncated", "damaged",
            "unsupported"), the same for every file with the same fault, so that it can be counted.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class JournalError(EdgeError):
    """The journal cannot be opened, or contradicts itself."""


class StationError(EdgeError):
    """The inbox, the output folder or another daemon is in the way."""


class ArchiveError(EdgeError):
    """The cluster that reads an archive is not there, or cannot go on."""


class BenchError(EdgeError):
    """What is to be measured or compared is not there, or is of another kind."""
