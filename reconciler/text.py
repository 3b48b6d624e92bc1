"""Words for people: short commit ids, and text that is safe to print."""

from __future__ import annotations

import re

SHORT_COMMIT = 10  # hex digits shown to people; the full id is in every machine-readable output
# C0 and C1 controls but for newline and tab: a log must not drive the terminal that shows it.
# Lone surrogates are bytes that were no text; no sink can write them.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def short(commit: str) -> str:
    """Return a commit id as people see it."""
    return commit[:SHORT_COMMIT]


def safe(text: str) -> str:
    """Return text whose control characters are escaped, so that it can be printed."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def is_text(text: str) -> bool:
    """Whether a name that came as bytes really was text: Python keeps other bytes as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def one_line(text: str) -> str:
    """Return safe text on one line."""
    return safe(text.replace("\n", " ").replace("\t", " "))
