"""Where secrets come from: files, age, SOPS; and that nothing of them is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyrage
import pytest
from support.repos import Config

from reconciler.config import settings as settings_module
from reconciler.git.library import mirror_name
from reconciler.git.mirror import fetch
from reconciler.runner.secrets import SecretMissing
from reconciler.spec import Target
from reconciler.vault import Vault

VALUE = "correct horse battery staple"
NAME = "token"


def a_target(name: str = "api", **secrets: str) -> Target:
    values = {"name": name, "repo": "https://git.example.com/x", "commit": "a" * 40, "secrets": secrets or {"T": NAME}}
    return Target.model_validate(values)


class Bench:
    """A config repository, an age identity and a directory of secrets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = Config(root / "config")
        self.config.commit({"deployments/x.yaml": "targets: {}\n"})
        self.identity = pyrage.x25519.Identity.generate()
        (root / "identity").write_text(f"# made for a test\n{self.identity}\n")
        self.folder = root / "secrets"
        self.folder.mkdir()
        self.commit: str | None = None

    def encrypt(self, name: str, value: bytes) -> None:
        data = pyrage.encrypt(value, [self.identity.to_public()])
        self.write(f"secrets/{name}.age", data)

    def write(self, name: str, data: bytes) -> None:
        file = self.config.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        self.commit = self.config.commit({}, "secrets")

    def vault(self, *, age: bool = True, folder: bool = True, key: bytes = b"k" * 32) -> Vault:
        text = f"config_repo: {{url: {self.config.url}}}\nallow_local_repos: true\n"
        text += f"secrets_dir: {self.folder}\n" if folder else ""
        text += f"age_identity_file: {self.root}/identity\n" if age else ""
        settings = settings_module.load(text.encode(), "s", {}, {})
        mirrors = self.root / "mirrors"
        if self.commit:
            fetch(self.config.url, mirrors / mirror_name(self.config.url), [], None)
        return Vault(settings, mirrors, key)

    def read(self, target: Target | None = None) -> dict[str, str]:
        return self.vault().read(target or a_target(), self.commit)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_first_place_that_has_it_counts(bench: Bench) -> None:
    with pytest.raises(SecretMissing, match=r"put it into .*/api/token or .*/token or secrets/token.age of the config"):
        bench.read()
    bench.encrypt(NAME, b"by age\n")
    assert bench.read() == {"T": "by age"}
    (bench.folder / NAME).write_text("shared\n")
    assert bench.read() == {"T": "shared"}
    (bench.folder / "api").mkdir()
    (bench.folder / "api" / NAME).write_text("own\r\n")
    assert bench.read() == {"T": "own"}
    assert bench.read(a_target("web")) == {"T": "shared"}


@pytest.mark.parametrize(
    ("content", "complaint"), [(b"\xff\xfe", "not UTF-8"), (b"x" * 70_000, "larger than"), (b"a\0b", "NUL")]
)
def test_a_bad_secret_names_its_place_and_not_its_value(bench: Bench, content: bytes, complaint: str) -> None:
    (bench.folder / NAME).write_bytes(content)
    with pytest.raises(SecretMissing, match=complaint):
        bench.read()
    (bench.folder / NAME).unlink()
    bench.encrypt(NAME, content)
    with pytest.raises(SecretMissing, match=complaint + r".*secrets/token.age"):
        bench.read()


def test_what_cannot_be_decrypted_is_said(bench: Bench) -> None:
    bench.encrypt(NAME, VALUE.encode())
    with pytest.raises(SecretMissing, match="have no age_identity_file"):
        bench.vault(age=False).read(a_target(), bench.commit)
    (bench.root / "identity").write_text(f"{pyrage.x25519.Identity.generate()}\n")
    with pytest.raises(SecretMissing, match="cannot be decrypted by .*identity"):
        bench.read()
    (bench.root / "identity").write_text("AGE-SECRET-KEY-1NONSENSE\n")
    with pytest.raises(SecretMissing, match="cannot be decrypted"):
        bench.read()
    (bench.root / "identity").unlink()
    with pytest.raises(SecretMissing, match="cannot be read"):
        bench.read()
    bench.write("secrets/token.age", b"no age file")
    with pytest.raises(SecretMissing):
        bench.read()


def test_the_config_commit_in_force_counts_and_no_other(bench: Bench) -> None:
    bench.encrypt(NAME, b"first")
    first = bench.commit
    bench.encrypt(NAME, b"second")
    vault = bench.vault()
    assert vault.read(a_target(), first) == {"T": "first"}
    assert vault.read(a_target(), bench.commit) == {"T": "second"}
    with pytest.raises(SecretMissing):
        vault.read(a_target(), None)


def test_a_link_in_the_repository_is_not_followed(bench: Bench) -> None:
    (bench.config.path / "secrets").mkdir()
    (bench.config.path / "secrets" / "token.age").symlink_to("/etc/hostname")
    bench.commit = bench.config.commit({}, "link")
    with pytest.raises(SecretMissing, match="is missing"):
        bench.read()


def test_a_digest_changes_with_the_value_and_tells_nothing_of_it(bench: Bench) -> None:
    bench.encrypt(NAME, VALUE.encode())
    first = bench.vault().digest(a_target(), bench.commit)
    assert bench.vault().digest(a_target(), bench.commit) == first
    assert bench.vault(key=b"other" * 8).digest(a_target(), bench.commit) != first
    bench.encrypt(NAME, b"rotated")
    assert bench.vault().digest(a_target(), bench.commit) != first
    vault = bench.vault()
    vault.digest(a_target(), bench.commit)
    assert "rotated" not in repr(vars(vault))


# --- SOPS -------------------------------------------------------------------------------------------------

# Neither Debian nor PyPI has the program sops. This stands in for it as far as its command line goes: it checks how it
# is called and where its key is, and decrypts values that age encrypted.
SOPS = """#!{python}
import base64, json, os, sys
import pyrage
assert sys.argv[1:] == ["decrypt", "--input-type", "yaml", "--output-type", "json", "/dev/stdin"], sys.argv
lines = open(os.environ["SOPS_AGE_KEY_FILE"]).read().split()
identity = pyrage.x25519.Identity.from_str(next(line for line in lines if line.startswith("AGE-")))
stored = json.load(sys.stdin)
if "broken" in stored:
    sys.exit(128)
opened = {{key: pyrage.decrypt(base64.b64decode(value), [identity]).decode() for key, value in stored.items()}}
print(json.dumps(opened))
"""


@pytest.fixture
def sops(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    import sys  # noqa: PLC0415

    programs = bench.root / "bin"
    programs.mkdir()
    (programs / "sops").write_text(SOPS.format(python=sys.executable))
    (programs / "sops").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return bench


def stored(bench: Bench, **values: str) -> bytes:
    import base64  # noqa: PLC0415

    recipient = [bench.identity.to_public()]
    made = {key: base64.b64encode(pyrage.encrypt(value.encode(), recipient)).decode() for key, value in values.items()}
    return json.dumps(made).encode()


def test_a_key_of_a_sops_file_is_a_secret(sops: Bench) -> None:
    sops.write("secrets/all.sops.yaml", stored(sops, token=VALUE, other="x"))
    assert sops.read() == {"T": VALUE}
    assert sops.read(a_target(A=NAME, B="other")) == {"A": VALUE, "B": "x"}
    with pytest.raises(SecretMissing, match="none is missing"):
        sops.read(a_target(A="none"))


def test_a_sops_file_that_cannot_be_decrypted_is_said(sops: Bench) -> None:
    sops.write("secrets/all.sops.yaml", b'{"broken": "x"}')
    with pytest.raises(SecretMissing, match="sops exited with 128"):
        sops.read()


def test_without_the_program_that_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("secrets/all.sops.yaml", b"{}")
    monkeypatch.setenv("PATH", str(bench.root))
    with pytest.raises(SecretMissing, match="needs the program sops"):
        bench.read()
