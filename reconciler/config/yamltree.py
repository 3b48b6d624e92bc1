"""YAML as data: bytes in, a tree of nodes with their places out, or problems.

Built from libyaml's events with a stack of our own, so depth, number and size are bounded before anything
is made of them (PyYAML's composing loader crashes the process at about 25,000 nested brackets). Anchors,
aliases and tags are refused, duplicate keys are problems, and every scalar stays text: no octal numbers, no
dates, no `no` that means false. A plain empty scalar, `~` or `null` is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from reconciler.config.problems import Place, Problem, dotted

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_EVENTS = 20_000
_NULLS = ("", "~", "null", "Null", "NULL")

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Node:
    """A value with its place: text, None, a list of nodes, or a mapping whose keys have places too."""

    place: Place
    value: str | list[Node] | dict[str, Node] | None
    keys: dict[str, Place] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it is, in words."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        return "nothing" if self.value is None else "text"

    def plain(self) -> object:
        """Return the value without places. The depth bound makes recursion safe."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def place_of(self, path: Sequence[str | int]) -> Place:
        """Return where `path` stands below this node: its key's place, or the nearest one that exists."""
        node, place = self, self.place
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                place, node = node.keys[str(part)], node.value[str(part)]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                place = node.place
            else:
                break
        return place


@dataclass(frozen=True, slots=True)
class Flaw:
    """A problem inside the tree, with the path of the entry that it spoils."""

    path: Path
    problem: Problem


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed file. `fatal` means that there is no tree; `flaws` spoil single entries only."""

    root: Node | None
    fatal: Problem | None = None
    flaws: tuple[Flaw, ...] = ()


class _Fatal(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(slots=True)
class _Open:
    """A mapping or list that is still being filled."""

    node: Node
    path: Path
    key: str | None = None
    skip: bool = False  # the next value belongs to a duplicate key


class _Builder:
    def __init__(self, file: str) -> None:
        self._file = file
        self._stack: list[_Open] = []
        self._documents = 0
        self.root: Node | None = None
        self.flaws: list[Flaw] = []

    def _place(self, mark: Any) -> Place:
        return Place(self._file, mark.line + 1, mark.column + 1)

    def _here(self) -> Path:
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.node.value, list):
            return (*top.path, len(top.node.value))
        return top.path if top.key is None else (*top.path, top.key)

    def _flaw(self, mark: Any, message: str) -> None:
        path = self._here()
        self.flaws.append(Flaw(path, Problem(self._place(mark), dotted(path), message)))

    def add(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):  # first: nearly all events are scalars
            self._check_properties(event)
            self._scalar(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                message = "a second document; expected one document a file"
                raise _Fatal(Problem(self._place(event.start_mark), "", message))
        elif isinstance(event, yaml.AliasEvent):
            self._flaw(event.start_mark, "an alias (*name); write the value out")
            self._put(Node(self._place(event.start_mark), None))
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._check_properties(event)
            self._open(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._stack.pop()

    def _check_properties(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.anchor is not None:
            self._flaw(event.start_mark, f"an anchor (&{event.anchor}); YAML is plain data here")
        if event.tag is not None and event.tag != "!":
            self._flaw(event.start_mark, "a tag (!name); YAML is plain data here")

    def _open(self, event: yaml.NodeEvent) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if len(self._stack) >= MAX_DEPTH:
            problem = Problem(self._place(event.start_mark), "", f"nested more than {MAX_DEPTH} levels deep")
            raise _Fatal(problem)
        path = self._here()
        node = Node(self._place(event.start_mark), {} if mapping else [])
        self._put(node)
        self._stack.append(_Open(node, path))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.node.value, dict) and top.key is None:
            self._key(top, event)
            return
        plain = not event.style
        text = None if plain and event.value in _NULLS else event.value
        self._put(Node(self._place(event.start_mark), text))

    def _key(self, top: _Open, event: yaml.ScalarEvent) -> None:
        place, mapping = self._place(event.start_mark), top.node.value
        assert isinstance(mapping, dict)  # noqa: S101 - the caller looked
        key = event.value
        top.key = key
        top.skip = key in mapping
        if top.skip:
            first = top.node.keys[key].line
            path = (*top.path, key)
            problem = Problem(place, dotted(path), f"a duplicate key; it stands in line {first} already")
            self.flaws.append(Flaw(path, problem))
        else:
            top.node.keys[key] = place

    def _put(self, node: Node) -> None:
        if not self._stack:
            self.root = node
            return
        top = self._stack[-1]
        if isinstance(top.node.value, list):
            top.node.value.append(node)
            return
        assert isinstance(top.node.value, dict)  # noqa: S101 - only lists and mappings are opened
        if top.key is None:
            raise _Fatal(Problem(node.place, dotted(top.path), f"a key that is {node.kind}; expected text"))
        if not top.skip:
            top.node.value[top.key] = node
        top.key, top.skip = None, False


def parse(data: bytes, file: str) -> Document:
    """Return the document in `data`; never raises for anything that the bytes hold."""
    if len(data) > MAX_BYTES:
        return _broken(Place(file), f"a file of {len(data)} bytes; expected at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _broken(_place_at(file, data[: error.start].decode("utf-8", "replace")), "a byte that is not UTF-8")
    builder = _Builder(file)
    try:
        for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
            if count > MAX_EVENTS:
                return _broken(builder._place(event.start_mark), f"more than {MAX_EVENTS} values in one file")  # noqa: SLF001
            builder.add(event)
    except _Fatal as error:
        return Document(None, error.problem)
    except yaml.reader.ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        return _broken(_place_at(file, text[:position]), "a character that YAML does not allow")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        context = f" ({error.context})" if error.context else ""
        return _broken(place, f"not valid YAML: {error.problem or 'it cannot be read'}{context}")
    except (yaml.YAMLError, ValueError) as error:  # pragma: no cover - no input is known that leads here
        return _broken(Place(file), f"not valid YAML: {error}")
    return Document(builder.root, None, tuple(builder.flaws))


def _place_at(file: str, before: str) -> Place:
    return Place(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _broken(place: Place, message: str) -> Document:
    return Document(None, Problem(place, "", message))
