"""Who signed a commit: real git, real ssh-keygen, real gpg."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.needs import need_program
from support.repos import Repo, git

from reconciler.config.settings import KeySet
from reconciler.git import objects
from reconciler.trusting import Trust


class Signer:
    """A repository whose commits are signed with SSH keys."""

    def __init__(self, root: Path) -> None:
        need_program("ssh-keygen", "openssh-client")
        self.root = root
        self.repo = Repo(root / "repo")
        self.unsigned = self.repo.commit()

    def key(self, name: str) -> Path:
        file = self.root / name
        if not file.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(file)], check=True)
        return file

    def commit(self, name: str) -> str:
        config = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={self.key(name)}")
        git(self.repo.path, *config, "commit", "-q", "--allow-empty", "-S", "-m", f"by {name}")
        return self.repo.head

    def allow(self, *names: str, options: str = "") -> dict[str, KeySet]:
        lines = [f"{name}@example.com {options}{self.key(name).with_suffix('.pub').read_text()}" for name in names]
        (self.root / "allowed").write_text("".join(lines))
        return {"release-keys": KeySet(allowed_signers_file=str(self.root / "allowed"))}

    def problem(self, key_sets: dict[str, KeySet], commit: str, name: str = "release-keys") -> str | None:
        return Trust(key_sets).problem(self.repo.path / ".git", commit, [name])


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


def test_a_commit_of_an_allowed_signer_is_trusted(signer: Signer) -> None:
    assert signer.problem(signer.allow("ada"), signer.commit("ada")) is None
    assert signer.problem(signer.allow("bob", "ada"), signer.commit("ada")) is None


def test_others_are_not_and_their_key_is_told(signer: Signer) -> None:
    found = signer.problem(signer.allow("ada"), signer.commit("eve"))
    assert found is not None
    assert "is signed by SSH key SHA256:" in found
    assert "release-keys does not trust" in found


def test_an_unsigned_commit_is_not(signer: Signer) -> None:
    assert "is not signed" in (signer.problem(signer.allow("ada"), signer.unsigned) or "")


def test_a_signature_moved_to_another_commit_is_not(signer: Signer) -> None:
    signed = signer.commit("ada")
    raw = git(signer.repo.path, "cat-file", "commit", signed).replace("by ada", "by eve")
    done = subprocess.run(
        ["git", "hash-object", "-t", "commit", "-w", "--stdin"],
        cwd=signer.repo.path,
        input=raw + "\n",
        text=True,
        capture_output=True,
        check=True,
    )
    found = signer.problem(signer.allow("ada"), done.stdout.strip())
    assert found is not None
    assert "does not fit" in found


def test_a_signature_for_files_does_not_count_for_commits(signer: Signer) -> None:
    commit = signer.commit("ada")
    assert signer.problem(signer.allow("ada", options='namespaces="file" '), commit) is not None
    assert signer.problem(signer.allow("ada", options='namespaces="git" '), commit) is None


def test_a_key_that_was_taken_away_counts_no_more(signer: Signer) -> None:
    commit = signer.commit("ada")
    trust = Trust(signer.allow("ada"))
    assert trust.problem(signer.repo.path / ".git", commit, ["release-keys"]) is None
    signer.allow("bob")
    assert trust.problem(signer.repo.path / ".git", commit, ["release-keys"]) is not None
    (signer.root / "allowed").unlink()
    assert "cannot be read" in (trust.problem(signer.repo.path / ".git", commit, ["release-keys"]) or "")


def test_an_unknown_key_set_trusts_nobody(signer: Signer) -> None:
    assert "is no key set" in (signer.problem(signer.allow("ada"), signer.commit("ada"), "other") or "")


def test_without_the_program_nobody_is_trusted(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = signer.commit("ada")
    monkeypatch.setenv("PATH", str(signer.root))
    found = signer.problem(signer.allow("ada"), commit)
    assert found is not None
    assert "ssh-keygen is not installed" in found


# --- OpenPGP ----------------------------------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a GnuPG home whose path is short enough for its socket."""
    need_program("gpg", "gnupg")
    need_program("gpgv", "gpgv")
    folder = Path(tempfile.mkdtemp(prefix="g", dir="/tmp"))
    folder.chmod(0o700)
    yield folder
    subprocess.run(["gpgconf", "--homedir", str(folder), "--kill", "all"], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def gpg(home: Path, *arguments: str) -> str:
    command = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def gpg_commit(repo: Repo, home: Path, name: str) -> str:
    git(
        repo.path,
        *("-c", "gpg.format=openpgp", "-c", f"user.signingkey={name}@example.com"),
        *("commit", "-q", "--allow-empty", "-S", "-m", f"by {name}"),
        GNUPGHOME=str(home),
    )
    return repo.head


def test_openpgp_signatures_count_armoured_or_not(tmp_path: Path, home: Path) -> None:
    repo = Repo(tmp_path / "repo")
    for name in ("ada", "eve"):
        gpg(home, "--quick-generate-key", f"{name} <{name}@example.com>", "ed25519", "sign", "never")
    good, bad = gpg_commit(repo, home, "ada"), gpg_commit(repo, home, "eve")
    armoured, binary = tmp_path / "ada.asc", tmp_path / "ada.gpg"
    armoured.write_text(gpg(home, "--armor", "--export", "ada@example.com"))
    gpg(home, "--output", str(binary), "--export", "ada@example.com")
    mirror = repo.path / ".git"
    for file in (armoured, binary):
        trust = Trust({"release-keys": KeySet(gpg_keys_file=str(file))})
        assert trust.problem(mirror, good, ["release-keys"]) is None
        found = trust.problem(mirror, bad, ["release-keys"])
        assert found is not None
        assert "is signed by OpenPGP key" in found


def test_an_expired_key_is_not_trusted(tmp_path: Path, home: Path) -> None:
    repo = Repo(tmp_path / "repo")
    gpg(home, "--quick-generate-key", "old <old@example.com>", "ed25519", "sign", "seconds=2")
    commit = gpg_commit(repo, home, "old")
    keys = tmp_path / "old.asc"
    keys.write_text(gpg(home, "--armor", "--export", "old@example.com"))
    trust = {"release-keys": KeySet(gpg_keys_file=str(keys))}
    deadline = 40
    while Trust(trust).problem(repo.path / ".git", commit, ["release-keys"]) is None and deadline:
        os.sched_yield()
        subprocess.run(["sleep", "0.2"], check=True)
        deadline -= 1
    found = Trust(trust).problem(repo.path / ".git", commit, ["release-keys"])
    assert found is not None
    assert "not valid" in found


def test_what_was_signed_is_what_git_signs(signer: Signer) -> None:
    found = objects.signature(signer.repo.path / ".git", signer.commit("ada"))
    assert found is not None
    payload, signature = found
    assert payload.endswith(b"by ada\n")
    assert signature.startswith("-----BEGIN SSH SIGNATURE-----")
    assert objects.signature(signer.repo.path / ".git", signer.unsigned) is None
