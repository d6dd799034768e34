# SPDX-License-Identifier: Apache-2.0
"""PTX text to instructions: a tokenizer and a parser for what NVRTC and inline assembly write.

Scopes `{ ... }` of inline assembly may redeclare registers and labels; they are renamed here, so that later stages
see one flat list of instructions for a kernel with unique names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .faults import Unsupported
from .syntax import (
    BYTES,
    Address,
    Entry,
    Immediate,
    Instruction,
    Operand,
    Pair,
    Register,
    Symbol,
    Variable,
    Vector,
)

_TOKEN = re.compile(
    r"\s+|//[^\n]*|/\*.*?\*/"
    r"|(?P<number>-?0[fF][0-9a-fA-F]{8}|-?0[dD][0-9a-fA-F]{16}|-?0[xX][0-9a-fA-F]+U?|-?\d+U?(?![\w.]))"
    r"|(?P<word>[%$.\w]+(?:::[\w.]+)*)"
    r"|(?P<string>\"[^\"]*\")"
    r"|(?P<mark>[-{}()\[\],;:@!|<>=+])",
    re.S,
)


class Entries(Mapping[str, Entry]):
    """Kernels by name, each parsed when it is first asked for: a file may hold dozens, a test runs one."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts
        self._parsed: dict[str, Entry] = {}

    def __getitem__(self, name: str) -> Entry:
        if name not in self._parsed:
            self._parsed[name] = _Parser(self._texts[name]).entry()
        return self._parsed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, name: str) -> str:
        """The kernel's PTX, without comments."""
        return self._texts[name]


@dataclass
class Module:
    entries: Entries
    variables: list[Variable]


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unsupported(f"cannot read PTX at {text[place : place + 60]!r}")
        if match.lastgroup:
            tokens.append(match[0])
        place = match.end()
    return tokens


def _is_number(token: str) -> bool:
    return token[0].isdigit() or (token[0] == "-" and len(token) > 1)


def _number(token: str) -> Immediate:
    sign, body = (-1, token[1:]) if token[0] == "-" else (1, token)
    if body[:2] in ("0f", "0F", "0d", "0D"):
        return Immediate(int(body[2:], 16), 4 if body[1] in "fF" else 8)
    return Immediate(sign * int(body.rstrip("U"), 0))


class _Scope:
    """The names of one `{ }`: what is declared here is renamed, the rest is looked up outside."""

    def __init__(self, parent: _Scope | None, suffix: str) -> None:
        self.parent, self.suffix, self.names = parent, suffix, dict[str, str]()
        self.ranges = dict[str, str]()

    def find(self, name: str) -> str:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return name


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.place = 0
        self.scopes = 0

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.place + ahead] if self.place + ahead < len(self.tokens) else ""

    def take(self, wanted: str | None = None) -> str:
        token = self.peek()
        if not token or (wanted is not None and token != wanted):
            near = " ".join(self.tokens[max(0, self.place - 5) : self.place + 5])
            raise Unsupported(f"expected {wanted!r}, found {token!r} in PTX near {near!r}")
        self.place += 1
        return token

    def skip_past(self, mark: str) -> None:
        while self.take() != mark:
            pass

    def variables(self) -> list[Variable]:
        """What stands at module level, once the kernels are cut out."""
        found = []
        while token := self.peek():
            if token in (".version", ".address_size"):
                self.place += 2
            elif token == ".target":
                self.place += 2
                while self.peek() == ",":
                    self.place += 2
            elif token in (".visible", ".weak"):
                self.place += 1
            elif token == ".extern":
                self.place += 1
                found.append(self.extern())
            elif token in (".global", ".const", ".shared"):
                found.append(self.variable())
            else:
                raise Unsupported(f"PTX directive {token!r} at module level")
        return found

    def extern(self) -> Variable:
        variable = self.variable()
        if variable.space != "shared":
            raise Unsupported(f"extern variable {variable.name} in .{variable.space}")
        return Variable(variable.name, "extern shared", variable.align, 0)

    def variable(self) -> Variable:
        """`.space [.align N] [.ptr ...] .type name[N]... [= initialiser] ;` (or `,` or `)` for a parameter)."""
        space, align, element = self.take()[1:], 0, ""
        while self.peek().startswith("."):
            word = self.take()[1:]
            if word == "align":
                align = int(self.take())
            elif word in BYTES:
                element = word
        name, count = self.take(), 1
        while self.peek() == "[":
            self.take()
            count *= int(self.take()) if self.peek() != "]" else 0
            self.take("]")
        initial = b""
        if self.peek() == "=":
            self.take()
            initial = self.initialiser(BYTES[element])
        if self.peek() == ";":
            self.take()
        return Variable(name, space, align or BYTES[element], count * BYTES[element], initial)

    def initialiser(self, item_bytes: int) -> bytes:
        if self.peek() == "{":
            self.take()
            items = b""
            while self.peek() != "}":
                items += self.initialiser(item_bytes)
                if self.peek() == ",":
                    self.take()
            self.take("}")
            return items
        if not _is_number(self.peek()):
            raise Unsupported(f"initialiser {self.peek()!r}: only numbers are read")
        return (_number(self.take()).value % (1 << (8 * item_bytes))).to_bytes(item_bytes, "little")

    def entry(self) -> Entry:
        self.take(".entry")
        entry = Entry(self.take())
        self.take("(")
        while self.peek() != ")":
            entry.parameters.append(self.variable())
            if self.peek() == ",":
                self.take()
        self.take(")")
        while (token := self.take()) != "{":
            if token == ".maxntid":
                entry.most_threads = int(self.take())
                while self.peek() == ",":
                    self.take()
                    entry.most_threads *= int(self.take())
        self.body(entry, _Scope(None, ""))
        return entry

    def body(self, entry: Entry, scope: _Scope) -> None:
        self.declare_labels(scope)
        while (token := self.peek()) != "}":
            if token == "{":
                self.take()
                self.scopes += 1
                self.body(entry, _Scope(scope, f"@{self.scopes}"))
            elif token == ".reg":
                self.registers(entry, scope)
            elif token in (".shared", ".local"):
                variable = self.variable()
                (entry.shared if token == ".shared" else entry.local).append(variable)
            elif token in (".loc", ".pragma"):
                self.skip_past(";") if token == ".pragma" else self.skip(4)
            elif token == ";":
                self.take()
            elif self.peek(1) == ":":
                self.place += 2
                if self.peek() == ".branchtargets":
                    entry.tables[scope.find(token)] = self.targets(scope)
                else:
                    entry.labels[scope.find(token)] = len(entry.code)
            else:
                entry.code.append(self.instruction(scope))
        self.take("}")

    def targets(self, scope: _Scope) -> list[str]:
        self.take(".branchtargets")
        names = [scope.find(self.take())]
        while self.take() == ",":
            names.append(scope.find(self.take()))
        return names

    def skip(self, count: int) -> None:
        self.place += count

    def declare_labels(self, scope: _Scope) -> None:
        """Labels may be used before they stand: note those of this scope first."""
        place, depth = self.place, 0
        while depth >= 0:
            token = self.tokens[place]
            depth += (token == "{") - (token == "}")
            if depth == 0 and token == ":" and self.tokens[place - 2] in (";", ":", "{", "}"):
                name = self.tokens[place - 1]
                scope.names[name] = name + scope.suffix
            place += 1

    def registers(self, entry: Entry, scope: _Scope) -> None:
        self.take(".reg")
        kind = self.take()[1:]
        while True:
            name = self.take()
            names = [name]
            if self.peek() == "<":
                self.take()
                names = [f"{name}{i}" for i in range(int(self.take()))]
                self.take(">")
            for each in names:
                scope.names[each] = each + scope.suffix
                entry.registers[each + scope.suffix] = kind
            if self.take() == ";":
                return

    def instruction(self, scope: _Scope) -> Instruction:
        start, guard = self.place, None
        if self.peek() == "@":
            self.take()
            negated = self.peek() == "!"
            if negated:
                self.take()
            guard = Register(scope.find(self.take()), negated)
        opcode = self.take()
        operands = []
        while self.peek() != ";":
            operands.append(self.operand(scope))
            if self.peek() == ",":
                self.take()
        text = " ".join(self.tokens[start : self.place])
        self.take(";")
        return Instruction(opcode, tuple(operands), guard, text)

    def operand(self, scope: _Scope) -> Operand:
        first = self.simple(scope)
        if self.peek() == "|":
            self.take()
            return Pair(first, self.simple(scope))
        return first

    def simple(self, scope: _Scope) -> Operand:
        token = self.take()
        if token == "!":
            return Register(scope.find(self.take()), True)
        if token == "-":
            return Immediate(-_number(self.take()).value)
        if token == "{":
            return Vector(tuple(self.until("}", scope)))
        if token == "[":
            return self.address(scope)
        if _is_number(token):
            return _number(token)
        name = scope.find(token)
        if name == "_" or name.startswith("%") or "@" in name or name in scope.names:
            return Register(name)
        return Symbol(name, self.offset())

    def until(self, end: str, scope: _Scope) -> Iterator[Operand]:
        while self.peek() != end:
            yield self.operand(scope)
            if self.peek() == ",":
                self.take()
        self.take(end)

    def offset(self) -> int:
        if self.peek() == "+":
            self.take()
            return _number(self.take()).value
        if _is_number(self.peek()) and self.peek()[0] == "-":
            return _number(self.take()).value
        return 0

    def address(self, scope: _Scope) -> Address:
        base = self.simple(scope)
        if isinstance(base, Symbol):
            base, offset = Symbol(base.name), base.offset
        else:
            offset = self.offset()
        coordinates: tuple[Operand, ...] = ()
        if self.peek() == ",":
            self.take()
            vector = self.simple(scope)
            assert isinstance(vector, Vector)
            coordinates = vector.items
        self.take("]")
        return Address(base, offset, coordinates)


def parse(text: str) -> Module:
    """The module that `text` describes; `Unsupported` names what cannot be read."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    kernels, rest, place = {}, "", 0
    while match := re.compile(r"\.entry\s+([\w$]+)").search(text, place):
        end = _closing_brace(text, text.index("{", match.end()))
        kernels[match[1]] = text[match.start() : end]
        rest += text[place : match.start()]
        place = end
    return Module(Entries(kernels), _Parser(rest + text[place:]).variables())


def _closing_brace(text: str, start: int) -> int:
    depth = 0
    for match in re.compile("[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.end()
    raise Unsupported("a kernel without its closing brace")
