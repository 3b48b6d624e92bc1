"""What is wrong with a configuration, and where: `file:line:column: key: what is wrong, what was expected`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler import spec

MAX_SHOWN_KEY = 120  # characters; a hostile file may hold longer ones

# What a pattern expects, in words: a regular expression is no message.
_EXPECTED = {
    spec.NAME_PATTERN: "1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit",
    r"^([0-9a-f]{40}|[0-9a-f]{64})$": "a full commit id of 40 or 64 lower-case hex digits",
    spec.GOAL_PATTERN: "a make target: letters, digits and _ . + / -, not beginning with a dash",
    spec.SECRET_PATTERN: "a secret's name: letters, digits and _ . -, never a path",
    r"^[A-Za-z_][A-Za-z0-9_]{0,127}$": "a variable name of letters, digits and underscores",
    r"^https?://[^\s@]{1,1990}$": "an http or https address without user information",
}
_KINDS = {
    "string_type": "text",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "list_type": "a list",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a file, both counted from 1; line 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Return `file:line:column`, as editors and terminals understand it."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong."""

    place: Place
    key: str  # dotted path of keys: targets.api.retry.limit
    message: str

    def __str__(self) -> str:
        """Return the one line that people see."""
        shown = self.key if len(self.key) <= MAX_SHOWN_KEY else self.key[:MAX_SHOWN_KEY] + "…"
        key = f"{shown}: " if shown else ""
        return f"{self.place}: {key}{self.message}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the known word that is most like `word`, or nothing."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]}?" if matches else ""


def dotted(path: Sequence[str | int]) -> str:
    """Return the path of a key as people write it: `targets.api.steps[0].make`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def describe(error: Any, known_keys: Sequence[str]) -> str:
    """Return one pydantic error in words. Never says the value: it may be a secret in the wrong place."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(error['loc'][-1]), known_keys)}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return f"expected {_EXPECTED.get(pattern, f'text of the form {pattern}')}"
    if kind in _KINDS:
        return f"expected {_KINDS[kind]}"
    if kind == "literal_error":
        return f"expected {context['expected']}"
    message: str = error["msg"]
    return message[:1].lower() + message[1:]
