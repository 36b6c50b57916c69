"""The errors of building; they are apart so that who builds engines loads no torch."""

from edge.errors import EdgeError


class BuildError(EdgeError):
    """The networks do not become a bundle."""


class EngineError(EdgeError):
    """A graph does not become an engine."""
