"""What a person may ask of one target: the schema of an entry in deployments/*.yaml.

These models are the YAML schema, the stored form of a last good entry (as JSON) and the values that plans
and deploys read. Every scalar of the YAML arrives as text (`0123456` is never octal), so each field says
how its text is read. Field aliases are the public keys; attribute names carry units.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from reconciler import urls
from reconciler.ranges import parse_range
from reconciler.schedule import Window, parse_duration, parse_window

MAX_STEPS = 50
MAX_VARIABLES = 200
_REFUSED_VARIABLES = re.compile(r"(RECONCILER|LD|GIT)_.*|MAKEFLAGS|MAKEFILES|MFLAGS|MAKELEVEL")


def _duration(value: object) -> float:
    if isinstance(value, int | float):  # the stored form
        return float(value)
    if not isinstance(value, str):
        raise ValueError("expected a duration such as 90s, 5m or 1h30m")  # noqa: TRY004 - pydantic's protocol
    return parse_duration(value)


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("expected a duration of more than nothing")
    return seconds


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise ValueError("expected true or false")


def _variable(name: str) -> str:
    if _REFUSED_VARIABLES.fullmatch(name):
        raise ValueError("this variable is the daemon's, git's, the loader's or make's own; choose another name")
    return name


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a variable's value cannot hold a NUL character")
    return text


def _relative_path(text: str) -> str:
    parts = text.split("/")
    if text.startswith("/") or ".." in parts or "\\" in text or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("expected a path inside the repository, relative and without ..")
    if any(part.lower() == ".git" for part in parts):
        raise ValueError("a path cannot lead into .git")
    return "/".join(part for part in parts if part not in ("", ".")) or "."


def _repo(text: str) -> str:
    urls.parse(text)
    return text


def _window(text: str) -> str:
    parse_window(text)
    return text


def _range(text: str) -> str:
    parse_range(text)
    return text


def _json_text(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


_DURATION_SCHEMA = _json_text("^([0-9]+(\\.[0-9]+)?(ms|[dhms]))+$", "5m")
_BOOL_SCHEMA = WithJsonSchema({"type": "boolean"})
_VALUE_SCHEMA = WithJsonSchema({"type": ["string", "number", "boolean"]})

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
GOAL_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,199}$"
SECRET_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"  # noqa: S105 - of a name
_REF_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,199}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Commit = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
BranchName = Annotated[str, StringConstraints(pattern=_REF_PATTERN)]
Duration = Annotated[float, BeforeValidator(_duration), _DURATION_SCHEMA]
PositiveDuration = Annotated[float, BeforeValidator(_duration), AfterValidator(_positive), _DURATION_SCHEMA]
Flag = Annotated[bool, BeforeValidator(_boolean), _BOOL_SCHEMA]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"), AfterValidator(_variable)]
Value = Annotated[str, StringConstraints(max_length=32_768), AfterValidator(_no_nul), _VALUE_SCHEMA]
Variables = Annotated[Mapping[Variable, Value], Field(max_length=MAX_VARIABLES)]
SecretName = Annotated[str, StringConstraints(pattern=SECRET_PATTERN)]
MakeGoal = Annotated[str, StringConstraints(pattern=GOAL_PATTERN)]
Argument = Annotated[str, StringConstraints(max_length=8_192), AfterValidator(_no_nul)]
RepoPath = Annotated[str, StringConstraints(max_length=1_000), AfterValidator(_relative_path)]


class Spec(BaseModel):
    """Common ground: frozen, closed, and silent about the values that it refuses."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True, serialize_by_alias=True
    )


class Step(Spec):
    """One command of a deploy: a make target, or a command with its arguments."""

    make: MakeGoal | None = Field(None, description="The make target to run.")
    run: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=200)] | None = Field(
        None, description="A command and its arguments; no shell reads it."
    )
    timeout_s: PositiveDuration | None = Field(
        None, alias="timeout", description="The most that this step may take, within the deploy's timeout."
    )
    env: Variables = Field(default_factory=dict, description="Variables of this step alone.")

    @model_validator(mode="after")
    def _one_command(self) -> Self:
        if (self.make is None) == (self.run is None):
            raise ValueError("expected either make: TARGET or run: [COMMAND, ARGUMENT, ...]")
        if self.run and not self.run[0]:
            raise ValueError("expected a command, found an empty word")
        return self

    @property
    def title(self) -> str:
        """What people call the step: `make test`, or the command's words."""
        return f"make {self.make}" if self.make else " ".join(self.run or ())


class Follow(Spec):
    """What a target follows: a branch, the newest tag of a pattern, or the highest tag of a semver range."""

    branch: BranchName | None = Field(None, description="The newest commit of this branch.")
    tag: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_*?\[][A-Za-z0-9_./+*?\[\]!-]{0,199}$")] | None = Field(
        None, description="The newest tag that matches this pattern."
    )
    semver: (
        Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z^~<>=|*., +-]{1,200}$"), AfterValidator(_range)] | None
    ) = Field(None, description="The highest version within this range.")
    prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./-]{0,100}$")] = Field(
        "", description="What stands before the version in a tag; v for v1.2.3."
    )
    write: Flag = Field(
        default=False, description="The daemon commits the followed commit as the pin to the config repository."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(value is not None for value in (self.branch, self.tag, self.semver)) != 1:
            raise ValueError("expected one of branch, tag or semver")
        if self.prefix and not self.semver:
            raise ValueError("prefix goes with semver")
        return self

    @property
    def words(self) -> str:
        """What is followed, as people say it."""
        return self.branch or self.tag or f"{self.prefix}{self.semver}"


def _follow(value: object) -> object:
    return {"branch": value} if isinstance(value, str) else value


class Retry(Spec):
    """How often and how soon a failed deploy is tried again."""

    limit: Annotated[int, Field(ge=0, le=1_000)] = Field(5, description="Retries after the first try; 0: one try.")
    backoff_s: Duration = Field(5.0, alias="backoff", description="The wait before the first retry.")
    factor: Annotated[float, Field(ge=1, le=100)] = Field(2.0, description="Each wait is so many times the last.")
    max_backoff_s: Duration = Field(180.0, alias="max_backoff", description="The longest wait.")


class Observe(Spec):
    """How to ask which commit is really deployed; a difference is drift."""

    make: MakeGoal | None = Field(None, description="A make target that prints the commit.")
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]{1,1990}$")] | None = Field(
        None, description="An HTTP address that answers with the commit."
    )
    json_pointer: Annotated[str, StringConstraints(pattern=r"^/.{0,199}$")] | None = Field(
        None, alias="json", description="Where in a JSON answer the commit stands, as a JSON pointer."
    )
    every_s: PositiveDuration = Field(300.0, alias="every", description="How often to ask.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.make is None) == (self.url is None):
            raise ValueError("expected either make: TARGET or url: ADDRESS")
        if self.json_pointer and not self.url:
            raise ValueError("json goes with url")
        return self


DEFAULT_STEPS = (Step(make="deploy"),)


class Target(Spec):
    """One target: where its source is, which commit is wanted, how it is deployed, and under which policy."""

    name: Name = Field(exclude=True, repr=True)
    repo: Annotated[str, AfterValidator(_repo)] = Field(description="The source repository.")
    commit: Commit | None = Field(None, description="The pin: a full commit id of 40 or 64 hex digits.")
    follow: Annotated[Follow, BeforeValidator(_follow)] | None = Field(
        None, description="Without commit: what is deployed. Beside commit: only watched."
    )
    within: BranchName | None = Field(None, description="The commit must be reachable from this branch or tag.")
    signed_by: tuple[Name, ...] = Field(
        (), description="Key sets of the daemon's settings, one of which must have signed."
    )
    path: RepoPath = Field(".", description="The directory of the repository in which the steps run.")
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS)] = Field(
        DEFAULT_STEPS, description="What runs, in order; the first failure ends the deploy."
    )
    env: Variables = Field(default_factory=dict, description="Variables of every step.")
    secrets: Mapping[Variable, SecretName] = Field(
        default_factory=dict, description="Variables whose values are secrets, by the secret's name."
    )
    timeout_s: PositiveDuration = Field(1800.0, alias="timeout", description="The most that a deploy may take.")
    retry: Retry = Field(Retry(), description="What follows a failed deploy.")
    on_failure: Literal["hold", "rollback"] = Field("hold", description="What follows the last retry.")
    on_change: Literal["finish", "cancel"] = Field("finish", description="What a new version does to a running deploy.")
    depends_on: tuple[Name, ...] = Field((), description="Targets that must be in sync first.")
    windows: tuple[Annotated[str, AfterValidator(_window)], ...] = Field(
        (), description="When automatic deploys may start; empty: always."
    )
    observe: Observe | None = Field(None, description="How to see which commit is really deployed.")
    lock: Name | None = Field(None, description="Targets that share a lock never deploy at the same time.")
    submodules: Flag = Field(default=False, description="Check submodules out as well.")
    suspend: Flag = Field(default=False, description="Deploy nothing until this is false again.")
    redeploy_on_secret_change: Flag = Field(
        default=False, description="A change of a secret's content is a new version."
    )
    labels: Mapping[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")], Value] = Field(
        default_factory=dict, description="Words for people and dashboards."
    )
    interval_s: PositiveDuration = Field(60.0, alias="interval", description="How often its source is polled.")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.commit is None and self.follow is None:
            raise ValueError("expected commit: FULL-ID or follow: BRANCH")
        if self.name in self.depends_on:
            raise ValueError("a target cannot depend on itself")
        return self

    @cached_property
    def source(self) -> str:
        """The Source's identity: the repository's URL in its normal form."""
        return str(urls.parse(self.repo))

    @cached_property
    def open_windows(self) -> tuple[Window, ...]:
        """The windows as values."""
        return tuple(parse_window(text) for text in self.windows)

    @cached_property
    def digest(self) -> str:
        """The digest of what, beside the commit, decides what is deployed: path, steps, env, secret names."""
        parts: dict[str, Any] = {
            "path": self.path,
            "steps": [[step.make, step.run, sorted(step.env.items())] for step in self.steps],
            "env": sorted(self.env.items()),
            "secrets": sorted(self.secrets.items()),
            "submodules": self.submodules,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
