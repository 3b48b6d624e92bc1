"""The daemon's settings: one file, the environment and flags, merged and checked.

Flags win over the environment, the environment over the file. Each key has an environment twin:
`RECONCILER_STATE_DIR`, nested with two underscores (`RECONCILER_CONFIG_REPO__URL`); lists and mappings are
written there as YAML (`RECONCILER_PASS_ENV='[PATH, AWS_PROFILE]'`). Secrets only ever come from files.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic.fields import FieldInfo

from reconciler import urls
from reconciler.config import yamltree
from reconciler.config.deployments import UrlPolicy
from reconciler.config.problems import Place, Problem, describe, dotted, nearest
from reconciler.config.yamltree import Node
from reconciler.errors import SettingsError
from reconciler.spec import BranchName, Duration, Name, PositiveDuration, RepoPath, Spec, Variable

ENV_PREFIX = "RECONCILER_"
# Variables with our prefix that are not settings: those that steps see (a step may call us), and the
# command line's own.
STEP_VARIABLES = ("TARGET", "COMMIT", "PREVIOUS_COMMIT", "REPO", "DEPLOY_ID", "REASON", "FENCING_TOKEN")
OTHER_VARIABLES = ("CONFIG", "SERVER", "TOKEN_FILE", "COMPLETE")
_TRUE, _FALSE = ("true", "1"), ("false", "0")


def _flag(value: object) -> bool:
    if isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
        return value.lower() in _TRUE
    raise ValueError("expected true or false")


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:  # noqa: PLR2004
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:8080")
    return text


def _url(text: str) -> str:
    return str(urls.parse(text))


Switch = Annotated[bool, BeforeValidator(_flag)]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4_096)]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
Address = Annotated[str, AfterValidator(_address)]
Provider = Literal["github", "gitlab", "gitea", "forgejo", "gogs", "bitbucket", "bitbucket-server", "azure", "generic"]


class ConfigRepo(Spec):
    """Where the desired state is written."""

    url: Annotated[str, AfterValidator(_url)] = Field(description="The config repository.")
    branch: BranchName = Field("main", description="The branch that counts.")
    path: RepoPath = Field("deployments", description="The directory that holds the YAML files.")
    interval_s: PositiveDuration = Field(60.0, alias="interval", description="How often it is polled.")
    fast_forward_only: Switch = Field(
        default=False, description="Refuse a branch that was rewound or rewritten; the last good commit stays."
    )
    signed_by: tuple[Name, ...] = Field((), description="Key sets, one of which must have signed the commit.")


class GitHubApp(Spec):
    """A GitHub App, whose installation tokens are made when they are needed."""

    app_id: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.]{1,64}$")]
    installation_id: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]
    private_key_file: FilePath


class Credential(Spec):
    """How to authenticate below one URL prefix; nothing of it is ever sent elsewhere."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2_000)] = Field(
        description="The prefix of the URLs that it is for."
    )
    username: str | None = None
    password_file: FilePath | None = None
    token_file: FilePath | None = None
    ssh_key_file: FilePath | None = None
    known_hosts_file: FilePath | None = None
    github_app: GitHubApp | None = None
    ca_file: FilePath | None = None
    proxy: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]{1,1990}$")] | None = None

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        urls.parse_prefix(self.url)
        ways = [self.password_file, self.token_file, self.ssh_key_file, self.github_app]
        if sum(way is not None for way in ways) > 1:
            raise ValueError("expected one of password_file, token_file, ssh_key_file and github_app")
        if self.password_file and not self.username:
            raise ValueError("password_file needs username")
        if self.proxy and urls.parse_prefix(self.url).scheme != "https":
            raise ValueError("proxy goes with https URLs")
        return self


class WebhookSecrets(Spec):
    """The secrets of one provider; several are valid at once, for rotation."""

    secret_files: Annotated[tuple[FilePath, ...], Field(min_length=1)]


class KeySet(Spec):
    """Keys that may sign commits."""

    allowed_signers_file: FilePath | None = None
    gpg_keys_file: FilePath | None = None

    @model_validator(mode="after")
    def _one_file(self) -> Self:
        if (self.allowed_signers_file is None) == (self.gpg_keys_file is None):
            raise ValueError("expected either allowed_signers_file or gpg_keys_file")
        return self


class Log(Spec):
    """How events are written."""

    format: Literal["auto", "console", "logfmt", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Spec):
    """Everything that the daemon's operator decides."""

    config_repo: ConfigRepo | None = None
    state_dir: FilePath = "/var/lib/reconciler"
    listen: Address = "127.0.0.1:8080"
    webhook_listen: Address | None = None
    api_token_file: FilePath | None = None
    hosts: tuple[HostName, ...] = ()
    max_concurrent_deploys: Annotated[int, Field(ge=1, le=1_000)] = 4
    git_timeout_s: PositiveDuration = Field(60.0, alias="git_timeout")
    forget_after_s: PositiveDuration = Field(86_400.0, alias="forget_after")
    allow_local_repos: Switch = False
    allow_http: Switch = False
    credentials: tuple[Credential, ...] = ()
    webhooks: Mapping[Provider, WebhookSecrets] = Field(default_factory=dict)
    key_sets: Mapping[Name, KeySet] = Field(default_factory=dict)
    secrets_dir: FilePath | None = None
    age_identity_file: FilePath | None = None
    pass_env: tuple[Variable, ...] = ("PATH",)
    log: Log = Log()
    # Beyond the sample in docs/settings.md: bounds, with the reason for each default there.
    kill_grace_s: Duration = Field(10.0, alias="kill_grace")
    drain_timeout_s: Duration = Field(600.0, alias="drain_timeout")
    keep_deploys: Annotated[int, Field(ge=1, le=100_000)] = 200
    keep_deploys_for_s: PositiveDuration = Field(90 * 86_400.0, alias="keep_deploys_for")

    @model_validator(mode="after")
    def _public_needs_token(self) -> Self:
        if self.api_token_file is None and not _is_loopback(self.listen):
            raise ValueError(
                f"listen: {self.listen} is not a loopback address, so api_token_file is required; "
                "set it, or listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _names_known_keys(self) -> Self:
        names = self.config_repo.signed_by if self.config_repo else ()
        unknown = [name for name in names if name not in self.key_sets]
        if unknown:
            raise ValueError(f"config_repo.signed_by names {', '.join(unknown)}, which is not in key_sets")
        return self

    @property
    def files(self) -> dict[str, str]:
        """Every file that the settings name and that is read later, by its key."""
        found = {"age_identity_file": self.age_identity_file}
        for provider, hook in self.webhooks.items():
            found |= {
                f"webhooks.{provider}.secret_files[{index}]": file for index, file in enumerate(hook.secret_files)
            }
        for name, keys in self.key_sets.items():
            found[f"key_sets.{name}"] = keys.allowed_signers_file or keys.gpg_keys_file
        for index, credential in enumerate(self.credentials):
            for key in ("password_file", "token_file", "ssh_key_file", "known_hosts_file", "ca_file"):
                found[f"credentials[{index}].{key}"] = getattr(credential, key)
        return {key: file for key, file in found.items() if file is not None}

    @property
    def url_policy(self) -> UrlPolicy:
        """Which repositories are allowed."""
        return UrlPolicy(self.allow_local_repos, self.allow_http)

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host and port of the API, pages and metrics."""
        return _host_and_port(self.listen)

    @property
    def webhook_address(self) -> tuple[str, int] | None:
        """Host and port for webhooks alone; None where they come in with the rest."""
        return _host_and_port(self.webhook_listen) if self.webhook_listen else None


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(
    data: bytes | None, file: str, environment: Mapping[str, str], flags: Mapping[tuple[str, ...], str]
) -> Settings:
    """Return the settings of a file's bytes, an environment and flags.

    `flags` maps a path of keys to a value: `{("state_dir",): "/x"}`. Raises SettingsError with all problems
    at once, one a line.
    """
    problems: list[Problem] = []
    root = Node(Place(file), {}, {})
    if data is not None:
        document = yamltree.parse(data, file)
        problems += [flaw.problem for flaw in document.flaws]
        if document.fatal:
            raise SettingsError(str(document.fatal))
        if document.root is not None and isinstance(document.root.value, dict):
            root = document.root
        elif document.root is not None and document.root.value is not None:
            raise SettingsError(str(Problem(document.root.place, "", "expected a mapping of settings")))
    problems += _overlay_environment(root, environment)
    for path, value in flags.items():
        _put(root, path, Node(Place(f"--{path[0].replace('_', '-')}"), value))
    try:
        settings = Settings.model_validate(root.plain())
    except ValidationError as error:
        problems += [_problem(item, root) for item in error.errors(include_url=False, include_input=False)]
        raise SettingsError(_lines(problems)) from None
    problems += _refused_urls(settings, root)
    if problems:
        raise SettingsError(_lines(problems))
    return settings


def _lines(problems: Sequence[Problem]) -> str:
    return "\n".join(str(problem) for problem in sorted(set(problems)))


def _refused_urls(settings: Settings, root: Node) -> list[Problem]:
    if settings.config_repo is None:
        return []
    url = urls.parse(settings.config_repo.url)
    refused = urls.refusal(url, allow_local=settings.allow_local_repos, allow_http=settings.allow_http)
    path = ("config_repo", "url")
    return [Problem(root.place_of(path), dotted(path), refused)] if refused else []


def _problem(item: object, root: Node) -> Problem:
    assert isinstance(item, dict)  # noqa: S101 - pydantic's ErrorDetails
    path = tuple(part for part in item["loc"] if part != "[key]")
    keys = _keys_at(path[:-1])
    return Problem(root.place_of(path), dotted(path), describe(item, keys))


def _overlay_environment(root: Node, environment: Mapping[str, str]) -> list[Problem]:
    problems = []
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENV_PREFIX):
            continue
        rest = variable.removeprefix(ENV_PREFIX)
        if rest in STEP_VARIABLES or rest in OTHER_VARIABLES:
            continue
        path = tuple(part.lower() for part in rest.split("__"))
        if path[0] not in _keys_at(()):
            known = [ENV_PREFIX + key.upper() for key in _keys_at(())]
            problems.append(Problem(Place(variable), "", f"unknown variable{nearest(variable, known)}"))
            continue
        node = Node(Place(variable), text)
        if text[:1] in ("[", "{"):
            document = yamltree.parse(text.encode(), variable)
            if document.fatal or document.root is None:
                problems.append(document.fatal or Problem(node.place, "", "expected a YAML list or mapping"))
                continue
            node = Node(node.place, document.root.value, document.root.keys)
        _put(root, path, node)
    return problems


def _put(root: Node, path: Sequence[str], leaf: Node) -> None:
    node = root
    for part in path[:-1]:
        assert isinstance(node.value, dict)  # noqa: S101 - made so below
        child = node.value.get(part)
        if child is None or not isinstance(child.value, dict):
            child = Node(leaf.place, {}, {})
            node.value[part] = child
            node.keys[part] = leaf.place
        node = child
    assert isinstance(node.value, dict)  # noqa: S101 - the root and every level above are mappings
    node.value[path[-1]] = leaf
    node.keys[path[-1]] = leaf.place


_SECTIONS: Mapping[str, type[Spec]] = {
    "config_repo": ConfigRepo,
    "credentials": Credential,
    "webhooks": WebhookSecrets,
    "key_sets": KeySet,
    "log": Log,
}


def _keys_at(path: Sequence[str | int]) -> list[str]:
    model = _SECTIONS.get(str(path[0]), Settings) if path else Settings
    fields: Mapping[str, FieldInfo] = model.model_fields
    return [info.alias or name for name, info in fields.items()]
