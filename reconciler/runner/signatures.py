"""Who signed a commit, asked of the programs that know: ssh-keygen for SSH signatures, gpgv for OpenPGP.

Both only get files that we wrote and keys that the operator named; nothing of a repository reaches a command line.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.settings import KeySet

TIMEOUT_S = 10.0
NAMESPACE = "git"  # what git signs commits for; a signature of another program's file does not count
_SSH = "-----BEGIN SSH SIGNATURE-----"
_PGP = ("-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP MESSAGE-----")
_ARMOUR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n(.*?)\r?\n=[A-Za-z0-9+/]{4}", re.DOTALL
)
_BAD_STATUS = ("EXPSIG", "EXPKEYSIG", "REVKEYSIG", "BADSIG", "ERRSIG")


class CannotVerify(Exception):  # noqa: N818 - says what it is
    """A signature cannot be checked here: a program or a file of keys is missing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one of the key sets trusts a signature, and who made it, for people."""

    trusted: bool
    signer: str


def verify(payload: bytes, signature: str, key_sets: Sequence[KeySet]) -> Verdict:
    """Return who signed `payload`, and whether one of the key sets trusts that. Raises CannotVerify."""
    with tempfile.TemporaryDirectory(prefix="reconciler-") as folder:
        root = Path(folder)
        (root / "payload").write_bytes(payload)
        (root / "signature").write_text(signature, encoding="utf-8")
        if signature.startswith(_SSH):
            return _ssh(root, [keys.allowed_signers_file for keys in key_sets if keys.allowed_signers_file])
        if signature.startswith(_PGP):
            return _gpg(root, [keys.gpg_keys_file for keys in key_sets if keys.gpg_keys_file])
    return Verdict(trusted=False, signer="a signature of an unknown kind")


def _run(root: Path, *command: str) -> tuple[int, str]:
    """Return exit code and output of a program that gets the payload, byte by byte as it was signed."""
    try:
        done = subprocess.run(
            command,
            input=(root / "payload").read_bytes(),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(root), "LANG": "C.UTF-8"},
        )
    except FileNotFoundError:
        raise CannotVerify(f"{command[0]} is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotVerify(f"{command[0]} failed: {error}") from error
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape")


def _ssh(root: Path, files: Sequence[str]) -> Verdict:
    signature = ("-s", str(root / "signature"))
    code, said = _run(root, "ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, *signature)
    if code:
        return Verdict(trusted=False, signer="an SSH signature that does not fit the commit")
    key = said.strip().rpartition(" key ")[2] or "an unknown key"
    for file in files:
        _require(file)
        allowed = ("-f", file)
        code, principals = _run(root, "ssh-keygen", "-Y", "find-principals", *allowed, *signature)
        for principal in principals.splitlines() if code == 0 else ():
            verify_for = ("-I", principal, "-n", NAMESPACE)
            if _run(root, "ssh-keygen", "-Y", "verify", *allowed, *verify_for, *signature)[0] == 0:
                return Verdict(trusted=True, signer=f"{principal} ({key})")
    return Verdict(trusted=False, signer=f"SSH key {key}")


def _gpg(root: Path, files: Sequence[str]) -> Verdict:
    signer = "an OpenPGP key that is in no key set"
    for index, file in enumerate(files):
        _require(file)
        ring = root / f"ring{index}.gpg"
        ring.write_bytes(_dearmoured(Path(file).read_bytes()))
        code, said = _run(
            root, "gpgv", "--status-fd", "1", "--keyring", str(ring), str(root / "signature"), str(root / "payload")
        )
        status: dict[str, str] = {}
        for line in said.splitlines():
            word, _, rest = line.removeprefix("[GNUPG:] ").partition(" ")
            status[word] = rest
        if "GOODSIG" in status and "VALIDSIG" in status and code == 0 and not status.keys() & set(_BAD_STATUS):
            return Verdict(trusted=True, signer=status["GOODSIG"].partition(" ")[2])
        if "NO_PUBKEY" in status:
            signer = f"OpenPGP key {status['NO_PUBKEY']}"
        for word in status.keys() & set(_BAD_STATUS) - {"ERRSIG"}:
            signer = (
                f"{status[word].partition(' ')[2] or 'an OpenPGP key'}, whose signature or key is not valid ({word})"
            )
    return Verdict(trusted=False, signer=signer)


def _require(file: str) -> None:
    try:
        with Path(file).open("rb"):
            return
    except OSError as error:
        raise CannotVerify(f"the keys {file} cannot be read: {error.strerror}") from error


def _dearmoured(data: bytes) -> bytes:
    """Return keys as gpgv reads them; `gpg --export --armor` writes text."""
    blocks = _ARMOUR.findall(data)
    if not blocks:
        return data
    try:
        return b"".join(base64.b64decode(b"".join(body.split())) for body in blocks)
    except binascii.Error:
        return b""
