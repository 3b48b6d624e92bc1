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

Accepted and not acted on yet, as `reconciler plan` says where they are used: `observe`, `submodules`,
`redeploy_on_secret_change`, `follow.write`, `follow.semver`. Without a pin `follow.semver` holds its target, and so
does `signed_by`: what cannot be resolved or checked is not deployed.
"""
SECTIONS: tuple[tuple[str, str, type[Spec]], ...] = (
    ("A target", "", Target),
    ("Steps", "`steps` is a list of these; the default is `[{make: deploy}]`.", Step),
    ("Follow", "`follow: main` is short for `follow: {branch: main}`.", Follow),
    ("Retry", "", Retry),
    ("Observe", "", Observe),
)


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
        lines += ["| key | default | what it is |", "|---|---|---|"]
        for name, info in model.model_fields.items():
            if (model, name) != (Target, "name"):
                lines.append(f"| `{info.alias or name}` | {default(info, name)} | {info.description} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
