"""Secrets: read from files, decrypted, and masked in every form in which output may show them.

A value goes from its place into a step's environment and into the masks of that deploy's output, and nowhere
else. Which place counts is `vault.py`'s to say.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pyrage

MIN_MASKED = 4  # characters; masking shorter values would only garble output
MAX_SECRET_BYTES = 65_536
SOPS_TIMEOUT_S = 30.0


class SecretMissing(Exception):  # noqa: N818 - says what happened
    """A secret that the target names is not there; the text says where it was looked for."""


def as_text(name: str, data: bytes, place: str) -> str:
    """Return a secret's text without its last line end; raise SecretMissing for what no variable can hold."""
    if len(data) > MAX_SECRET_BYTES:
        raise SecretMissing(f"secret {name} is larger than {MAX_SECRET_BYTES} bytes: {place}")
    try:
        text = data.decode().strip("\r\n")
    except UnicodeDecodeError:
        raise SecretMissing(f"secret {name} is not UTF-8 text: {place}") from None
    if "\x00" in text:
        raise SecretMissing(f"secret {name} holds a NUL character: {place}")
    return text


def from_file(name: str, places: Iterable[Path]) -> str | None:
    """Return a secret from the first of some files that exists; None where none does."""
    for place in places:
        if not place.is_file():
            continue
        try:
            with place.open("rb") as file:
                data = file.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            raise SecretMissing(f"secret {name} cannot be read: {place}: {error.strerror}") from error
        return as_text(name, data, str(place))
    return None


def from_age(name: str, data: bytes, identity_file: str, place: str) -> str:
    """Return a secret that is encrypted with age for one of the identities in a file."""
    try:
        lines = Path(identity_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretMissing(f"secret {name}: the identities {identity_file} cannot be read") from error
    try:
        identities: list[Any] = [
            pyrage.x25519.Identity.from_str(line.strip()) for line in lines if line.startswith("AGE-SECRET-KEY-")
        ]
        if any("OPENSSH PRIVATE KEY" in line for line in lines):
            identities.append(pyrage.ssh.Identity.from_buffer("\n".join([*lines, ""]).encode()))
        return as_text(name, pyrage.decrypt(data, identities), place)
    except (pyrage.DecryptError, pyrage.IdentityError, ValueError) as error:
        raise SecretMissing(f"secret {name} cannot be decrypted by {identity_file}: {place}: {error}") from None


def from_sops(data: bytes, identity_file: str | None, place: str) -> dict[str, str]:
    """Return the top-level texts of a SOPS file, decrypted by the program `sops`."""
    env = {"PATH": os.environ.get("PATH", os.defpath)} | ({"SOPS_AGE_KEY_FILE": identity_file} if identity_file else {})
    command = ("sops", "decrypt", "--input-type", "yaml", "--output-type", "json", "/dev/stdin")
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=SOPS_TIMEOUT_S, check=False, env=env)
    except FileNotFoundError:
        raise SecretMissing(f"{place} needs the program sops, which is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SecretMissing(f"{place} cannot be decrypted: {error}") from None
    if done.returncode:
        raise SecretMissing(f"{place} cannot be decrypted: sops exited with {done.returncode}")
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SecretMissing(f"{place} is no mapping of names to texts")
    return {str(key): value for key, value in found.items() if isinstance(value, str)}


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
