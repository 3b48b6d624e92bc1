"""Write docs/deployments.md from the schema; a test compares both."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from reconciler.schedule import format_duration
from reconciler.spec import Follow, Observe, Retry, Spec, Step, Target

OUT = Path(__file__).parents[1] / "docs" / "deployments.md"
HEAD = """\
# deployments/*.yaml

What the config repository says. This page is generated from the schema (`reconciler schema` prints it for editors);
`reconciler validate` checks files against it, offline.

```yaml
# yaml-language-server: $schema=./deployments.schema.json
defaults: # optional, merged under every target of this file; env, secrets, labels and retry key by key
  repo: https://git.example.com/acme/api.git
targets:
  api-production: # 1 to 63 lower-case letters, digits and dashes; unique over all files
    commit: 9fceb02d0ae598e95dc970b74767f19372d61af8
    follow: main
    steps:
      - make: test
      - make: deploy
        timeout: 20m
        env: {LEVEL: "2"}
      - run: [./smoke.sh, --fast]
    env: {REGION: eu-west-1}
    secrets: {TOKEN: deploy-token}
    depends_on: [database-production]
    windows: ["Mon-Fri 09:00-17:00 Europe/Berlin"]
    retry: {limit: 5, backoff: 5s, factor: 2, max_backoff: 3m}
    on_failure: rollback
    labels: {env: production, team: payments}
  database-production:
    follow: {tag: "v*"}
    repo: git@git.example.com:acme/database.git
    path: deploy
```

YAML is data here: no anchors, aliases or tags; every value is text unless its key says otherwise, so `commit: 0123456`
is never octal; duplicate keys are errors. Durations are `90s`, `5m`, `1h30m`. Variables named `RECONCILER_*`, `LD_*`,
`GIT_*`, `MAKEFLAGS`, `MAKEFILES`, `MFLAGS` and `MAKELEVEL` are refused. Of variables of one name the nearest counts:
one-time (`reconcile --env`), step, target, defaults.

A bad entry keeps its last good version in force, and touches no other. An entry that vanishes is forgotten, never
undeployed; when more than half of at least four vanish in one commit, they stay until another commit confirms it.

## Secrets

A secret's name is looked up as a file `secrets_dir/TARGET/NAME`, then `secrets_dir/NAME`, then in the config
repository as `secrets/NAME.age` (encrypted with [age](https://age-encryption.org) for the identity in
`age_identity_file`), then as a top-level key of `secrets/*.sops.yaml` (needs the program `sops`). Values reach the
environment of the steps, and nothing else; in output they are masked. A missing one holds its target, with the places
that were looked at.

```console
$ age -r age1… -o secrets/deploy-token.age deploy-token.txt
```

## Moving pins

`reconciler pin TARGET REV --push` changes one line of one file and pushes a commit with the trailers
`Reconciler-Target`, `Reconciler-From` and `Reconciler-To`. REV is a branch, a tag or an abbreviated commit. Without
`--push` the commit is printed as a patch; `--push-branch NAME` is for reviews. `promote FROM TO` pins what FROM has
deployed, `rollback TARGET [DEPLOY]` what it ran before. With `follow: {branch: main, write: true}` the daemon commits
the newest commit as the pin itself.
"""
SECTIONS: tuple[tuple[str, str, type[Spec]], ...] = (
    ("A target", "", Target),
    ("Steps", "`steps` is a list of these; the default is `[{make: deploy}]`.", Step),
    ("Follow", "`follow: main` is short for `follow: {branch: main}`.", Follow),
    ("Retry", "", Retry),
    ("Observe", "", Observe),
)


# One example a key, which a test validates. Where a key needs another one, both stand there.
EXAMPLES: dict[str, dict[str, str]] = {
    "Target": {
        "repo": "repo: git@git.example.com:acme/api.git",
        "commit": "commit: 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "follow": "follow: main",
        "within": "within: main",
        "signed_by": "signed_by: [release-keys]",
        "path": "path: services/api",
        "steps": "steps: [{make: test}, {make: deploy}]",
        "env": "env: {REGION: eu-west-1}",
        "secrets": "secrets: {TOKEN: deploy-token}",
        "timeout": "timeout: 1h",
        "retry": "retry: {limit: 2}",
        "on_failure": "on_failure: rollback",
        "on_change": "on_change: cancel",
        "depends_on": "depends_on: [database]",
        "windows": 'windows: ["Mon-Fri 09:00-17:00 Europe/Berlin"]',
        "observe": "observe: {make: deployed-commit}",
        "lock": "lock: staging-cluster",
        "submodules": "submodules: true",
        "suspend": "suspend: true",
        "redeploy_on_secret_change": "redeploy_on_secret_change: true",
        "labels": "labels: {env: production}",
        "interval": "interval: 5m",
    },
    "Step": {
        "make": "steps: [{make: deploy}]",
        "run": "steps: [{run: [./smoke.sh, --fast]}]",
        "timeout": "steps: [{make: test, timeout: 5m}]",
        "env": 'steps: [{make: test, env: {LEVEL: "2"}}]',
    },
    "Follow": {
        "branch": "follow: {branch: main}",
        "tag": 'follow: {tag: "release-*"}',
        "semver": 'follow: {semver: "^1.2"}',
        "prefix": 'follow: {semver: ">=1.0 <2.0", prefix: v}',
        "write": "follow: {branch: main, write: true}",
    },
    "Retry": {
        "limit": "retry: {limit: 0}",
        "backoff": "retry: {backoff: 30s}",
        "factor": "retry: {factor: 1.5}",
        "max_backoff": "retry: {max_backoff: 10m}",
    },
    "Observe": {
        "make": "observe: {make: deployed-commit}",
        "url": "observe: {url: https://api.example.com/version}",
        "json": "observe: {url: https://api.example.com/version, json: /build/commit}",
        "every": "observe: {make: deployed-commit, every: 1m}",
    },
}


def default(info: FieldInfo, name: str) -> str:
    """Return a field's default as YAML, or nothing where there is none."""
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "needed"
    if value is None or value in ((), {}, ""):
        return ""
    if isinstance(value, Spec):
        return "see below"
    if isinstance(value, tuple):
        return "`[{make: deploy}]`"
    if name.endswith("_s"):
        return f"`{format_duration(value)}`"
    return f"`{json.dumps(value) if isinstance(value, bool) else value:}`"


def text() -> str:
    """Return the page as it is committed."""
    lines = [HEAD]
    for title, words, model in SECTIONS:
        lines.append(f"## {title}\n")
        if words:
            lines.append(words + "\n")
        lines += ["| key | default | what it is | example |", "|---|---|---|---|"]
        for name, info in model.model_fields.items():
            if (model, name) != (Target, "name"):
                key = info.alias or name
                example = EXAMPLES[model.__name__][key]
                lines.append(f"| `{key}` | {default(info, name)} | {info.description} | `{example}` |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
