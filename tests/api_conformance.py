"""Holds what a program uses of foreign libraries against what they really offer, from the program's text alone.

`check` walks syntax trees. Types are inferred where it matters: a foreign module's classes, what their methods return,
attributes, loops, own classes and functions; and names that a module's docstring declares, as in

    builder: trt.Builder                 network: trt.INetworkDefinition

An attribute of something that may be foreign but has no known type is *unresolved*: nothing is passed over in silence.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

Json = Mapping[str, Any]
# Calls that give back the elements of what they take.
CARRIERS = frozenset({"frozenset", "iter", "list", "next", "reversed", "set", "sorted", "tuple"})
TYPE_NAMES = {"IParserError": "ParserError"}  # C++ names that bindings leave in docstrings
# Methods of containers that give an element, and those that give many.
ONE = frozenset({"get", "pop", "popitem", "popleft", "setdefault"})
MANY = frozenset({"copy", "items", "values"})
# Names that anything may have.
COMMON = frozenset(name for cls in (int, float, str, bytes, list, dict, set, type, Exception) for name in dir(cls))


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str  # as in `inspect`
    required: bool
    type: str


@dataclass(frozen=True)
class Signature:
    parameters: tuple[Parameter, ...]
    returns: str

    def without_self(self) -> Signature:
        return Signature(self.parameters[1:], self.returns)


@dataclass(frozen=True)
class Member:
    kind: str  # method, function (no self), property, class, value
    type: str = ""
    settable: bool = False
    signatures: tuple[Signature, ...] = ()

    @staticmethod
    def of(raw: Json) -> Member:
        signatures = tuple(
            Signature(tuple(Parameter(**p) for p in one["parameters"]), one["returns"])
            for one in raw.get("signatures", ())
        )
        return Member(raw["kind"], raw.get("type", ""), raw.get("settable", False), signatures)


@dataclass(frozen=True)
class Api:
    """One library, from the JSON of `api_introspection`."""

    module: str  # as programs import it
    raw: Json
    _members: dict[tuple[str, str], Member | None] = field(default_factory=dict, repr=False, compare=False)

    @property
    def version(self) -> str:
        return str(self.raw["version"])

    def member(self, owner: str, name: str) -> Member | None:
        """A member of a class, or of the module if `owner` is empty; inherited ones are listed with each class."""
        if (owner, name) not in self._members:
            members = self.raw["classes"][owner]["members"] if owner else self.raw["members"]
            self._members[owner, name] = Member.of(members[name]) if name in members else None
        return self._members[owner, name]

    def has(self, name: str) -> bool:
        return name in self.raw["classes"]

    def is_enum(self, name: str) -> bool:
        return bool(self.raw["classes"][name]["enum"])

    def is_a(self, name: str, other: str) -> bool:
        return name == other or other in self.raw["classes"][name]["bases"]

    def find(self, text: str) -> str:
        """The class that a written type means, without module and namespace, or an empty string."""
        parts = re.split(r"\.|::", text.strip())
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            name = TYPE_NAMES.get(name, name)
            if self.has(name):
                return name
        return ""

    @cached_property
    def distinctive(self) -> frozenset[str]:
        """Names of members that hardly anything else has: public, with an underscore, of a class."""
        names = {name for cls in self.raw["classes"].values() for name in cls["members"]}
        return frozenset(n for n in names if "_" in n and not n.startswith("_")) - COMMON


@dataclass(frozen=True)
class Type:
    """What an expression is, by kind.

    Foreign: module, class, instance, callable (a member of name, or of the module). Ours: own (an object), own class,
    own function, own module. Both: list (any container, by its elements), element (a method that gives one). Neither:
    other (certainly nothing foreign), literal. unknown: may be anything.
    """

    kind: str
    api: Api | None = None
    name: str = ""
    member: str = ""
    bound: bool = False
    element: Type | None = None


OTHER, LITERAL, UNKNOWN = Type("other"), Type("literal"), Type("unknown")
Env = dict[str, Type]


@dataclass
class Report:
    """What was found. Counts are of places in the text; `names` are the distinct names that were checked."""

    checked: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)

    def summary(self, title: str) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.checked.items()))
        return (
            f"{title}: {sum(self.checked.values())} uses of {len(self.names)} names checked ({kinds}); "
            f"unknown: {len(self.problems)}, unresolved: {len(self.unresolved)}"
        )


def check(sources: Mapping[str, str], apis: Sequence[Api], *, rounds: int = 3) -> Report:
    """Check files, name -> text, against libraries. rounds: after which types of attributes and results are settled."""
    program = _Program(sources, apis)
    for _ in range(rounds):
        program.walk(Report())
    report = Report()
    program.walk(report)
    return report


@dataclass(frozen=True)
class _Function:
    node: ast.FunctionDef | ast.AsyncFunctionDef
    file: str
    owner: str  # of a method

    @property
    def key(self) -> str:
        return f"{self.file}:{self.node.lineno}:{self.node.name}"


@dataclass
class _Class:
    node: ast.ClassDef
    base: Type  # a foreign class, or OTHER
    methods: dict[str, _Function]
    attributes: Env = field(default_factory=dict)
    fields: dict[str, ast.expr] = field(default_factory=dict)


class _Program:
    """All files together: own classes and functions by name, and what is known of them so far."""

    def __init__(self, sources: Mapping[str, str], apis: Sequence[Api]) -> None:
        self.apis = {api.module: api for api in apis}
        self.distinctive = frozenset(name for api in apis for name in api.distinctive)
        self.trees = {name: _parsed(text) for name, text in sources.items()}
        self.stems = {name.rpartition("/")[2].removesuffix(".py") for name in self.trees}
        self.tables = {name: self._table(text) for name, text in sources.items()}
        self.classes: dict[str, _Class] = {}
        self.functions: dict[str, _Function] = {}
        self.results: Env = {}  # what functions return or, in turn, yield
        self.modules: dict[str, Env] = {}
        for name, tree in self.trees.items():
            self._index(name, tree)

    def _table(self, text: str) -> Env:
        """Names that a module declares in its docstring or its comments: `name: trt.Class` or `name: trt`."""
        aliases = dict(re.findall(r"import ([\w.]+) as (\w+)", text))
        module = {alias: self.apis[name] for name, alias in aliases.items() if name in self.apis}
        head = "\n".join([ast.get_docstring(_parsed(text)) or "", *re.findall(r"^\s*#(.*)$", text, re.MULTILINE)])
        table: Env = {}
        for alias, api in module.items():
            for name, written in re.findall(rf"\b(\w+): {alias}\.(\w+(?:\.\w+)*)", head):
                found = api.find(written)
                table[name] = Type("instance", api, found) if found else Type("missing", api, written)
        return table

    def _index(self, file: str, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods = {n.name: _Function(n, file, node.name) for n in node.body if isinstance(n, ast.FunctionDef)}
                fields = {
                    n.target.id: n.annotation
                    for n in node.body
                    if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
                }
                self.classes[node.name] = _Class(node, OTHER, methods, {}, fields)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = _Function(node, file, "")

    def walk(self, report: Report) -> None:
        for file, tree in self.trees.items():
            walker = _Walker(self, file, report)
            for name, kind in self.tables[file].items():
                if kind.kind == "missing":
                    report.problems.append(f"{file}: {name} is declared as {kind.name}, which is not there")
            self.modules[file] = walker.module(tree)


class _Walker:
    """One file: evaluates every expression of every function once, in the order of the text."""

    def __init__(self, program: _Program, file: str, report: Report) -> None:
        self.program, self.file, self.report = program, file, report
        self.table = {n: t for n, t in program.tables[file].items() if t.kind == "instance"}
        # What is not known is only suspect where the text has to do with a foreign library at all.
        self.suspicious = bool(self.table) or any(
            name in program.apis or f"{name}.{part}" in program.apis for name, part in _imported(program.trees[file])
        )
        self.later: list[tuple[ast.AST, Env, str]] = []
        self.current = ""  # key of the function

    def module(self, tree: ast.Module) -> Env:
        env: Env = {}
        self.body(tree.body, env)
        while self.later:
            node, outer, owner = self.later.pop(0)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.function(node, outer, owner)
        return env

    # Statements

    def body(self, statements: Sequence[ast.stmt], env: Env) -> None:
        for statement in statements:
            self.statement(statement, env)

    def statement(self, node: ast.stmt, env: Env) -> None:
        match node:
            case ast.Import() | ast.ImportFrom():
                self.imports(node, env)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for decorator in node.decorator_list:
                    self.value(decorator, env)
                env[node.name] = Type("own function", name=node.name, member=f"{self.file}:{node.lineno}:{node.name}")
                self.later.append((node, env, ""))
            case ast.ClassDef():
                self.own_class(node, env)
            case ast.Assign():
                value = self.value(node.value, env)
                for target in node.targets:
                    self.assign(target, value, env, node.value)
            case ast.AnnAssign():
                value = self.value(node.value, env) if node.value else UNKNOWN
                declared = self.annotation(node.annotation, env)
                chosen = value if declared in (UNKNOWN, OTHER) and value.kind not in ("literal", "other") else declared
                self.assign(node.target, chosen, env, node.value)
            case ast.AugAssign():
                self.value(node.value, env)
                self.value(node.target, env)
            case ast.Return():
                value = self.value(node.value, env) if node.value else LITERAL
                self.gives(value)
            case ast.For() | ast.AsyncFor():
                self.assign(node.target, self.elements(self.value(node.iter, env)), env, None)
                self.body([*node.body, *node.orelse], env)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    value = self.value(item.context_expr, env)
                    if item.optional_vars is not None:
                        # Of ours only context managers made of generators give something: an Iterator, or Any.
                        given = self.elements(value) if value.kind == "list" else value
                        self.assign(item.optional_vars, given, env, None)
                self.body(node.body, env)
            case ast.Try() | ast.TryStar():
                self.body(node.body, env)
                for handler in node.handlers:
                    if handler.type is not None:
                        self.value(handler.type, env)
                    if handler.name:
                        env[handler.name] = LITERAL
                    self.body(handler.body, env)
                self.body([*node.orelse, *node.finalbody], env)
            case ast.Match():
                self.value(node.subject, env)
                for part in node.cases:
                    self.body(part.body, env)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.value(child, env)
                    elif isinstance(child, ast.stmt):
                        self.statement(child, env)

    def imports(self, node: ast.Import | ast.ImportFrom, env: Env) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                api = self.program.apis.get(alias.name)
                if api is not None and (alias.asname or "." not in alias.name):
                    env[alias.asname or alias.name] = Type("module", api)
                elif alias.asname or "." not in alias.name:
                    env[alias.asname or alias.name] = OTHER
            elif (full := f"{node.module}.{alias.name}") in self.program.apis:
                env[alias.asname or alias.name] = Type("module", self.program.apis[full])
            elif node.module in self.program.apis:
                module = Type("module", self.program.apis[node.module])
                env[alias.asname or alias.name] = self.attribute(module, alias.name, node)
            else:
                own = Type("own module", name=alias.name) if alias.name in self.program.stems else None
                env[alias.asname or alias.name] = self.own_name(alias.name) or own or OTHER

    def own_name(self, name: str) -> Type | None:
        if name in self.program.classes:
            return Type("own class", name=name)
        if name in self.program.functions:
            return Type("own function", name=name, member=self.program.functions[name].key)
        return None

    def own_class(self, node: ast.ClassDef, env: Env) -> None:
        known = self.program.classes[node.name]
        for decorator in node.decorator_list:
            self.value(decorator, env)
        bases = [self.value(base, env) for base in node.bases]
        foreign = [base for base in bases if base.kind == "class"]
        env[node.name] = Type("own class", name=node.name)
        if foreign:
            known.base = foreign[0]
            self.overrides(known)
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                self.later.append((child, env, node.name))
            else:
                self.statement(child, dict(env))

    def overrides(self, known: _Class) -> None:
        """A class that derives from a foreign one: what it must and may define, and how it is initialised."""
        api, base, where = known.base.api, known.base.name, f"{self.file}:{known.node.lineno} {known.node.name}"
        assert api is not None
        members = {n: api.member(base, n) for n in api.raw["classes"][base]["members"] if not n.startswith("_")}
        virtual = {n: m for n, m in members.items() if m is not None and m.kind == "method"}
        own = {n: f for n, f in known.methods.items() if not n.startswith("_")}
        if base in ABSTRACT:
            for name in sorted(virtual.keys() - own.keys()):
                self.report.problems.append(f"{where} lacks {base}.{name}")
        for name, function in own.items():
            if name not in virtual:
                self.report.problems.append(f"{where}.{name}: {base} has no such method to override")
                continue
            self.seen("overridden methods", api, f"{base}.{name}")
            counts = [len(one.parameters) for one in virtual[name].signatures]  # with self
            if not any(_takes(function.node.args, count) for count in counts):
                self.report.problems.append(
                    f"{where}.{name} takes {len(function.node.args.args) - 1} arguments, {base}.{name} is called with "
                    f"{' or '.join(str(count - 1) for count in counts)}"
                )
        if (init := known.methods.get("__init__")) is not None:
            calls = [ast.unparse(n) for n in ast.walk(init.node) if isinstance(n, ast.Call)]
            if not any(re.match(rf"(\w+\.{re.escape(base)}\.__init__\(self|super\(\)\.__init__\()", c) for c in calls):
                self.report.problems.append(f"{where}.__init__ does not call {base}.__init__(self)")

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, outer: Env, owner: str) -> None:
        env = dict(outer)
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for default in [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]:
            self.value(default, env)
        for argument in every:
            env[argument.arg] = self.parameter(argument, env)
        for rest in (arguments.vararg, arguments.kwarg):
            if rest is not None:
                env[rest.arg] = OTHER if rest.annotation is not None else UNKNOWN
        static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
        if owner and every and not static:
            env[every[0].arg] = Type("own", name=owner)
            self.inherited(node, env, owner)
        self.current = f"{self.file}:{node.lineno}:{node.name}"
        self.body(node.body, env)
        self.current = ""

    def gives(self, value: Type) -> None:
        """The function returns it, or yields it."""
        self.program.results[self.current] = _merge(self.program.results.get(self.current), value)

    def inherited(self, node: ast.FunctionDef | ast.AsyncFunctionDef, env: Env, owner: str) -> None:
        """An overriding method is called with what the foreign signature says."""
        base = self.program.classes[owner].base
        if base.kind != "class" or base.api is None:
            return
        member = base.api.member(base.name, node.name)
        if member is None or not member.signatures or node.name.startswith("_"):
            return
        for argument, parameter in zip(node.args.args[1:], member.signatures[0].parameters[1:], strict=False):
            env[argument.arg] = self.written(parameter.type, base.api)

    def parameter(self, argument: ast.arg, env: Env) -> Type:
        declared = UNKNOWN if argument.annotation is None else self.annotation(argument.annotation, env)
        if declared == UNKNOWN:
            return self.table.get(argument.arg) or self.alias(argument.arg) or UNKNOWN
        return declared

    def alias(self, name: str) -> Type | None:
        """A foreign module under its usual name."""
        usual = {"trt": "tensorrt"}
        api = self.program.apis.get(usual.get(name, ""))
        return Type("module", api) if api is not None else None

    def annotation(self, node: ast.expr, env: Env) -> Type:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        match node:
            case ast.Constant():
                return LITERAL
            case ast.Name(id="Any" | "object"):
                return UNKNOWN
            case ast.Name(id=name) if name in self.program.classes and env.get(name, UNKNOWN).kind != "other":
                return Type("own", name=name)
            case ast.BinOp(op=ast.BitOr()):
                sides = [self.annotation(side, env) for side in (node.left, node.right)]
                return _merge(*sides)
            case ast.Attribute():
                base = self.value(node, env) if self.is_foreign(node, env) else OTHER
                return Type("instance", base.api, base.name) if base.kind == "class" else OTHER
            case ast.Subscript(
                value=ast.Name(id="list" | "tuple" | "Sequence" | "Iterator" | "Iterable" | "deque" | "set")
            ):
                inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                element = _merge(*(self.annotation(one, env) for one in inner))
                return Type("list", element=element) if element.kind != "other" else OTHER
            case ast.Subscript(value=ast.Name(id="dict" | "Mapping" | "OrderedDict"), slice=ast.Tuple(elts=[_, value])):
                element = self.annotation(value, env)
                return Type("list", element=element) if element.kind != "other" else OTHER
            case ast.Subscript(value=ast.Attribute(attr="WeakSet")):
                return Type("list", element=self.annotation(node.slice, env))
            case ast.Subscript(value=ast.Name(id="Optional")):
                return self.annotation(node.slice, env)
        return OTHER

    def is_foreign(self, node: ast.expr, env: Env) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and env.get(node.id, OTHER).kind == "module"

    def assign(self, target: ast.expr, value: Type, env: Env, text: ast.expr | None) -> None:
        match target:
            case ast.Name(id=name):
                env[name] = self.table.get(name, value) if value.kind in ("other", "unknown") else value
            case ast.Attribute():
                self.set_attribute(target, value, env)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                parts = text.elts if isinstance(text, ast.Tuple | ast.List) else [None] * len(elements)
                if len(parts) != len(elements):
                    parts = [None] * len(elements)
                for element, part in zip(elements, parts, strict=True):
                    # The parts were evaluated, and counted, with the whole: their types are asked for in silence.
                    one = self.elements(value) if part is None else self.quietly(part, env)
                    self.assign(element, one, env, part)
            case ast.Starred():
                self.assign(target.value, value, env, None)
            case ast.Subscript():
                self.value(target.value, env)
                self.value(target.slice, env)

    def quietly(self, node: ast.expr, env: Env) -> Type:
        kept, self.report = self.report, Report()
        try:
            return self.value(node, env)
        finally:
            self.report = kept

    def set_attribute(self, target: ast.Attribute, value: Type, env: Env) -> None:
        base = self.value(target.value, env)
        if base.kind == "own":
            known = self.program.classes[base.name]
            if value.kind in ("other", "unknown"):
                value = self.table.get(target.attr, value)
            known.attributes[target.attr] = _merge(known.attributes.get(target.attr), value)
            member = known.base.api.member(known.base.name, target.attr) if known.base.api else None
            if member is None or member.kind != "property":
                return
            base = Type("instance", known.base.api, known.base.name)
        if base.kind == "instance" and self.of_derived(base, target.attr) is None:
            assert base.api is not None
            member = base.api.member(base.name, target.attr)
            if member is None:
                self.problem(target, f"{base.name} has no {target.attr}")
            elif member.kind != "property" or not member.settable:
                self.problem(target, f"{base.name}.{target.attr} cannot be set")
            else:
                self.seen("properties set", base.api, f"{base.name}.{target.attr}")
                self.fits(target, f"{base.name}.{target.attr}", value, member.type, base.api)
        elif base.kind == "unknown" and (self.suspicious or target.attr in self.program.distinctive):
            self.unresolved(target, f"what {ast.unparse(target.value)} is, whose {target.attr} is set")
        elif base.kind in ("module", "class"):
            self.problem(target, f"{target.attr} of the library is set")

    # Expressions

    def value(self, node: ast.expr, env: Env) -> Type:
        match node:
            case ast.Constant():
                return LITERAL
            case ast.Name(id=name):
                return self.name(name, env)
            case ast.Attribute():
                return self.attribute(self.value(node.value, env), node.attr, node)
            case ast.Call():
                return self.call(node, env)
            case ast.Subscript():
                return self.subscript(node, env)
            case ast.BoolOp(values=values):
                return _merge(*(self.value(one, env) for one in values))
            case ast.IfExp():
                self.value(node.test, env)
                return _merge(self.value(node.body, env), self.value(node.orelse, env))
            case ast.NamedExpr():
                value = self.value(node.value, env)
                self.assign(node.target, value, env, node.value)
                return env[node.target.id]
            case ast.List() | ast.Tuple() | ast.Set():
                element = _merge(*(self.value(one, env) for one in node.elts)) if node.elts else OTHER
                return Type("list", element=element) if element.kind not in ("other", "literal") else OTHER
            case ast.Starred():
                return self.elements(self.value(node.value, env))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                inner = self.comprehension(node.generators, env)
                element = self.value(node.elt, inner)
                return Type("list", element=element) if element.kind not in ("other", "literal") else OTHER
            case ast.DictComp():
                inner = self.comprehension(node.generators, env)
                self.value(node.key, inner)
                element = self.value(node.value, inner)
                return Type("list", element=element) if element.kind not in ("other", "literal") else OTHER
            case ast.Yield():
                self.gives(self.value(node.value, env) if node.value else LITERAL)
                return OTHER
            case ast.Lambda():
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                self.value(node.body, env | {a.arg: self.table.get(a.arg, UNKNOWN) for a in every})
                return OTHER
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child, env)
        return OTHER

    def name(self, name: str, env: Env) -> Type:
        if name in env:
            return env[name]
        if found := self.own_name(name):
            return found
        if name in self.program.modules.get(self.file, {}):
            return self.program.modules[self.file][name]
        return OTHER if hasattr(builtins, name) else self.table.get(name, OTHER)

    def comprehension(self, generators: Sequence[ast.comprehension], env: Env) -> Env:
        inner = dict(env)
        for generator in generators:
            self.assign(generator.target, self.elements(self.value(generator.iter, inner)), inner, None)
            for test in generator.ifs:
                self.value(test, inner)
        return inner

    def elements(self, value: Type) -> Type:
        if value.kind == "list":
            return value.element or OTHER
        return OTHER if value.kind in ("other", "literal", "instance", "class") else UNKNOWN

    def subscript(self, node: ast.Subscript, env: Env) -> Type:
        base = self.value(node.value, env)
        self.value(node.slice, env)
        if base.kind == "instance":
            assert base.api is not None
            member = base.api.member(base.name, "__getitem__")
            if member is None:
                self.problem(node, f"{base.name} has no elements")
                return OTHER
            return self.written(member.signatures[0].returns, base.api) if member.signatures else OTHER
        if base.kind == "unknown":
            return UNKNOWN
        return base if isinstance(node.slice, ast.Slice) else self.elements(base)

    def attribute(self, base: Type, attr: str, node: ast.AST) -> Type:
        if base.kind == "module":
            assert base.api is not None
            return self.found(base.api, "", attr, node, kind="module")
        if base.kind == "class":
            assert base.api is not None
            return self.found(base.api, base.name, attr, node, kind="class")
        if base.kind == "instance":
            assert base.api is not None
            if (own := self.of_derived(base, attr)) is not None:
                return own
            return self.found(base.api, base.name, attr, node, kind="instance")
        if base.kind == "own":
            return self.own_attribute(base, attr, node)
        if base.kind == "own module":
            return self.own_name(attr) or OTHER
        if base.kind == "list" and attr in ONE | MANY:
            element = base.element or OTHER
            many = Type("list", element=element)
            given = Type("list", element=many) if attr == "items" else many if attr in MANY | {"popitem"} else element
            return Type("element", element=given)
        if base.kind == "own class":
            methods = self.program.classes[base.name].methods
            return Type("own function", name=attr, member=methods[attr].key) if attr in methods else OTHER
        if base.kind == "unknown":
            if self.suspicious or attr in self.program.distinctive:
                self.unresolved(node, f"what {ast.unparse(node.value) if isinstance(node, ast.Attribute) else attr} is")
            return UNKNOWN
        if attr in self.program.distinctive:
            self.unresolved(node, f"{attr} of something that is taken for nothing foreign")
        return OTHER

    def own_attribute(self, base: Type, attr: str, node: ast.AST) -> Type:
        known = self.program.classes[base.name]
        if attr in known.methods:
            function = known.methods[attr]
            decorators = {ast.unparse(d).rpartition(".")[2] for d in function.node.decorator_list}
            if decorators & {"property", "cached_property"}:
                return self.result(function.key, function.node)
            return Type("own function", name=attr, member=function.key)
        found = known.attributes.get(attr)
        if attr in known.fields:
            declared = self.annotation(known.fields[attr], self.program.modules.get(self.file, {}))
            found = _merge(found, self.table.get(attr, declared) if declared == UNKNOWN else declared)
        if found is not None:
            return found
        if known.base.kind == "class":
            assert known.base.api is not None
            return self.found(known.base.api, known.base.name, attr, node, kind="instance")
        bases = [b.id for b in known.node.bases if isinstance(b, ast.Name) and b.id in self.program.classes]
        return self.own_attribute(Type("own", name=bases[0]), attr, node) if bases else OTHER

    def of_derived(self, base: Type, attr: str) -> Type | None:
        """An attribute that our class, which derives from this foreign one, has of its own."""
        for name, known in self.program.classes.items():
            if known.base.kind == "class" and known.base.name == base.name and known.base.api is base.api:
                if attr in known.attributes:
                    return known.attributes[attr]
                if attr in known.methods and base.api is not None and base.api.member(base.name, attr) is None:
                    return Type("own function", name=f"{name}.{attr}", member=known.methods[attr].key)
        return None

    def found(self, api: Api, owner: str, attr: str, node: ast.AST, *, kind: str) -> Type:
        """A member of a foreign module, class or object."""
        full = f"{owner}.{attr}" if owner else attr
        member = api.member(owner, attr)
        if member is None:
            self.problem(node, f"{owner or api.module} has no {attr}")
            return OTHER
        if member.kind == "class":
            self.seen("classes", api, full)
            return Type("class", api, api.find(member.type))
        if member.kind in ("method", "function"):
            self.seen("methods", api, full)
            return Type("callable", api, owner, attr, bound=kind == "instance" and member.kind == "method")
        self.seen("values" if member.kind == "value" else "properties", api, full)
        if member.kind == "property" and kind == "class":
            self.problem(node, f"{full} is a property of objects, not of the class")
            return OTHER
        return self.written(member.type, api)

    def written(self, text: str, api: Api) -> Type:
        """A type as signatures write it."""
        text = re.sub(r"(?:typing\.)?Optional\[(.*)\]$", r"\1", text.strip()).removesuffix(" | None").strip("\"'")
        if inner := re.match(r"(?:[\w.]+\.)?(?:list|List|Sequence|tuple|Tuple|dict|Dict)\[(.*)\]$", text):
            element = self.written(inner[1].split(",")[-1], api)
            return Type("list", element=element) if element.kind == "instance" else OTHER
        return Type("instance", api, name) if (name := api.find(text)) else OTHER

    # Calls

    def call(self, node: ast.Call, env: Env) -> Type:
        plain = node.func.id if isinstance(node.func, ast.Name) and node.func.id not in env else ""
        if plain == "getattr":
            return self.getattr(node, env)
        function = self.value(node.func, env)
        arguments = [self.value(one, env) for one in node.args]
        keywords = {one.arg or "**": self.value(one.value, env) for one in node.keywords}
        if function.kind == "class":
            assert function.api is not None
            member = function.api.member(function.name, "__init__")
            if not function.api.is_enum(function.name) and member is not None and member.signatures:
                signatures = [one.without_self() for one in member.signatures]
                self.arguments(node, function.name, signatures, (arguments, keywords), function.api)
            return Type("instance", function.api, function.name)
        if function.kind == "callable":
            return self.method_call(node, function, arguments, keywords)
        if function.kind == "own class":
            return Type("own", name=function.name)
        if function.kind == "element":
            return function.element or OTHER
        if function.kind == "own function":
            return self.own_result(function)
        if function.kind == "instance":
            assert function.api is not None
            self.problem(node, f"{function.name} is not to be called")
            return OTHER
        if plain in ("import_module", "__import__") or ast.unparse(node.func) == "importlib.import_module":
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            return Type("module", self.program.apis[name]) if name in self.program.apis else OTHER
        if plain in CARRIERS and arguments:
            return Type("list", element=inner) if (inner := self.elements(arguments[0])).kind == "instance" else OTHER
        if function.kind == "unknown":
            return UNKNOWN
        return OTHER

    def method_call(self, node: ast.Call, function: Type, arguments: list[Type], keywords: dict[str, Type]) -> Type:
        api = function.api
        assert api is not None
        member = api.member(function.name, function.member)
        assert member is not None
        full = f"{function.name}.{function.member}" if function.name else function.member
        if not member.signatures:
            self.unresolved(node, f"the signature of {full}")
            return OTHER
        signatures = [one.without_self() if function.bound else one for one in member.signatures]
        chosen = self.arguments(node, full, signatures, (arguments, keywords), api)
        return self.written(chosen.returns, api)

    def arguments(
        self,
        node: ast.Call,
        full: str,
        signatures: Sequence[Signature],
        given: tuple[list[Type], dict[str, Type]],
        api: Api,
    ) -> Signature:
        """Hold a call against all overloads; the one that fits, or the first."""
        arguments, keywords = given
        if "**" in keywords or any(isinstance(one, ast.Starred) for one in node.args):
            self.unresolved(node, f"the arguments of {full}, which are not written out")
            return signatures[0]
        reasons = []
        for signature in signatures:
            reason = self.mismatch(signature, node, arguments, keywords, api)
            if not reason:
                self.seen("calls", api, full)
                self.report.checked["arguments"] += len(arguments) + len(keywords)
                return signature
            reasons.append(reason)
        self.problem(node, f"{full}: {' / '.join(dict.fromkeys(reasons))}")
        return signatures[0]

    def mismatch(
        self, signature: Signature, node: ast.Call, arguments: list[Type], keywords: dict[str, Type], api: Api
    ) -> str:
        """Why a call does not fit a signature, or an empty string."""
        places = [p for p in signature.parameters if p.kind.startswith("POSITIONAL")]
        stars = {p.kind for p in signature.parameters if p.kind.startswith("VAR")}
        if len(arguments) > len(places) and "VAR_POSITIONAL" not in stars:
            return f"{len(arguments)} arguments in order, at most {len(places)} are taken"
        pairs = list(zip(places, arguments, node.args, strict=False))
        filled = {p.name for p, _, _ in pairs}
        texts = {one.arg: one.value for one in node.keywords}
        for name, kind in keywords.items():
            parameter = next((p for p in signature.parameters if p.name == name), None)
            if parameter is None or parameter.kind in ("POSITIONAL_ONLY", "VAR_POSITIONAL", "VAR_KEYWORD"):
                if "VAR_KEYWORD" in stars:
                    continue
                return f"no argument is named {name}"
            if name in filled:
                return f"{name} is given twice"
            filled.add(name)
            pairs.append((parameter, kind, texts[name]))
        missing = [p.name for p in signature.parameters if p.required and p.name not in filled and "VAR" not in p.kind]
        if missing:
            return f"{', '.join(missing)} is not given"
        for parameter, kind, text in pairs:
            if reason := _unfit(kind, text, parameter.type, api):
                return f"{parameter.name} {reason}"
        return ""

    def fits(self, node: ast.Attribute, full: str, value: Type, wanted: str, api: Api) -> None:
        if reason := _unfit(self.base_of(value), node, wanted, api):
            self.problem(node, f"{full} {reason}")

    def base_of(self, value: Type) -> Type:
        if value.kind == "own" and (base := self.program.classes[value.name].base).kind == "class":
            return Type("instance", base.api, base.name)
        return value

    def own_result(self, function: Type) -> Type:
        for known in self.all_functions():
            if known.key == function.member:
                return self.result(known.key, known.node)
        node = next(
            n
            for n in ast.walk(self.program.trees[self.file])
            if isinstance(n, ast.FunctionDef) and f"{self.file}:{n.lineno}:{n.name}" == function.member
        )
        return self.result(function.member, node)

    def all_functions(self) -> Iterator[_Function]:
        yield from self.program.functions.values()
        for known in self.program.classes.values():
            yield from known.methods.values()

    def result(self, key: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Type:
        """By the annotation, or, where that says Any, by what the function returns."""
        declared = (
            UNKNOWN if node.returns is None else self.annotation(node.returns, self.program.modules.get(self.file, {}))
        )
        return self.program.results.get(key, UNKNOWN) if declared == UNKNOWN else declared

    def getattr(self, node: ast.Call, env: Env) -> Type:
        base = self.value(node.args[0], env)
        for one in node.args[1:]:
            self.value(one, env)
        name = node.args[1]
        if base.kind not in ("module", "class", "instance"):
            return base if base.kind == "unknown" else OTHER
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            self.unresolved(node, "which attribute getattr asks for")
            return OTHER
        if len(node.args) == 2:
            return self.attribute(base, name.value, node)
        return OTHER  # asked for on purpose, with something to fall back on

    # Findings

    def seen(self, kind: str, api: Api, name: str) -> None:
        self.report.checked[kind] += 1
        self.report.names.add(f"{api.module}.{name}")

    def problem(self, node: ast.AST, text: str) -> None:
        self.report.problems.append(f"{self.file}:{getattr(node, 'lineno', 0)} {text}")

    def unresolved(self, node: ast.AST, text: str) -> None:
        self.report.unresolved.append(f"{self.file}:{getattr(node, 'lineno', 0)} it is not known {text}")


# Foreign classes that only have methods to override, all of which must be there.
ABSTRACT = frozenset({"ILogger", "IProgressMonitor", "IProfiler", "IErrorRecorder"})


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every module that is imported anywhere, with each name that is taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def _takes(arguments: ast.arguments, count: int) -> bool:
    most = len(arguments.posonlyargs) + len(arguments.args)
    least = most - len(arguments.defaults)
    needed = any(d is None for d in arguments.kw_defaults)
    return least <= count and (count <= most or arguments.vararg is not None) and not needed


def _unfit(kind: Type, text: ast.AST, wanted: str, api: Api) -> str:
    """Why a value does not fit a written type, as far as that is sure; otherwise an empty string."""
    name = api.find(re.sub(r"^(?:typing\.)?Optional\[(.*)\]$", r"\1", wanted))
    if not name:
        return ""
    if kind.kind == "instance" and kind.api is api and not api.is_a(kind.name, name):
        return f"is a {kind.name}, a {name} is needed"
    if kind.kind == "class" and kind.api is api:
        return f"is the class {kind.name} itself, a {name} is needed"
    if kind.kind == "literal" and api.is_enum(name) and not (isinstance(text, ast.Constant) and text.value is None):
        return f"is a literal, a {name} is needed"
    return ""


def _merge(*types: Type | None) -> Type:
    """One type for a value that may be any of them: foreign ones count most, None and literals least."""
    order = ("instance", "own", "list", "class", "callable", "module", "own class", "own function", "unknown", "other")
    for kind in order:
        for one in types:
            if one is not None and one.kind == kind:
                return one
    return next((one for one in types if one is not None), OTHER)
