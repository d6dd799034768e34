# SPDX-License-Identifier: Apache-2.0
"""Mechanical mutants of CUDA sources: one token altered, or one synchronising statement dropped."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TOKEN = re.compile(
    r"(?P<comment>//[^\n]*|/\*.*?\*/)"
    r"|(?P<directive>^[ \t]*#[^\n]*(?:\\\n[^\n]*)*)"
    r"|(?P<string>R\"\((?:.*?)\)\"|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])')"
    r"|(?P<number>\d[\w.']*(?:[eE][+-]?\d+f?)?)"
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<mark><<=|>>=|->|::|\+\+|--|<=|>=|==|!=|&&|\|\||<<|>>|[-+*/%&|^]=|[-+*/%&|^<>=!~?:;,.(){}\[\]])",
    re.S | re.M,
)

_MARKS = {
    "<": ("<=",), "<=": ("<",), ">": (">=",), ">=": (">",), "==": ("!=",), "!=": ("==",), "&&": ("||",), "||": ("&&",),
    "+": ("-",), "-": ("+",), "*": ("+",), "/": ("*",), "%": ("/",), "<<": (">>",), ">>": ("<<",), "&": ("|",),
    "|": ("&",), "^": ("|",), "+=": ("-=",), "-=": ("+=",), "*=": ("+=",), "/=": ("*=",),
}  # fmt: skip
_WORDS = {"min": "max", "max": "min", "fminf": "fmaxf", "fmaxf": "fminf", "true": "false", "false": "true"}
_BEFORE_UNARY = ("(", ",", "=", "return", "?", ":", "{", "[", "+=", "-=", "==", "!=", "<", "&&", "||")
_SYNCHRONISES = re.compile(r"sync|wait|commit|fence|arrive|barrier|expect|settle|release|acquire", re.I)


@dataclass(frozen=True)
class Mutant:
    """A replacement of `before` by `after` at `start` of a file.

    `name` survives edits elsewhere in the file: it is made of the line's text and the place in it.
    """

    file: str
    line: int
    start: int
    before: str
    after: str
    name: str

    def apply(self, text: str) -> str:
        assert text[self.start : self.start + len(self.before)] == self.before
        return text[: self.start] + self.after + text[self.start + len(self.before) :]


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int


def mutants_of(path: Path) -> list[Mutant]:
    """All mutants of a file, in the order of its text."""
    text = path.read_text()
    lines = text.splitlines()
    seen: dict[str, int] = {}
    occurrence = []
    for each in lines:
        occurrence.append(seen.get(each.strip(), 0))
        seen[each.strip()] = occurrence[-1] + 1
    found = []
    for start, before, after in sorted(_changes(text)):
        line = text.count("\n", 0, start)
        column = start - (text.rfind("\n", 0, start) + 1) - (len(lines[line]) - len(lines[line].lstrip()))
        key = f"{lines[line].strip()}|{occurrence[line]}|{column}|{before}|{after}"
        name = f"{path.name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        found.append(Mutant(path.name, line + 1, start, before, after, name))
    return found


def _changes(text: str) -> Iterator[tuple[int, str, str]]:
    tokens = [
        _Token(match.lastgroup or "", match[0], match.start())
        for match in _TOKEN.finditer(text)
        if match.lastgroup not in ("comment", "directive", "string")
    ]
    for i, token in enumerate(tokens):
        previous = tokens[i - 1].text if i else ""
        if token.kind == "number":
            yield from ((token.start, token.text, after) for after in _numbers(token.text))
        elif token.text in _WORDS and previous not in (".", "->"):
            yield token.start, token.text, _WORDS[token.text]
        elif token.text in _MARKS and _is_binary(text, token) and previous != "template":
            yield from ((token.start, token.text, after) for after in _MARKS[token.text])
        elif token.text == "-" and previous in _BEFORE_UNARY:
            yield token.start, "-", ""
        elif token.text == "if" and tokens[i + 1].text == "(":
            end = _closing(tokens, i + 1)
            condition = text[tokens[i + 2].start : tokens[end].start]
            yield from (
                (tokens[i + 2].start, condition, after) for after in ("true", "false") if condition != after
            )
        droppable = token.text == "asm" or _SYNCHRONISES.search(token.text)
        if token.kind == "word" and previous in (";", "{", "}", ")") and droppable:
            statement = _statement(text, tokens, i)
            if statement:
                yield token.start, statement, ";"


def _is_binary(text: str, token: _Token) -> bool:
    """The house formats binary operators with a space on either side, and nothing else."""
    end = token.start + len(token.text)
    return text[token.start - 1] in " \n" and text[end : end + 1] in (" ", "\n")


def _numbers(text: str) -> tuple[str, ...]:
    """Other numbers: one more and one less; 0 and 1 change into each other; floats double, and 0 becomes 1."""
    if re.fullmatch(r"\d+", text):
        value = int(text)
        return ("1",) if value == 0 else (str(value + 1), str(value - 1))
    if re.fullmatch(r"0x[0-9a-fA-F]+[uU]?", text):
        return (text[:2] + "0" + text[3:],) if text[2] != "0" else ()
    if re.fullmatch(r"[\d.]+f", text):
        return ("1.f",) if float(text[:-1]) == 0 else (f"{2 * float(text[:-1])}f",)
    return ()


def _closing(tokens: list[_Token], opening: int) -> int:
    depth = 0
    for i in range(opening, len(tokens)):
        depth += (tokens[i].text == "(") - (tokens[i].text == ")")
        if depth == 0:
            return i
    raise ValueError("unbalanced parentheses")


def _statement(text: str, tokens: list[_Token], i: int) -> str:
    """The whole of `name<...>(...);` or `a.name(...);` from token i, or nothing where it is something else."""
    match = re.match(r"(?:asm volatile|[\w.:]+(?:<[^;()]*>)?)\(", text[tokens[i].start :])
    if not match:
        return ""
    opening = next(j for j in range(i, len(tokens)) if tokens[j].text == "(")
    end = _closing(tokens, opening)
    if end + 1 >= len(tokens) or tokens[end + 1].text != ";":
        return ""
    return text[tokens[i].start : tokens[end + 1].start + 1]


def closure(source: Path, folders: tuple[Path, ...]) -> list[Path]:
    """A source file and all that it includes, itself first."""
    found, queue = [], [source]
    while queue:
        path = queue.pop(0)
        if path in found:
            continue
        found.append(path)
        for name in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.M):
            queue += [folder / name for folder in folders if (folder / name).exists()][:1]
    return found
