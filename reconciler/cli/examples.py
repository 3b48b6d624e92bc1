"""What stands below the help of every verb: examples to copy, and what its exit codes mean."""

from __future__ import annotations

_IN_SYNC = "0 all in sync, 1 not, 2 it cannot be told, 78 the settings are wrong"
_PUSHED = "0 done, 1 refused, 2 it cannot be done, 78 the settings are wrong"
_DONE = "0 done, 2 it cannot be done, 78 the settings are wrong"

# Verb to examples and exit codes.
EXAMPLES: dict[str, tuple[tuple[str, ...], str]] = {
    "run": (
        (
            "reconciler run --config /etc/reconciler.yaml",
            "reconciler run --once --config-repo https://git.example.com/acme/deployments.git --state-dir ~/state",
            "RECONCILER_LISTEN=127.0.0.1:9000 reconciler run --config reconciler.yaml --wait",
        ),
        "0 stopped, or with --once all in sync; 1 not in sync; 2 it cannot run; 78 the settings are wrong",
    ),
    "plan": (
        ("reconciler plan --config reconciler.yaml", "reconciler plan -o json | jq '.targets[].decision'"),
        _IN_SYNC,
    ),
    "healthcheck": (
        ("reconciler healthcheck --listen 127.0.0.1:8080",),
        "0 its loop turns, 2 it does not, or no answer",
    ),
    "reconcile": (
        (
            "reconciler reconcile api-production",
            "reconciler reconcile api-staging api-production --env LEVEL=2 --now",
            "reconciler reconcile api --server https://deploys.example.com --token-file token",
        ),
        _DONE + ", 1 refused",
    ),
    "cancel": (("reconciler cancel api-production",), _DONE),
    "suspend": (
        ('reconciler suspend api-production --reason "migration" --until 2h', "reconciler suspend api --reason freeze"),
        _DONE,
    ),
    "resume": (("reconciler resume api-production",), _DONE),
    "pin": (
        (
            "reconciler pin api-production v1.4.2 --push",
            'reconciler pin api-production main --push-branch pin-api -m "Warmer greeting"',
            "reconciler pin api-production 9fceb02d | git am",
        ),
        _PUSHED,
    ),
    "promote": (
        (
            "reconciler promote api-staging api-production --push",
            "reconciler promote api-staging api-production | git am",
        ),
        _PUSHED,
    ),
    "rollback": (
        ("reconciler rollback api-production --push", "reconciler rollback api-production api-production.7 --push"),
        _PUSHED,
    ),
    "status": (
        (
            "reconciler status",
            "reconciler status api-production -o wide",
            "reconciler status -w",
            "reconciler status -o json",
        ),
        _IN_SYNC,
    ),
    "why": (("reconciler why api-production",), _DONE),
    "history": (("reconciler history api-production -n 5", "reconciler history api-production -o json"), _DONE),
    "logs": (("reconciler logs -f api-production", "reconciler logs api-production.7 --raw | less -R"), _DONE),
    "diff": (("reconciler diff api-production",), "0 both are one commit, 1 they differ, 2 it cannot be told"),
    "validate": (
        ("reconciler validate", "reconciler validate deployments/api.yaml --config reconciler.yaml"),
        "0 all valid, 1 something is not, 2 there is nothing to check, 78 the settings are wrong",
    ),
    "schema": (("reconciler schema > deployments.schema.json",), "0"),
    "init": (("reconciler init ~/deployments",), "0 made, 1 it is there already"),
    "version": (("reconciler version",), "0"),
    "completion": (
        (
            "reconciler completion bash > /etc/bash_completion.d/reconciler",
            "reconciler completion zsh > ~/.zfunc/_reconciler",
        ),
        "0",
    ),
    "demo": (("reconciler demo", "reconciler demo --once"), "0"),
}


def epilog(verb: str) -> str:
    """Return what stands below a verb's options."""
    lines, codes = EXAMPLES[verb]
    shown = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExamples:\n{shown}\n\n\b\nExit codes:\n  {codes}"
