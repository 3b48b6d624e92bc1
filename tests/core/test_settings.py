from __future__ import annotations

import pytest

from reconciler.config.settings import Settings, load
from reconciler.errors import SettingsError

EVERYTHING = b"""\
config_repo: {url: https://git.example.com/acme/deployments.git, branch: main, path: deployments, interval: 60s,
              fast_forward_only: false}
state_dir: /var/lib/reconciler
listen: 127.0.0.1:8080
webhook_listen: 0.0.0.0:8081
api_token_file: null
max_concurrent_deploys: 4
git_timeout: 60s
forget_after: 24h
allow_local_repos: false
allow_http: false
credentials:
  - {url: https://git.example.com/acme/, username: bot, password_file: /run/secrets/git}
  - {url: ssh://git@git.example.com/, ssh_key_file: /run/secrets/key, known_hosts_file: /etc/known_hosts}
webhooks: {github: {secret_files: [/run/secrets/hook]}}
key_sets: {release-keys: {allowed_signers_file: /etc/reconciler/allowed_signers}}
secrets_dir: /run/secrets/reconciler
age_identity_file: /run/secrets/age
pass_env: [PATH, AWS_PROFILE]
log: {format: auto, level: info}
"""


def settings(
    text: str = "", env: dict[str, str] | None = None, flags: dict[tuple[str, ...], str] | None = None
) -> Settings:
    return load(text.encode(), "r.yaml", env or {}, flags or {})


def complaints(text: str = "", env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as error:
        settings(text, env)
    return str(error.value).splitlines()


def test_every_key_of_the_contract_is_accepted() -> None:
    found = load(EVERYTHING, "r.yaml", {}, {})
    assert found.config_repo is not None
    assert found.config_repo.interval_s == 60
    assert found.credentials[0].username == "bot"
    assert found.webhooks["github"].secret_files == ("/run/secrets/hook",)


def test_nothing_is_needed() -> None:
    found = load(None, "r.yaml", {}, {})
    assert found.config_repo is None
    assert found.url_policy.allow_local is False
    assert (found.state_dir, found.listen_address) == ("/var/lib/reconciler", ("127.0.0.1", 8080))
    assert found.webhook_address is None


def test_the_config_repository_is_signed_by_known_keys() -> None:
    text = "config_repo: {url: https://h/x, signed_by: [ours]}"
    assert "config_repo.signed_by names ours, which is not in key_sets" in complaints(text)[0]
    assert settings(text + "\nkey_sets: {ours: {gpg_keys_file: /k}}").key_sets["ours"].gpg_keys_file == "/k"


def test_every_file_that_is_read_later_is_known_with_its_key() -> None:
    found = load(EVERYTHING, "r.yaml", {}, {}).files
    assert found["webhooks.github.secret_files[0]"] == "/run/secrets/hook"
    assert found["key_sets.release-keys"] == "/etc/reconciler/allowed_signers"
    assert found["credentials[0].password_file"] == "/run/secrets/git"
    assert None not in found.values()


def test_a_listener_for_webhooks_may_be_public_without_a_token() -> None:
    assert settings("webhook_listen: '[::]:8081'").webhook_address == ("::", 8081)


def test_flags_win_over_the_environment_and_that_over_the_file() -> None:
    text = "state_dir: /file\nlisten: 127.0.0.1:1\nmax_concurrent_deploys: 1\n"
    env = {"RECONCILER_STATE_DIR": "/env", "RECONCILER_LISTEN": "127.0.0.1:2"}
    found = settings(text, env, {("state_dir",): "/flag"})
    assert (found.state_dir, found.listen, found.max_concurrent_deploys) == ("/flag", "127.0.0.1:2", 1)


def test_nested_and_structured_variables() -> None:
    found = settings(
        "config_repo: {url: https://h/x}",
        {
            "RECONCILER_CONFIG_REPO__BRANCH": "production",
            "RECONCILER_PASS_ENV": "[PATH, AWS_PROFILE]",
            "RECONCILER_ALLOW_HTTP": "1",
            "RECONCILER_LOG__LEVEL": "debug",
        },
    )
    assert found.config_repo is not None
    assert found.config_repo.branch == "production"
    assert found.pass_env == ("PATH", "AWS_PROFILE")
    assert found.allow_http
    assert found.log.level == "debug"


def test_variables_that_steps_see_are_no_settings() -> None:
    settings(
        "", {"PATH": "/bin", "RECONCILER_TARGET": "api", "RECONCILER_DEPLOY_ID": "api.1", "RECONCILER_CONFIG": "/x"}
    )


@pytest.mark.parametrize(
    ("text", "env", "expected"),
    [
        ("state_dri: /x", {}, ["r.yaml:1:1: state_dri: unknown key; did you mean state_dir?"]),
        (
            "config_repo: {url: https://h/x, brnch: x}",
            {},
            ["r.yaml:1:33: config_repo.brnch: unknown key; did you mean branch?"],
        ),
        (
            "",
            {"RECONCILER_STAT_DIR": "x"},
            ["RECONCILER_STAT_DIR: unknown variable; did you mean RECONCILER_STATE_DIR?"],
        ),
        ("", {"RECONCILER_PASS_ENV": "[PATH"}, ["RECONCILER_PASS_ENV:2:1: not valid YAML"]),
        (
            "",
            {"RECONCILER_MAX_CONCURRENT_DEPLOYS": "many"},
            ["RECONCILER_MAX_CONCURRENT_DEPLOYS: max_concurrent_deploys: expected a whole number"],
        ),
        ("listen: everywhere", {}, ["r.yaml:1:1: listen: expected HOST:PORT, such as 127.0.0.1:8080"]),
        ("listen: 0.0.0.0:80", {}, ["r.yaml", "api_token_file is required"]),
        ("listen: example.com:80", {}, ["r.yaml", "api_token_file is required"]),
        ("config_repo: {url: /srv/x}", {}, ["r.yaml:1:15: config_repo.url: a local repository"]),
        ("config_repo: {}", {}, ["r.yaml:1:1: config_repo.url: is missing"]),
        (
            "credentials: [{url: https://h/, password_file: /x}]",
            {},
            ["r.yaml:1:15: credentials[0]: password_file needs username"],
        ),
        (
            "credentials: [{url: 'ssh://git@h/x', proxy: 'http://proxy:3128'}]",
            {},
            ["r.yaml:1:15: credentials[0]: proxy goes with https URLs"],
        ),
        (
            "credentials: [{url: https://h/x, token_file: /x, ssh_key_file: /y}]",
            {},
            ["r.yaml:1:15: credentials[0]: expected one of password_file"],
        ),
        ("key_sets: {k: {}}", {}, ["r.yaml:1:12: key_sets.k: expected either allowed_signers_file or gpg_keys_file"]),
        ("webhooks: {githug: {secret_files: [/x]}}", {}, ["r.yaml:1:12: webhooks.githug: expected"]),
        ("allow_http: yes", {}, ["r.yaml:1:1: allow_http: expected true or false"]),
        ("pass_env: [MAKEFLAGS]", {}, ["r.yaml:1:12: pass_env[0]: this variable"]),
        ("a: 1\na: 2", {}, ["duplicate key"]),
        ("[", {}, ["r.yaml:", "not valid YAML"]),
        ("- a", {}, ["r.yaml:1:1: expected a mapping of settings"]),
    ],
)
def test_error(text: str, env: dict[str, str], expected: list[str]) -> None:
    said = "\n".join(complaints(text, env))
    for words in expected:
        assert words in said


def test_all_errors_at_once() -> None:
    assert len(complaints("state_dri: x\nlisten: y\nallow_http: z", {"RECONCILER_FOO": "1"})) == 4


def test_a_public_address_with_a_token_is_fine() -> None:
    assert settings("listen: 0.0.0.0:80\napi_token_file: /run/token").listen_address == ("0.0.0.0", 80)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:80", "[::1]:8080", "127.9.9.9:1"])
def test_loopback_needs_no_token(address: str) -> None:
    assert settings(f"listen: '{address}'").listen == address
