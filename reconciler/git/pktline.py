"""Git's wire format, protocol version 2, as far as polling needs it. Bytes in, values out.

Source: gitprotocol-common(5) and gitprotocol-v2(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from reconciler.text import is_text, safe

FLUSH = b"0000"
DELIMITER = b"0001"
MAX_LINE = 65_520
_DATA, _PROGRESS = b"\1", b"\2"  # side bands; the third is an error
_REF = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) (\S{1,4096})((?: \S+)*)\n?")


class NotPktLine(ValueError):  # noqa: N818 - named as what it is
    """The bytes are not what a git server of version 2 sends."""


def encode(line: bytes) -> bytes:
    """Return one line with its length before it."""
    return b"%04x%s" % (len(line) + 4, line)


def ls_refs(object_format: str, prefixes: Sequence[str]) -> bytes:
    """Return the body of an ls-refs request for the refs that begin with one of `prefixes`."""
    lines = [encode(b"command=ls-refs\n"), encode(b"agent=git/reconciler\n")]
    lines.append(encode(f"object-format={object_format}\n".encode()))
    lines.append(DELIMITER)
    lines += [encode(b"peel\n"), encode(b"symrefs\n")]
    lines += [encode(f"ref-prefix {prefix}\n".encode()) for prefix in prefixes]
    return b"".join([*lines, FLUSH])


def fetch(object_format: str, wants: Sequence[str], haves: Sequence[str]) -> bytes:
    """Return the body of a fetch of `wants` by who has `haves`: one round, no negotiation, annotated tags with it."""
    lines = [encode(b"command=fetch\n"), encode(b"agent=git/reconciler\n")]
    lines.append(encode(f"object-format={object_format}\n".encode()))
    lines.append(DELIMITER)
    lines += [encode(word) for word in (b"thin-pack\n", b"ofs-delta\n", b"no-progress\n", b"include-tag\n")]
    lines += [encode(f"want {commit}\n".encode()) for commit in wants]
    lines += [encode(f"have {commit}\n".encode()) for commit in haves]
    return b"".join([*lines, encode(b"done\n"), FLUSH])


def lines(data: bytes) -> Iterator[bytes | None]:
    """Yield the lines of `data`, None for a flush or delimiter. Raises NotPktLine."""
    position = 0
    while position < len(data):
        prefix = data[position : position + 4]
        if not re.fullmatch(rb"[0-9a-f]{4}", prefix):
            raise NotPktLine("the answer is not git's protocol")
        length = int(prefix, 16)
        if length in (0, 1, 2):
            position += 4
            yield None
        elif length < 4 or length > MAX_LINE or position + length > len(data):  # noqa: PLR2004 - the prefix itself
            raise NotPktLine("the answer ends within a line")
        else:
            yield data[position + 4 : position + length]
            position += length


def capabilities(body: bytes) -> dict[str, str] | None:
    """Return the capabilities of an advertisement of version 2; None for anything else."""
    try:
        found = [line.rstrip(b"\n") for line in lines(body) if line is not None]
    except NotPktLine:
        return None
    if found and found[0].startswith(b"# service="):
        found = found[1:]
    if not found or found[0] != b"version 2":
        return None
    pairs = (line.decode(errors="replace").partition("=") for line in found[1:])
    return {name: value for name, _, value in pairs}


def pack(body: bytes) -> bytes:
    """Return the pack of an answer to a fetch. Raises NotPktLine, for an error that the server tells as well."""
    found = bytearray()
    sections = lines(body)
    for line in sections:
        if line is not None and line.rstrip(b"\n") == b"packfile":
            break
        if line is not None and line.startswith(b"ERR "):
            raise NotPktLine("the server says: " + safe(line[4:200].decode(errors="replace").strip()))
    for line in sections:
        if line is None:
            return bytes(found)
        if line[:1] == _DATA:
            found += line[1:]
        elif line[:1] != _PROGRESS:
            raise NotPktLine("the server says: " + safe(line[1:200].decode(errors="replace").strip()))
    raise NotPktLine("the answer holds no whole pack")


def refs(body: bytes, *, peel: bool) -> dict[str, str]:
    """Return ref names to what they name; to commits, where tags are to be peeled. Raises NotPktLine.

    An empty body is not an empty repository: it is what a server answers that did not see our header.
    """
    if not body.endswith(FLUSH):
        raise NotPktLine("the answer is empty or cut off")
    found = {}
    for line in lines(body):
        if line is None:
            continue
        match = _REF.fullmatch(line)
        if not match:
            raise NotPktLine("the answer holds a line that is not a ref")
        name = match[2].decode(errors="surrogateescape")
        if not is_text(name):
            continue  # no configuration can name it
        peeled = re.search(rb" peeled:([0-9a-f]{40,64})(?: |$)", match[3]) if peel else None
        found[name] = (peeled[1] if peeled else match[1]).decode()
    return found
