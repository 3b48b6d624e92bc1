"""Hostile YAML: each document is accepted or refused with its place, quickly, and the process lives."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config import yamltree
from reconciler.config.catalogue import check
from reconciler.config.deployments import UrlPolicy, parse_file

PIN = "9fceb02d0ae598e95dc970b74767f19372d61af8"
GOOD = f"targets:\n  api: {{repo: 'https://h/x', commit: {PIN}}}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

# sentence, bytes, what the error says (None: accepted)
CORPUS: list[tuple[str, bytes, str | None]] = [
    ("brackets, 25,000 deep", b"[" * 25_000, "nested more than 32"),
    ("brackets, 250,000 deep", b"[" * 250_000, "nested more than 32"),
    ("braces, 30,000 deep", b"{a: " * 30_000, "nested more than 32"),
    ("dashes, 10,000 deep", b"- " * 10_000, "nested more than 32"),
    ("an alias bomb", BOMB.encode(), "unknown key"),
    ("a merge bomb", b"a: &a {x: 1}\ntargets:\n  t:\n    <<: [*a, *a]\n", "unknown key"),
    ("an alias to itself", b"targets: &t\n  api: *t\n", "an alias"),
    ("an undefined alias", b"targets:\n  api: *nothing\n", "an alias"),
    ("a tag that makes objects", b"targets: !!python/object/apply:os.system ['touch /tmp/x']\n", "expected a mapping"),
    ("a tag inside an entry", GOOD.replace("'https", "!!str 'https").encode(), "a tag"),
    ("duplicate targets", (GOOD + GOOD.partition("\n")[2]).encode(), "a duplicate key"),
    ("duplicate keys in an entry", GOOD.replace("commit", "repo: x, commit").encode(), "a duplicate key"),
    ("an octal-looking commit", GOOD.replace(PIN, "0123456").encode(), "full commit id"),
    ("a float-looking commit", GOOD.replace(PIN, "1e1000000000").encode(), "full commit id"),
    ("forty digits are text", GOOD.replace(PIN, "1" * 40).encode(), None),
    ("an invalid date is text", GOOD.replace("commit", "labels: {a: 2024-00-01}, commit").encode(), None),
    ("a sexagesimal number is text", GOOD.replace("commit", "labels: {a: 12:30:45}, commit").encode(), None),
    ("no is text", GOOD.replace("commit", "labels: {a: no}, commit").encode(), None),
    ("a name of 300 characters", GOOD.replace("api", "a" * 300).encode(), "a target's name"),
    ("a name of 200,000 characters", GOOD.replace("api", "a" * 200_000).encode(), "not valid YAML"),
    ("a name that leaves the directory", GOOD.replace("api", "../../etc").encode(), "a target's name"),
    ("a name with a slash", GOOD.replace("api", "/etc/passwd").encode(), "a target's name"),
    ("a name with a newline", GOOD.replace("api", '"a\\nb"').encode(), "a target's name"),
    ("a name that ends with a newline", GOOD.replace("api", '"api\\n"').encode(), "a target's name"),
    ("a name in Arabic digits", GOOD.replace("api", "٣").encode(), "a target's name"),
    ("a name with a NUL", GOOD.replace("api", '"a\\0b"').encode(), "a target's name"),
    ("a value with a NUL", GOOD.replace("commit", 'env: {A: "x\\0y"}, commit').encode(), "NUL"),
    ("bytes that are not UTF-8", GOOD.encode() + b"# \xff\xfe\n", "not UTF-8"),
    ("UTF-16", GOOD.encode("utf-16"), "not UTF-8"),
    ("a byte order mark is fine", b"\xef\xbb\xbf" + GOOD.encode(), None),
    ("a control character", GOOD.encode() + b"# \x07\n", "does not allow"),
    ("a lone surrogate escape", GOOD.replace("api", '"\\ud800"').encode(), "not valid YAML"),
    ("two documents", GOOD.encode() + b"---\n" + GOOD.encode(), "a second document"),
    ("a list at the top", b"- targets\n", "expected a mapping"),
    ("text at the top", b"targets\n", "expected a mapping"),
    ("a list as a key", b"targets:\n  ? [a, b]\n  : c\n", "a key that is a list"),
    ("a mapping as a key", b"? {a: b}\n: c\n", "a key that is a mapping"),
    ("a tab as indentation", b"targets:\n\tapi: {}\n", "not valid YAML"),
    ("an unclosed quote", b'targets: {api: "\n', "not valid YAML"),
    ("a file of 300 KiB", b"# " + b"x" * 300 * 1024, "expected at most"),
    ("30,000 values", b"targets: [" + b"x," * 30_000 + b"]", "more than 20000 values"),
    ("a directive of the future", b"%YAML 9.9\n---\ntargets: {}\n", "not valid YAML"),
    ("a custom directive", b"%FOO bar\n---\ntargets: {}\n", "not valid YAML"),
    ("an empty file", b"", None),
    ("only a comment", b"# hello\n", None),
]


@pytest.mark.parametrize(("data", "complaint"), [row[1:] for row in CORPUS], ids=[row[0] for row in CORPUS])
def test_document(data: bytes, complaint: str | None) -> None:
    began = time.process_time()
    found = check([parse_file(data, "f.yaml", UrlPolicy())]).problems
    took = time.process_time() - began

    lines = [str(problem) for problem in found]
    if complaint is None:
        assert lines == []
    else:
        assert any(complaint in line for line in lines), lines
        assert all(line.startswith("f.yaml") for line in lines)
        assert all(len(line) < 500 for line in lines)
    # Not a benchmark: a bound that only an explosion misses (the documents take a few milliseconds).
    assert took < 5


@given(st.binary(max_size=300) | st.text(alphabet="{}[]:,-&*!|>'\"%@`#? \n\tab0", max_size=200).map(str.encode))
def test_any_bytes_end_in_a_document_or_a_problem(data: bytes) -> None:
    document = yamltree.parse(data, "f.yaml")
    if document.fatal is not None:
        assert str(document.fatal).startswith("f.yaml")
    parse_file(data, "f.yaml", UrlPolicy())


def test_places_count_from_one() -> None:
    document = yamltree.parse(b"a:\n  b: [1, {c: d}]\n", "f.yaml")
    assert document.root is not None
    assert str(document.root.place_of(("a", "b", 1, "c"))) == "f.yaml:2:11"
    assert str(document.root.place_of(("a", "b", 7))) == "f.yaml:2:3"
