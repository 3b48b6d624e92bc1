"""Where a secret is: in a file of the secrets directory, or encrypted in the config repository.

The first place that has it counts: `secrets_dir/TARGET/NAME`, `secrets_dir/NAME`, `secrets/NAME.age` and then a key of
`secrets/*.sops.yaml` at the config commit in force. Blocking. Nothing decrypted is kept: for the question whether a
secret is there, and whether it changed, a keyed digest is remembered.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from reconciler.config.settings import Settings
from reconciler.git import objects
from reconciler.git.library import mirror_name
from reconciler.runner import secrets
from reconciler.runner.secrets import SecretMissing
from reconciler.spec import Target

FOLDER = "secrets"  # of the config repository
MAX_FILE = 256 * 1024
MAX_REMEMBERED = 10_000
_SOPS = (".sops.yaml", ".sops.yml")
_DIGEST = 16  # hex digits that are compared; keyed, so that they tell nothing of the value


class Vault:
    """Reads secrets for targets."""

    def __init__(self, settings: Settings, mirrors: Path, key: bytes) -> None:
        self._folder = settings.secrets_dir
        self._identity = settings.age_identity_file
        self._mirror = mirrors / mirror_name(settings.config_repo.url) if settings.config_repo else None
        self._key = key
        self._digests: dict[tuple[str, ...], str] = {}  # of encrypted blobs

    def read(self, target: Target, commit: str | None) -> dict[str, str]:
        """Return variables with the values of a target's secrets, read now. Raises SecretMissing."""
        return {variable: self._read(target.name, name, commit) for variable, name in target.secrets.items()}

    def digest(self, target: Target, commit: str | None) -> str:
        """Return a keyed digest of a target's secrets; raise SecretMissing where one is not there."""
        parts = [f"{variable}={self._digest(target.name, name, commit)}" for variable, name in target.secrets.items()]
        return self._keyed("\n".join(sorted(parts)))

    def _keyed(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:_DIGEST]

    def _files(self, target: str, name: str) -> tuple[Path, ...]:
        return (Path(self._folder) / target / name, Path(self._folder) / name) if self._folder else ()

    def _digest(self, target: str, name: str, commit: str | None) -> str:
        found = secrets.from_file(name, self._files(target, name))
        if found is not None:
            return self._keyed(found)
        key = (name, self._stamp(), *(f"{place} {blob}" for place, blob, _ in self._encrypted(name, commit)))
        if key not in self._digests:
            if len(self._digests) >= MAX_REMEMBERED:
                self._digests.clear()
            self._digests[key] = self._keyed(self._read(target, name, commit))
        return self._digests[key]

    def _stamp(self) -> str:
        try:
            found = Path(self._identity).stat() if self._identity else None
        except OSError:
            found = None
        return f"{found.st_mtime_ns} {found.st_ino}" if found else ""

    def _encrypted(self, name: str, commit: str | None) -> list[tuple[str, str, bytes]]:
        """Return place, blob and content of the files of the config repository that may hold a secret."""
        if self._mirror is None or not commit:
            return []
        files = [f"{FOLDER}/{name}.age"]
        files += [f"{FOLDER}/{file}" for file in objects.names(self._mirror, commit, FOLDER) if file.endswith(_SOPS)]
        found = ((file, objects.blob(self._mirror, commit, file, MAX_FILE)) for file in files)
        return [(file, *entry) for file, entry in found if entry is not None]

    def _read(self, target: str, name: str, commit: str | None) -> str:
        found = secrets.from_file(name, self._files(target, name))
        if found is not None:
            return found
        for place, _, data in self._encrypted(name, commit):
            if place.endswith(_SOPS):
                values = secrets.from_sops(data, self._identity, place)
                if name in values:
                    return secrets.as_text(name, values[name].encode(), place)
            elif self._identity is None:
                raise SecretMissing(f"secret {name} is encrypted in {place}; the settings have no age_identity_file")
            else:
                return secrets.from_age(name, data, self._identity, place)
        places = [str(file) for file in self._files(target, name)]
        if self._mirror is not None:
            places.append(f"{FOLDER}/{name}.age of the config repository")
        raise SecretMissing(f"secret {name} is missing; put it into {' or '.join(places)}")
