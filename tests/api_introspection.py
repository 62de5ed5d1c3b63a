"""What a compiled Python module offers, as JSON: classes, members, signatures. Runs alone, beside stub libraries.

    python -S tests/api_introspection.py MODULE [FOLDER ...]

Folders go to the front of the path. Signatures come from what pybind11 and Boost.Python write into docstrings, and from
`inspect` for what is written in Python. Standard library only, as `-S` hides everything else.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from types import ModuleType
from typing import Any

Json = dict[str, Any]
OPENING, CLOSING = "([{", ")]}"


def describe(module: ModuleType) -> Json:
    """Members of a module, and the classes in it by qualified name."""
    classes: dict[str, Json] = {}
    for value in list(vars(module).values()):
        if isinstance(value, type):
            _collect(value, classes)
    members = {name: _member(name, vars(module)[name], None) for name in dir(module)}
    return {"version": str(getattr(module, "__version__", "")), "members": members, "classes": classes}


def _collect(cls: type, classes: dict[str, Json]) -> None:
    """A class and those nested in it."""
    name = cls.__qualname__
    if name in classes or cls.__module__ == "builtins":
        return
    bases = [base.__qualname__ for base in cls.__mro__[1:] if base.__module__ not in ("builtins", "pybind11_builtins")]
    classes[name] = {"bases": bases, "enum": hasattr(cls, "__members__"), "members": {}}
    for member in dir(cls):
        static = inspect.getattr_static(cls, member)
        classes[name]["members"][member] = _member(member, static, cls)
        if isinstance(static, type):
            _collect(static, classes)


def _member(name: str, value: Any, owner: type | None) -> Json:
    """One member: its kind, and its type or signatures."""
    if isinstance(value, property) or type(value).__name__ in ("pybind11_static_property", "getset_descriptor"):
        getter, setter = getattr(value, "fget", None), getattr(value, "fset", None)
        found = _signatures(getter, "")
        return {"kind": "property", "type": found[0]["returns"] if found else "", "settable": setter is not None}
    if isinstance(value, type):
        return {"kind": "class", "type": value.__qualname__}
    static = isinstance(value, staticmethod | classmethod)
    function = value.__func__ if static else value
    # Module-level functions of pybind11 are bound builtins, static methods too; methods are `instancemethod`.
    bound = owner is not None and not static and type(function).__name__ != "builtin_function_or_method"
    if callable(function) and not isinstance(function, ModuleType):
        found = _signatures(function, name)
        if type(function).__name__ == "instancemethod" or found or inspect.isroutine(function):
            return {"kind": "method" if bound else "function", "signatures": found}
    number = {"number": int(value)} if owner is not None and name in getattr(owner, "__members__", ()) else {}
    return {"kind": "value", "type": type(value).__qualname__, **number}


def _signatures(function: Any, name: str) -> list[Json]:
    """Every overload; empty if nothing is known."""
    doc = (getattr(function, "__doc__", "") or "").strip()
    boost = [_boost(match) for match in re.finditer(r"^\w+\((.*)\) -> ([\w.]+) :$", doc, re.MULTILINE)]
    if type(function).__module__ == "Boost.Python":
        return boost
    pattern = rf"^(?:\d+\. )?{re.escape(name)}(\(.*\)) -> (\S.*)$"
    pybind = [_pybind(match) for match in re.finditer(pattern, doc, re.MULTILINE)]
    return pybind or _python(function)


def _python(function: Any) -> list[Json]:
    if not inspect.isfunction(function):
        return []
    parameters = [
        {"name": p.name, "kind": p.kind.name, "required": p.default is p.empty, "type": ""}
        for p in inspect.signature(function).parameters.values()
    ]
    return [{"parameters": parameters, "returns": ""}]


def _pybind(match: re.Match[str]) -> Json:
    """`(self: m.Builder, flags: typing.SupportsInt = 0)` and what follows the arrow."""
    parameters = []
    for part in _split(match[1][1:-1]):
        left, _, default = part.partition(" = ")
        name, _, annotation = left.partition(": ")
        kind = "POSITIONAL_ONLY" if re.fullmatch(r"arg\d+", name) else "POSITIONAL_OR_KEYWORD"
        if name.startswith("*"):
            kind = "VAR_KEYWORD" if name.startswith("**") else "VAR_POSITIONAL"
        parameters.append({"name": name, "kind": kind, "required": not default, "type": annotation})
    return {"parameters": parameters, "returns": match[2].strip()}


def _boost(match: re.Match[str]) -> Json:
    """` (object)dest, (object)src [, (object)stream=None]`: what stands in brackets may be left out."""
    parameters = []
    for part in re.finditer(r"\(([\w.]+)\)(\w+)", match[1]):
        kind = "POSITIONAL_ONLY" if re.fullmatch(r"arg\d+", part[2]) else "POSITIONAL_OR_KEYWORD"
        required = "[" not in match[1][: part.start()]
        parameters.append({"name": part[2], "kind": kind, "required": required, "type": part[1]})
    return {"parameters": parameters, "returns": match[2]}


def _split(text: str) -> list[str]:
    """At commas outside of brackets; `->` and `<Severity.WARNING: 2>` hold none."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in OPENING) - (character in CLOSING)
        if character == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


if __name__ == "__main__":
    sys.path[:0] = sys.argv[2:]
    json.dump(describe(importlib.import_module(sys.argv[1])), sys.stdout, sort_keys=True)
