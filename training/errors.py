"""What a user meets who gives annotations; apart so that every reader of them can raise it."""

from edge.errors import EdgeError


class AnnotationError(EdgeError):
    """A file of annotations cannot be read as such. The message says which, why and what to do."""
