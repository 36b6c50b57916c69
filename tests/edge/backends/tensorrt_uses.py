"""Holds source code against a real TensorRT module: every attribute, enum and call that it makes of it.

    python -m tests.edge.backends.tensorrt_uses MODULE FILE...

Prints a JSON object of what is used, and what of it the module has not, or takes otherwise. The code is not
run: what an object is follows from its name (NAMES), and from the results that the module's docstrings tell.
"""

import ast
import json
import re
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

NAMES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "layer": "ILayer",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "dtype": "DataType",
}
"""What a variable, parameter or attribute of that name is, with or without an underscore before it."""
OTHER_NAMES = {"logger", "severity", "what", "args", "machine", "frame"}
"""Names of untyped parameters that are none of the module's objects, or whose attributes are our own."""

_SIGNATURE = re.compile(r"^(?:\d+\. )?\w*\((?P<parameters>.*)\) -> (?P<result>.*?)$", re.MULTILINE)


@dataclass(frozen=True)
class Known:
    """What is known of an expression: it is this object of the module, or an instance of this class."""

    thing: Any
    is_instance: bool = False


class Holder(ast.NodeVisitor):
    """Walks through one file.

    Attributes:
        uses: names of what is used, like "ICudaEngine.get_tensor_name".
        faults: sentences.
    """

    def __init__(self, trt: Any, file: str) -> None:
        self._trt = trt
        self._file = file
        self._locals: dict[str, Known | None] = {}
        self.uses: set[str] = set()
        self.faults: list[str] = []

    def _fault(self, node: ast.expr | ast.stmt | ast.arg, what: str) -> None:
        self.faults.append(f"{self._file}:{node.lineno}: {what}")

    def _named(self, name: str) -> Known | None:
        name = name.lstrip("_")
        if name == "trt":
            return Known(self._trt)
        found = getattr(self._trt, NAMES.get(name, ""), None)
        return Known(found, is_instance=True) if found is not None else None

    def known(self, node: ast.expr) -> Known | None:
        """What an expression is; checks each step of it on the way."""
        if isinstance(node, ast.Name):
            return self._locals.get(node.id) or self._named(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.known(node.value)
            return self._member(node, owner) if owner else self._named(node.attr)
        if isinstance(node, ast.Call):
            return self._called(node)
        return None

    def _member(self, node: ast.Attribute, owner: Known) -> Known | None:
        label = f"{_name(owner.thing, self._trt)}.{node.attr}".removeprefix("trt.")
        self.uses.add(label)
        if not hasattr(owner.thing, node.attr):
            self._fault(node, f"{label} does not exist")
            return None
        found = getattr(owner.thing, node.attr)
        if isinstance(found, str):
            return None
        if isinstance(found, property):
            if isinstance(node.ctx, ast.Store) and found.fset is None:
                self._fault(node, f"{label} cannot be set")
            return self._result(found.fget.__doc__ or "")
        return Known(found)

    def _called(self, node: ast.Call) -> Known | None:
        function = self.known(node.func)
        if function is None or not callable(function.thing) or function.is_instance:
            return None
        is_class = isinstance(function.thing, type)
        text = (function.thing.__init__ if is_class else function.thing).__doc__ or ""
        signatures = _SIGNATURE.findall(text)
        on_instance = is_class or (
            isinstance(node.func, ast.Attribute) and self._is_instance(node.func.value)
        )
        if signatures and not any(_fits(node, parameters, on_instance) for parameters, _ in signatures):
            self._fault(node, f"{ast.unparse(node)} does not fit {' or '.join(p for p, _ in signatures)}")
        return Known(function.thing, is_instance=True) if is_class else self._result(text)

    def _is_instance(self, node: ast.expr) -> bool:
        before = len(self.faults)
        owner = self.known(node)
        del self.faults[before:]
        return owner is not None and owner.is_instance

    def _result(self, text: str) -> Known | None:
        """What a docstring says that comes of it, if that is a class of the module."""
        for _, result in _SIGNATURE.findall(text.strip()):
            thing: Any = self._trt
            for part in result.split(".")[2:] if "tensorrt" in result else []:
                thing = getattr(thing, part, None)
            if isinstance(thing, type):
                return Known(thing, is_instance=True)
        return None

    def visit_Assign(self, node: ast.Assign) -> None:
        found = self.known(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._locals[target.id] = found
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._locals = self._locals, dict(self._locals)
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self._locals[argument.arg] = None
            name = argument.arg.lstrip("_")
            untyped = isinstance(argument.annotation, ast.Name) and argument.annotation.id == "Any"
            if untyped and name not in {"trt", *NAMES, *OTHER_NAMES}:
                self._fault(
                    argument, f"what is the untyped {argument.arg!r}? Give it a name of NAMES or a type"
                )
        self.generic_visit(node)
        self._locals = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            known = self.known(base)
            if known is not None and isinstance(known.thing, type):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        self._overrides(method, known.thing)
        self.generic_visit(node)

    def _overrides(self, method: ast.FunctionDef, base: type) -> None:
        signatures = _SIGNATURE.findall(getattr(getattr(base, method.name, None), "__doc__", None) or "")
        wanted = {len(_parameters(parameters)) for parameters, _ in signatures}
        if method.name != "__init__" and wanted and len(method.args.args) not in wanted:
            self._fault(method, f"{base.__name__}.{method.name} takes {sorted(wanted)} arguments, with self")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.known(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.known(node)
        self.generic_visit(node)


def _name(thing: Any, trt: Any) -> str:
    return "trt" if thing is trt else getattr(thing, "__qualname__", type(thing).__name__)


def _parameters(text: str) -> list[str]:
    """Parameters of a docstring's signature, each with its type and default, split at the outer commas."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _fits(call: ast.Call, text: str, on_instance: bool) -> bool:
    parameters = _parameters(text)[int(on_instance) :]
    if any(part.startswith("*") for part in parameters):
        return not parameters[0].startswith("*args") or len(parameters) > 2
    names = [part.split(":")[0].strip() for part in parameters]
    needed = {name for name, part in zip(names, parameters, strict=True) if "=" not in part}
    given = set(names[: len(call.args)]) | {keyword.arg or "" for keyword in call.keywords}
    return len(call.args) <= len(names) and needed <= given <= set(names)


def hold(trt: Any, source: str, file: str) -> tuple[set[str], list[str]]:
    """Uses and faults of a piece of source code."""
    holder = Holder(trt, file)
    holder.visit(ast.parse(source))
    return holder.uses, sorted(set(holder.faults))


def main(module: str, *files: str) -> None:
    """Print uses and faults of files."""
    trt = import_module(module)
    uses: set[str] = set()
    faults: list[str] = []
    for file in files:
        some, wrong = hold(trt, Path(file).read_text(), Path(file).name)
        uses |= some
        faults += wrong
    print(json.dumps({"version": trt.__version__, "uses": sorted(uses), "faults": faults}))


if __name__ == "__main__":
    main(*sys.argv[1:])
