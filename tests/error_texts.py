"""The sentences in source files, with `…` for what is only known when they are said."""

import ast
import re
from pathlib import Path


def texts_of(source: Path) -> list[str]:
    """All texts of a file; an f-string has `…` for each value."""
    tree = ast.parse(source.read_text())
    found = [_text(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)]
    return [text for text in found + _failures(tree) if text]


def raised_in(source: Path, *errors: str) -> list[str]:
    """The texts of `raise error(...)` of these, and of `_failure(what, advice)`, which makes such errors."""
    tree = ast.parse(source.read_text())
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    calls = [call for call in raised if isinstance(call, ast.Call) and ast.unparse(call.func) in errors]
    return [_text(call.args[0]) for call in calls] + _failures(tree)


def says(text: str, row: str) -> bool:
    """Whether a text has what a row of a table shows, in its order; `…` stands for anything."""
    parts = [part.strip() for part in row.split("…")]
    return re.search(".*".join(map(re.escape, parts)), text) is not None


def _failures(tree: ast.AST) -> list[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        f"… {_text(call.args[0])}…; {_text(call.args[1])}."
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "_failure"
    ]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""
