"""The syntax of the shell in memory: a small part of POSIX's, and nothing outside of it passes unnoticed."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass


class ShellSyntaxError(Exception):
    """The script is wrong, or uses what is not offered here."""


@dataclass(frozen=True)
class Part:
    """A piece of a word: text, or the name of a parameter."""

    text: str
    parameter: bool
    quoted: bool


Word = tuple[Part, ...]


@dataclass(frozen=True)
class Redirect:
    """`fd op target`; a target that is a number copies that descriptor."""

    fd: int
    operator: str
    target: Word | int


@dataclass(frozen=True)
class Simple:
    assignments: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True)
class While:
    condition: Script
    body: Script


Command = Simple | While


@dataclass(frozen=True)
class Item:
    """Commands joined by `&&` and `||` (each with what stands before it, first `;`), perhaps in the background."""

    chain: tuple[tuple[str, Command], ...]
    background: bool


Script = tuple[Item, ...]

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\n]*)
    |(?P<redirect>(?P<fd>[0-9]?)(?P<operator>>>|>|<)(?P<copy>&[0-9])?)
    |(?P<control>&&|\|\||;|&|\n)
    |(?P<word>(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s;&|<>()'"\\`])+)""",
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<escaped>.)|(?P<bare>[^'"\\]+)""",
    re.DOTALL,
)
_PARAMETER = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*|[$!?]))")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=")
_REFUSED = {"if", "for", "case", "until", "function", "{", "!", "then", "fi"}

Token = tuple[str, re.Match[str]]


@functools.lru_cache(maxsize=256)
def parse(script: str) -> Script:
    """*script* as commands; raises ShellSyntaxError."""
    tokens: list[Token] = []
    position = 0
    while position < len(script):
        match = _TOKEN.match(script, position)
        if match is None:
            raise ShellSyntaxError(f"unexpected {script[position]!r}")
        position = match.end()
        kind = next(name for name in ("space", "redirect", "control", "word") if match[name] is not None)
        if kind != "space":
            tokens.append((kind, match))
    parser = _Parser(tokens)
    parsed = parser.script(())
    if parser.peek():
        raise ShellSyntaxError(f"unexpected {parser.peek()!r}")
    return parsed


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens[::-1]

    def peek(self) -> str:
        return self._tokens[-1][1][0] if self._tokens else ""

    def _take(self, expected: str) -> None:
        if self.peek() != expected:
            raise ShellSyntaxError(f"unexpected {self.peek() or 'end of file'!r} (expecting {expected!r})")
        self._tokens.pop()

    def script(self, ends: tuple[str, ...]) -> Script:
        items = []
        while self._tokens and self.peek() not in ends:
            if self.peek() == "\n":
                self._tokens.pop()
                continue
            items.append(self._item())
        return tuple(items)

    def _item(self) -> Item:
        chain = [(";", self._command())]
        while self.peek() in {"&&", "||"}:
            chain.append((self._tokens.pop()[1][0], self._command()))
        background = self.peek() == "&"
        if self.peek() in {"&", ";", "\n"}:
            self._tokens.pop()
        return Item(tuple(chain), background)

    def _command(self) -> Command:
        first = self.peek()
        if first in _REFUSED:
            raise ShellSyntaxError(f"{first!r} is not offered here")
        if first != "while":
            return self._simple()
        self._take("while")
        condition = self.script(("do",))
        self._take("do")
        body = self.script(("done",))
        self._take("done")
        return While(condition, body)

    def _simple(self) -> Simple:
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        while self._tokens and self._tokens[-1][0] != "control":
            kind, match = self._tokens.pop()
            assignment = None if words else _ASSIGNMENT.match(match[0])
            if kind == "redirect":
                redirects.append(self._redirect(match))
            elif assignment:
                assignments.append((assignment[1], _word(match[0][assignment.end() :])))
            else:
                words.append(_word(match[0]))
        if not (assignments or words or redirects):
            raise ShellSyntaxError(f"unexpected {self.peek() or 'end of file'!r}")
        return Simple(tuple(assignments), tuple(words), tuple(redirects))

    def _redirect(self, match: re.Match[str]) -> Redirect:
        fd = int(match["fd"] or (0 if match["operator"] == "<" else 1))
        if match["copy"]:
            return Redirect(fd, match["operator"], int(match["copy"][1:]))
        if not self._tokens or self._tokens[-1][0] != "word":
            raise ShellSyntaxError("a redirection needs a file")
        return Redirect(fd, match["operator"], _word(self._tokens.pop()[1][0]))


def _word(text: str) -> Word:
    parts: list[Part] = []
    for piece in _PIECE.finditer(text):
        if piece["single"] is not None:
            parts.append(Part(piece["single"], parameter=False, quoted=True))
        elif piece["escaped"] is not None:
            parts.append(Part(piece["escaped"], parameter=False, quoted=True))
        elif piece["double"] is not None:
            parts.extend(_double_quoted(piece["double"]))
        else:
            parts.extend(_expansions(piece["bare"], quoted=False))
    return tuple(parts)


def _double_quoted(text: str) -> list[Part]:
    parts = [Part("", parameter=False, quoted=True)]
    for piece in re.split(r"(\\.)", text, flags=re.DOTALL):
        if piece.startswith("\\"):
            kept = piece[1:] if piece[1] in '$"\\`' else piece
            parts.append(Part(kept, parameter=False, quoted=True))
        else:
            parts.extend(_expansions(piece, quoted=True))
    return parts


def _expansions(text: str, *, quoted: bool) -> list[Part]:
    parts: list[Part] = []
    position = 0
    for match in _PARAMETER.finditer(text):
        parts.append(Part(text[position : match.start()], parameter=False, quoted=quoted))
        parts.append(Part(match[1] or match[2], parameter=True, quoted=quoted))
        position = match.end()
    parts.append(Part(text[position:], parameter=False, quoted=quoted))
    return [part for part in parts if part.text]
