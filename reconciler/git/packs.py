"""Unpacking a small pack into a mirror, in a worker process: bytes of a server in, checked objects and refs out.

Every object gets the id that its content has, so nothing can pose as something else; what is left to check is that
nothing is missing. Refs are written last, and only over objects that are whole. Anything odd is NotUsable: the whole
fetch by libgit2 follows then, which needs none of this. Source of the format: gitformat-pack(5).
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

from reconciler.git import mirror
from reconciler.git.library import TAGS
from reconciler.text import is_text

MAX_OBJECTS = 20_000
MAX_BYTES = 64 * 1024 * 1024  # unpacked
_PIECE = 16 * 1024
_TYPES = {1: ObjectType.COMMIT, 2: ObjectType.TREE, 3: ObjectType.BLOB, 4: ObjectType.TAG}
_OFFSET_DELTA, _NAMED_DELTA = 6, 7
_TREE_ENTRY = re.compile(rb"([0-7]{5,6}) [^\0]+\0(.{20})", re.DOTALL)
_NAMED = re.compile(rb"(?:tree|parent|object) ([0-9a-f]{40})")
_GITLINK = b"160000"  # a submodule's commit lies in another repository

Object = tuple[ObjectType, bytes]


class NotUsable(Exception):  # noqa: N818 - named as what it is
    """The pack is damaged, too large or incomplete."""


def unpack(
    folder: Path, pack: bytes, heads: Mapping[str, str | None], tags: Mapping[str, str], pins: Sequence[str]
) -> None:
    """Bring a mirror forward by a pack, which may be empty.

    Then it has `heads` (ref to commit, or None for a ref that is gone), all of `tags` and no others, and `pins`.
    Raises NotUsable, with every ref as it was.
    """
    with mirror.locked(folder):
        mirror.remove_leftovers(folder)
        try:
            repository = pygit2.Repository(str(folder))
            added = _objects(pack, repository.odb)
            _require_commits(added, repository, {*filter(None, heads.values()), *pins})
            old = {ref.name: str(ref.target) for ref in repository.listall_reference_objects() if is_text(ref.name)}
            new = {name: target for name, target in {**heads, **tags}.items() if target and old.get(name) != target}
            if any(target not in added and target not in repository for target in new.values()):
                raise NotUsable("a tag was not sent")  # of a commit that we had already, or do not follow
            for name in _needed(added, repository.odb, {*new.values(), *pins}):
                repository.odb.write(*added[name])
            for name in old:
                if heads.get(name, "") is None or (name.startswith(TAGS) and name not in tags):
                    repository.references.delete(name)
            for name, target in new.items():
                repository.references.create(name, target, force=True)
        except (pygit2.GitError, KeyError, ValueError, IndexError, zlib.error) as error:
            raise NotUsable(str(error)) from error
        for pin in pins:
            mirror.hold(repository, pin)


def _require_commits(added: Mapping[str, Object], repository: pygit2.Repository, wanted: Iterable[str]) -> None:
    for commit in wanted:
        sent = added.get(commit)
        if sent[0] != ObjectType.COMMIT if sent else not isinstance(repository.get(commit), pygit2.Commit):
            raise NotUsable(f"commit {commit} was not sent")


def _needed(added: Mapping[str, Object], odb: pygit2.Odb, targets: Iterable[str]) -> set[str]:
    """Return which of the objects the targets lead to; raise NotUsable where one that they lead to is not there.

    What we had before is whole: it was checked when it came.
    """
    needed: set[str] = set()
    pending = [name for name in targets if name in added]
    while pending:
        name = pending.pop()
        needed.add(name)
        for child in _names(*added[name]):
            if child in added:
                if child not in needed:
                    pending.append(child)
            elif not odb.exists(child):
                raise NotUsable(f"{name} names {child}, which was not sent")
    return needed


def _names(kind: ObjectType, data: bytes) -> Iterator[str]:
    """Yield the ids that an object names, but for those of submodules."""
    if kind == ObjectType.TREE:
        yield from (found[2].hex() for found in _TREE_ENTRY.finditer(data) if found[1] != _GITLINK)
    elif kind != ObjectType.BLOB:
        yield from (found[1].decode() for found in _NAMED.finditer(data.partition(b"\n\n")[0]))


def _objects(pack: bytes, odb: pygit2.Odb) -> dict[str, Object]:
    """Return the objects of a pack by their ids; nothing is written."""
    by_id: dict[str, Object] = {}
    if not pack:
        return by_id
    if hashlib.sha1(pack[:-20], usedforsecurity=False).digest() != pack[-20:]:
        raise NotUsable("the pack is damaged")
    count = int.from_bytes(pack[8:12], "big")
    if pack[:8] != b"PACK\0\0\0\2" or count > MAX_OBJECTS:
        raise NotUsable(f"no pack of version 2 with at most {MAX_OBJECTS} objects")
    view, position, room = memoryview(pack)[:-20], 12, MAX_BYTES
    by_offset: dict[int, Object] = {}
    for _ in range(count):
        offset = position
        kind, size, position = _head(view, position)
        base: Object | None = None
        if kind == _OFFSET_DELTA:
            back, position = _distance(view, position)
            base = by_offset[offset - back]
        elif kind == _NAMED_DELTA:
            # In the mirror, or before it in the pack. git does not send one that comes later.
            name, position = bytes(view[position : position + 20]), position + 20
            base = by_id.get(name.hex()) or _read(odb, name)
        data, position = _inflated(view, position, size)
        made = (_TYPES[kind], data) if base is None else (base[0], _applied(data, base[1]))
        room -= len(data) + len(made[1])
        if room < 0:
            raise NotUsable(f"the pack holds more than {MAX_BYTES} bytes")
        by_offset[offset] = by_id[_id(made)] = made
    return by_id


def _id(found: Object) -> str:
    head = b"%s %d\0" % (found[0].name.lower().encode(), len(found[1]))
    return hashlib.sha1(head + found[1], usedforsecurity=False).hexdigest()


def _read(odb: pygit2.Odb, name: bytes) -> Object:
    kind, data = odb.read(pygit2.Oid(raw=name))
    return ObjectType(kind), data


def _head(view: memoryview, position: int) -> tuple[int, int, int]:
    """Return type and size of an entry, and where what follows begins."""
    byte = view[position]
    kind, size, shift = byte >> 4 & 7, byte & 15, 4
    while byte & 0x80:
        position += 1
        byte = view[position]
        size |= (byte & 0x7F) << shift
        shift += 7
    return kind, size, position + 1


def _distance(view: memoryview, position: int) -> tuple[int, int]:
    """Return how far back the base of a delta begins, and where what follows begins."""
    byte = view[position]
    back = byte & 0x7F
    while byte & 0x80:
        position += 1
        byte = view[position]
        back = (back + 1) << 7 | byte & 0x7F
    return back, position + 1


def _inflated(view: memoryview, position: int, size: int) -> tuple[bytes, int]:
    """Return the data of an entry, exactly `size` bytes, and where the next one begins."""
    if size > MAX_BYTES:
        raise NotUsable(f"the pack holds more than {MAX_BYTES} bytes")
    stream, data = zlib.decompressobj(), b""
    while not stream.eof:
        piece = view[position : position + _PIECE]
        data += stream.decompress(piece, size + 1 - len(data))
        if len(data) > size or not (piece or stream.eof):
            raise NotUsable("an object of the pack has another size than it says")
        position += len(piece) - len(stream.unused_data) - len(stream.unconsumed_tail)
    if len(data) != size:
        raise NotUsable("an object of the pack has another size than it says")
    return data, position


def _applied(delta: bytes, base: bytes) -> bytes:
    """Return what a delta makes of its base."""
    view = memoryview(delta)
    expected, position = _length(view, 0)
    size, position = _length(view, position)
    if expected != len(base) or size > MAX_BYTES:
        raise NotUsable("a delta does not fit its base")
    pieces, made = [], 0
    while position < len(delta):
        code = delta[position]
        position += 1
        if code & 0x80:
            start, position = _flagged(delta, position, code & 0x0F, 4)
            length, position = _flagged(delta, position, code >> 4 & 7, 3)
            piece = base[start : start + (length or 0x10000)]
        else:
            piece = delta[position : position + code]
            position += code
        pieces.append(piece)
        made += len(piece)
        if not piece or made > size:
            raise NotUsable("a delta is damaged")
    if made != size:
        raise NotUsable("a delta is damaged")
    return b"".join(pieces)


def _length(view: memoryview, position: int) -> tuple[int, int]:
    """Return a length of a delta's head, and where what follows begins."""
    length = shift = 0
    while True:
        byte = view[position]
        length |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return length, position


def _flagged(delta: bytes, position: int, flags: int, count: int) -> tuple[int, int]:
    """Return a little-endian number of which only the bytes that `flags` names are written."""
    value = 0
    for index in range(count):
        if flags & 1 << index:
            value |= delta[position] << 8 * index
            position += 1
    return value, position
