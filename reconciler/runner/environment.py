"""What a step sees: an environment built from nothing.

Never MAKEFLAGS (with `n` in it `make deploy` prints and does nothing), VIRTUAL_ENV, GIT_*, LD_* or anything of
the daemon's own: only what the settings and the target name. Precedence: ours, one-time, step, target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.model import Deploy
from reconciler.spec import Step, Target

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ALWAYS_PASSED = ("HOME", "TZ")


def step_environment(
    daemon: Mapping[str, str],
    pass_env: Sequence[str],
    target: Target,
    step: Step,
    deploy: Deploy,
    extra: Mapping[str, str],
) -> dict[str, str]:
    """Return the whole environment of one step. `extra` holds secrets and one-time variables."""
    passed = {name: daemon[name] for name in (*_ALWAYS_PASSED, *pass_env) if name in daemon}
    return {
        "PATH": DEFAULT_PATH,
        "HOME": "/",
        **passed,
        "LANG": "C.UTF-8",
        **target.env,
        **step.env,
        **extra,
        "RECONCILER_TARGET": target.name,
        "RECONCILER_COMMIT": deploy.version.commit,
        "RECONCILER_PREVIOUS_COMMIT": deploy.previous_commit or "",
        "RECONCILER_REPO": target.source,
        "RECONCILER_DEPLOY_ID": deploy.id,
        "RECONCILER_REASON": deploy.cause,
        "RECONCILER_FENCING_TOKEN": str(deploy.fence),
    }
