from __future__ import annotations

from reconciler.text import is_text, one_line, safe, short


def test_controls_are_escaped_and_lines_stay() -> None:
    assert safe("a\x1b[31mb\nc\td\x9b\u2028\udcff") == "a\\x1b[31mb\nc\td\\x9b\\x2028\\xdcff"


def test_what_is_text() -> None:
    assert is_text("vünf")
    assert not is_text("v\udcff1")


def test_one_line() -> None:
    assert one_line("a\nb\tc\r") == "a b c\\x0d"


def test_short() -> None:
    assert short("9fceb02d0ae598e95dc970b74767f19372d61af8") == "9fceb02d0a"
