"""Secrets: found by name in a directory of files, and masked in every form in which output may show them.

A value goes from its file into a step's environment and into the masks of that deploy's output, and nowhere
else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

MIN_MASKED = 4  # characters; masking shorter values would only garble output
MAX_SECRET_BYTES = 65_536


class SecretMissing(Exception):  # noqa: N818 - says what happened
    """A secret that the target names is not there; the text says where it was looked for."""


def read_secrets(folder: str | None, target: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return variables with the values of secrets, read now (files may be rotated). Raises SecretMissing."""
    return {variable: _read(folder, target, name) for variable, name in names.items()}


def _read(folder: str | None, target: str, name: str) -> str:
    if folder is None:
        raise SecretMissing(f"secret {name} cannot be read: the daemon's settings have no secrets_dir")
    places = (Path(folder) / target / name, Path(folder) / name)
    for place in places:
        if not place.is_file():
            continue
        try:
            data = place.read_bytes()
            if len(data) > MAX_SECRET_BYTES:
                raise SecretMissing(f"secret {name} is larger than {MAX_SECRET_BYTES} bytes: {place}")
            text = data.decode().strip("\r\n")
        except OSError as error:
            raise SecretMissing(f"secret {name} cannot be read: {place}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise SecretMissing(f"secret {name} is not UTF-8 text: {place}") from None
        if "\x00" in text:
            raise SecretMissing(f"secret {name} holds a NUL character: {place}")
        return text
    raise SecretMissing(f"secret {name} is missing; put it into {places[0]} or {places[1]}")


def masks(values: Iterable[str]) -> list[str]:
    """Return every text that must not be shown: the values, their lines, and their usual encodings."""
    found: set[str] = set()
    for value in values:
        for text in {value, *value.splitlines()}:
            if len(text) >= MIN_MASKED:
                found |= {text, quote(text, safe=""), quote_plus(text), json.dumps(text)[1:-1], *_base64(text)}
    return sorted(mask for mask in found if len(mask) >= MIN_MASKED)


def _base64(text: str) -> Iterable[str]:
    """Yield what stays the same in base64 whatever stands before the text, such as `user:`."""
    data = text.encode()
    for lead in range(3):
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = alphabet(b"\0" * lead + data).decode().rstrip("=")
            # The first characters mix with what stands before, the last with what comes after.
            first = (lead * 8 + 5) // 6
            last = (lead + len(data)) * 8 // 6
            yield encoded[first:last]
