"""Small fetches: one answer of a real server, unpacked into the mirror; and packs that must not be believed."""

from __future__ import annotations

import asyncio
import hashlib
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.repos import Repo, git
from support.servers import GitServer, serving

from reconciler.errors import SourceError, SourceReason
from reconciler.git import mirror, objects, packs
from reconciler.git.credentials import Credentials
from reconciler.git.library import PIN_REFS
from reconciler.git.packs import NotUsable
from reconciler.git.refs import Increment, Refs

TIMEOUT_S = 20.0
MAIN = "refs/heads/main"


class Pair:
    """A repository on a server, and a mirror that had everything a moment ago."""

    def __init__(self, root: Path, server: GitServer, repo: Repo) -> None:
        self.repo, self.server = repo, server
        self.url = f"{server.url}/app/.git"
        self.mirror = root / "mirrors" / "app.git"
        mirror.fetch(self.url, self.mirror, [repo.head], None)
        self.server.requests.clear()

    def ask(self, *wants: str, expectant: bool = False) -> Increment | None:
        async def nobody(*_: Any) -> Any:
            raise AssertionError("no worker is asked")

        async def go() -> Increment | None:
            refs = Refs(Credentials([]), self.mirror.parent, TIMEOUT_S, nobody, nobody)
            try:
                tags = (await refs.poll_with_tags(self.url, [MAIN]))[1] if expectant else None
                return await refs.increment(self.url, wants, objects.tips(self.mirror, 32), tags)
            finally:
                await refs.close()

        return asyncio.run(go())

    def forward(self, *wants: str, pins: tuple[str, ...] = (), expectant: bool = False) -> None:
        found = self.ask(*wants, expectant=expectant)
        assert found is not None
        packs.unpack(self.mirror, found.pack, {MAIN: self.repo.head}, found.tags, pins)

    def refs(self) -> dict[str, str]:
        lines = git(self.mirror, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ") for line in lines)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    repo = Repo(tmp_path / "root" / "app")
    chance = random.Random(1)
    repo.commit({"Makefile": "deploy:\n", "big.txt": "".join(f"{chance.random()}\n" for _ in range(2_000))})
    with serving(repo.path.parent) as server:
        yield Pair(tmp_path, server, repo)


def whole(pair: Pair) -> None:
    git(pair.mirror, "-c", "safe.directory=*", "fsck", "--full", "--strict")


@pytest.mark.parametrize("expectant", [False, True], ids=["tags asked beside", "tags told by the poll"])
def test_a_new_commit_comes_in_one_answer(pair: Pair, expectant: bool) -> None:
    # A changed line of a large file: a delta against an object that only the mirror has.
    text = (pair.repo.path / "big.txt").read_text()
    new = pair.repo.commit({"big.txt": text.replace("0.5", "0.6"), "more/x.txt": "x", "more/y.txt": "y" * 4000})
    pair.forward(new, pins=(new,), expectant=expectant)
    assert pair.refs()[MAIN] == new
    assert pair.refs()[PIN_REFS + new] == new
    whole(pair)
    posts = [line for line in pair.server.requests if line.startswith("POST")]
    assert len(posts) == 2  # one for refs, one for the pack


def test_many_commits_and_merges_come_too(pair: Pair) -> None:
    git(pair.repo.path, "checkout", "-q", "-b", "side")
    for number in range(20):
        pair.repo.commit({f"d{number % 3}/f{number}.txt": f"{number}\n" * 50})
    git(pair.repo.path, "checkout", "-q", "main")
    pair.repo.commit({"other.txt": "o"})
    git(pair.repo.path, "merge", "-q", "--no-ff", "-m", "merge", "side")
    pair.forward(pair.repo.head)
    whole(pair)
    assert git(pair.mirror, "rev-list", "--count", "main") == "23"


def test_tags_come_with_what_they_name_and_go_when_they_are_gone(pair: Pair) -> None:
    git(pair.repo.path, "tag", "old")
    pair.forward()
    assert "refs/tags/old" in pair.refs()
    git(pair.repo.path, "tag", "-d", "old")
    new = pair.repo.commit()
    git(pair.repo.path, "tag", "-a", "v1", "-m", "one")
    git(pair.repo.path, "tag", "light")
    pair.forward(new)
    refs = pair.refs()
    assert "refs/tags/old" not in refs
    assert refs["refs/tags/light"] == new
    assert refs["refs/tags/v1"] == git(pair.repo.path, "rev-parse", "v1")
    whole(pair)


def test_an_annotated_tag_of_an_old_commit_needs_a_whole_fetch(pair: Pair) -> None:
    git(pair.repo.path, "tag", "-a", "late", "-m", "late")
    new = pair.repo.commit()
    before = pair.refs()
    with pytest.raises(NotUsable, match="a tag was not sent"):
        pair.forward(new)
    assert pair.refs() == before


def test_a_rewound_branch_needs_no_pack(pair: Pair) -> None:
    first = pair.repo.head
    pair.repo.commit()
    pair.forward(pair.repo.head)
    pair.repo.reset(first)
    pair.server.requests.clear()
    pair.forward()
    assert pair.refs()[MAIN] == first
    assert len([line for line in pair.server.requests if line.startswith("POST")]) == 1


def test_a_branch_that_is_gone_goes(pair: Pair) -> None:
    packs.unpack(pair.mirror, b"", {MAIN: None}, {}, ())
    assert MAIN not in pair.refs()


def test_a_submodule_is_named_and_not_fetched(pair: Pair) -> None:
    git(pair.repo.path, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    git(pair.repo.path, "commit", "-qm", "submodule")
    pair.forward(pair.repo.head)
    assert pair.refs()[MAIN] == pair.repo.head


def test_a_commit_that_the_server_has_not_got_is_left_to_a_whole_fetch(pair: Pair) -> None:
    assert pair.ask("1" * 40) is None


def test_a_server_without_version_2_is_left_to_a_whole_fetch(pair: Pair) -> None:
    pair.server.speaks_v2 = False
    assert pair.ask(pair.repo.commit()) is None


@pytest.mark.parametrize(("status", "reason"), [("401 No", "authentication_failed"), ("429 Slow", "rate_limited")])
def test_a_refusal_is_told_at_once(pair: Pair, status: str, reason: str) -> None:
    pair.server.answer = (status, [], b"")
    with pytest.raises(SourceError) as error:
        pair.ask(pair.repo.commit())
    assert error.value.reason is SourceReason(reason)


# --- packs that must not be believed ----------------------------------------------------------------------


def entry(kind: int, data: bytes, size: int | None = None) -> bytes:
    """Return one entry of a pack, which says that it has `size` bytes."""
    length = len(data) if size is None else size
    head, length = [kind << 4 | length & 15], length >> 4
    while length:
        head[-1] |= 0x80
        head.append(length & 0x7F)
        length >>= 7
    return bytes(head) + zlib.compress(data)


def pack_of(*entries: bytes, count: int | None = None) -> bytes:
    body = b"PACK\0\0\0\2" + (len(entries) if count is None else count).to_bytes(4, "big") + b"".join(entries)
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


COMMIT, TREE, BLOB, NAMED = 1, 2, 3, 7
TEXT = b"tree %s\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nx"
NOWHERE = b"2" * 40
SAMPLES: dict[str, Callable[[], bytes]] = {
    "nothing of a pack": lambda: b"hello, I am a pack" * 3,
    "a wrong checksum": lambda: pack_of(entry(BLOB, b"x"))[:-1] + b"\0",
    "version 3": lambda: pack_of(entry(BLOB, b"x")).replace(b"\0\0\0\2", b"\0\0\0\3", 1),
    "more objects than are there": lambda: pack_of(entry(BLOB, b"x"), count=3),
    "millions of objects": lambda: pack_of(count=10_000_000),
    "a size that is too small": lambda: pack_of(entry(BLOB, b"x" * 100, 10)),
    "a size that is too large": lambda: pack_of(entry(BLOB, b"x" * 100, 200)),
    "a size beyond all bounds": lambda: pack_of(entry(BLOB, b"x", 1 << 40)),
    "a bomb": lambda: pack_of(*[entry(BLOB, bytes(packs.MAX_BYTES // 4))] * 5),
    "an unknown kind": lambda: pack_of(entry(5, b"x")),
    "a delta without its base": lambda: pack_of(bytes([NAMED << 4 | 1]) + b"\3" * 20 + zlib.compress(b"x")),
    "a delta before the beginning": lambda: pack_of(bytes([6 << 4 | 1, 0x7F]) + zlib.compress(b"x")),
    "a delta that is damaged": lambda: pack_of(entry(BLOB, b"base"), bytes([6 << 4 | 4, 13]) + zlib.compress(b"abcd")),
    "garbage in place of zlib": lambda: pack_of(bytes([BLOB << 4 | 5]) + b"garbage"),
    "something else than was wanted": lambda: pack_of(entry(BLOB, b"x")),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_pack_that_cannot_be_believed_changes_no_ref(pair: Pair, name: str) -> None:
    before, wanted = pair.refs(), pair.repo.commit()
    with pytest.raises(NotUsable):
        packs.unpack(pair.mirror, SAMPLES[name](), {MAIN: wanted}, {}, (wanted,))
    assert pair.refs() == before
    mirror.fetch(pair.url, pair.mirror, [wanted], None)  # what follows then
    assert pair.refs()[MAIN] == wanted


def test_a_commit_without_its_tree_is_not_whole(pair: Pair) -> None:
    text = TEXT % NOWHERE
    name = hashlib.sha1(b"commit %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    with pytest.raises(NotUsable, match="which was not sent"):
        packs.unpack(pair.mirror, pack_of(entry(COMMIT, text)), {MAIN: name}, {}, ())


def test_a_tree_without_its_blob_is_not_whole(pair: Pair) -> None:
    tree = b"100644 a\0" + b"\2" * 20
    oid = hashlib.sha1(b"tree %d\0" % len(tree) + tree, usedforsecurity=False).hexdigest()
    text = TEXT % oid.encode()
    name = hashlib.sha1(b"commit %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    with pytest.raises(NotUsable, match="which was not sent"):
        packs.unpack(pair.mirror, pack_of(entry(COMMIT, text), entry(TREE, tree)), {MAIN: name}, {}, ())


def test_what_nothing_leads_to_is_not_written(pair: Pair) -> None:
    packs.unpack(pair.mirror, pack_of(entry(BLOB, b"garbage")), {MAIN: pair.repo.head}, {}, ())
    oid = hashlib.sha1(b"blob 7\0garbage", usedforsecurity=False).hexdigest()
    assert git(pair.mirror, "cat-file", "-t", oid, check=False) == ""


def test_flipped_bytes_never_pass(pair: Pair) -> None:
    new = pair.repo.commit({"x.txt": "x" * 3_000, "y.txt": "y"})
    found = pair.ask(new)
    assert found is not None
    before, chance = pair.refs(), random.Random(7)
    for _ in range(300):
        wrong = bytearray(found.pack[:-20])
        for _ in range(chance.randint(1, 3)):
            wrong[chance.randrange(12, len(wrong))] ^= 1 << chance.randrange(8)
        # With the right checksum, so that what is behind it is tried.
        signed = bytes(wrong) + hashlib.sha1(wrong, usedforsecurity=False).digest()
        try:
            packs.unpack(pair.mirror, signed, {MAIN: new}, {}, ())
        except NotUsable:
            assert pair.refs() == before
        else:  # only bits that mean nothing (zlib's level hints): the content has its ids
            assert pair.refs() == {**before, MAIN: new}
            git(pair.mirror, "update-ref", MAIN, before[MAIN])
    whole(pair)
