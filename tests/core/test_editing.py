from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.deployments import UrlPolicy, parse_file
from reconciler.config.editing import CannotEdit, has_target, set_commit

OLD, NEW = "a" * 40, "b" * 40
FILE = f"""\
# yaml-language-server: $schema=…
defaults: {{repo: "https://git.example.com/acme/api.git"}}   # für alle
targets:
  api:      # the front door
    commit: {OLD}    # pinned by ada
    follow: main
  web: {{commit: '{OLD}', follow: main}}
  "quoted":
      commit: "{OLD}"
  follower:
    # a comment before the first key
    follow: {{branch: main, write: true}}
"""


def edited(target: str, text: str = FILE) -> list[tuple[str, str]]:
    """Return the lines that differ."""
    data, _ = set_commit(text.encode(), "f.yaml", target, NEW)
    before, after = text.split("\n"), data.decode().split("\n")
    assert len(before) == len(after)
    return [(old, new) for old, new in zip(before, after, strict=True) if old != new]


def test_one_value_changes_and_every_other_byte_stays() -> None:
    assert edited("api") == [(f"    commit: {OLD}    # pinned by ada", f"    commit: {NEW}    # pinned by ada")]
    assert edited("web") == [(f"  web: {{commit: '{OLD}', follow: main}}", f"  web: {{commit: '{NEW}', follow: main}}")]
    assert edited("quoted") == [(f'      commit: "{OLD}"', f'      commit: "{NEW}"')]


def test_the_pin_before_is_told() -> None:
    assert set_commit(FILE.encode(), "f.yaml", "api", NEW)[1] == OLD
    assert set_commit(FILE.encode(), "f.yaml", "follower", NEW)[1] is None


def test_a_missing_pin_gets_a_line_of_its_own() -> None:
    data, _ = set_commit(FILE.encode(), "f.yaml", "follower", NEW)
    expected = FILE.replace("    follow: {branch", f"    commit: {NEW}\n    follow: {{branch")
    assert data.decode() == expected


def test_line_ends_stay_what_they_were() -> None:
    text = FILE.replace("\n", "\r\n").encode()
    for target in ("api", "follower"):
        data, _ = set_commit(text, "f.yaml", target, NEW)
        assert data.count(b"\r\n") == data.count(b"\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("targets: {}\n", "declares no target api"),
        ("[", "declares no target api"),
        ("targets: [api]\n", "declares no target api"),
        ("- x\n", "declares no target api"),
        ("targets:\n  api: main\n", "has nothing below it"),
        ("targets:\n  api: {follow: main}\n", "written on one line"),
        ("targets:\n  api: {}\n", "written on one line"),
        ("targets:\n  api:\n    commit: main\n", "expected a full commit id"),
        (f"targets:\n  api:\n    commit: [x, {OLD}]\n", "expected a full commit id"),
    ],
)
def test_what_cannot_be_edited_is_said_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(CannotEdit, match=complaint):
        set_commit(text.encode(), "f.yaml", "api", NEW)


def test_a_file_knows_its_targets() -> None:
    assert has_target(FILE.encode(), "f.yaml", "web")
    assert not has_target(FILE.encode(), "f.yaml", "main")


@given(st.permutations(["api", "web", "quoted", "follower"]))
def test_what_was_edited_parses_to_the_new_pins(order: list[str]) -> None:
    data = FILE.encode()
    for target in order:
        data, _ = set_commit(data, "f.yaml", target, NEW)
    parsed = parse_file(data, "f.yaml", UrlPolicy())
    assert {entry.name: entry.target and entry.target.commit for entry in parsed.entries} == dict.fromkeys(order, NEW)
