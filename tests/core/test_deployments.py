"""Deployments files: what is accepted, and what is said about the rest."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from reconciler.config.catalogue import KnownEntry, check, merge
from reconciler.config.deployments import ParsedFile, UrlPolicy, parse_file
from reconciler.config.jsonschema import deployments_schema
from reconciler.spec import Target

PIN = "9fceb02d0ae598e95dc970b74767f19372d61af8"
EVERYTHING = """\
# yaml-language-server: $schema=deployments.schema.json
defaults:
  repo: https://git.example.com/acme/api.git
  env: {REGION: eu-west-1, LEVEL: 1}
targets:
  api-production:
    commit: 9fceb02d0ae598e95dc970b74767f19372d61af8
    follow: main
    within: main
    signed_by: [release-keys]
    path: services/api
    steps:
      - make: test
      - make: deploy
        timeout: 20m
        env: {LEVEL: "2"}
      - run: [./smoke.sh, --fast]
    env: {LEVEL: 3}
    secrets: {COVERALLS_TOKEN: coveralls-token}
    timeout: 30m
    retry: {limit: 5, backoff: 5s, factor: 2, max_backoff: 3m}
    on_failure: rollback
    on_change: cancel
    depends_on: [database-production]
    windows: ["Mon-Fri 09:00-17:00 Europe/Berlin"]
    observe: {make: deployed-commit, every: 5m}
    lock: staging-cluster
    submodules: false
    suspend: false
    labels: {env: production, team: payments}
    interval: 60s
  database-production:
    follow: {semver: "^1.2", prefix: v}
    observe: {url: "https://db.example.com/version", json: /commit}
"""


def parsed(text: str, policy: UrlPolicy = UrlPolicy(), file: str = "a.yaml") -> ParsedFile:
    return parse_file(text.encode(), file, policy)


def problems(text: str, policy: UrlPolicy = UrlPolicy()) -> list[str]:
    return [str(problem) for problem in check([parsed(text, policy)]).problems]


def one(body: str) -> str:
    """Return a file with one target named api that has a repo and a pin and `body`."""
    return f"targets:\n  api:\n    repo: https://h/x.git\n    commit: {PIN}\n    {body}\n"


def test_every_key_of_the_contract_is_accepted() -> None:
    found = check([parsed(EVERYTHING)])
    assert [str(problem) for problem in found.problems] == []
    api = found.targets["api-production"]
    assert api.env == {"REGION": "eu-west-1", "LEVEL": "3"}
    assert [step.title for step in api.steps] == ["make test", "make deploy", "./smoke.sh --fast"]
    assert api.retry.max_backoff_s == 180
    assert found.targets["database-production"].follow is not None


def test_values_of_a_target() -> None:
    found = check([parsed(EVERYTHING)]).targets
    api, database = found["api-production"], found["database-production"]
    assert api.source == "https://git.example.com/acme/api.git"
    assert [str(window.zone) for window in api.open_windows] == ["Europe/Berlin"]
    assert database.observe is not None
    assert database.observe.json_pointer == "/commit"


def test_the_digest_covers_what_changes_a_deploy_and_nothing_else() -> None:
    base = check([parsed(one(""))]).targets["api"].digest
    for change in ("path: x", "steps: [{make: x}]", "env: {A: b}", "secrets: {A: b}", "submodules: true"):
        assert check([parsed(one(change))]).targets["api"].digest != base, change
    for change in ("timeout: 5m", "labels: {a: b}", "retry: {limit: 1}", "interval: 5s", "follow: main"):
        assert check([parsed(one(change))]).targets["api"].digest == base, change


def test_what_is_not_said_has_its_default() -> None:
    target = check([parsed(one(""))]).targets["api"]
    assert [step.title for step in target.steps] == ["make deploy"]
    assert (target.timeout_s, target.interval_s, target.path) == (1800, 60, ".")
    assert (target.retry.limit, target.retry.backoff_s, target.retry.factor) == (5, 5, 2)


def test_a_stored_entry_is_read_back_as_it_was() -> None:
    for target in check([parsed(EVERYTHING)]).targets.values():
        stored = json.loads(target.model_dump_json())
        assert Target.model_validate({**stored, "name": target.name}) == target


def test_an_empty_file_declares_nothing() -> None:
    for text in ("", "# nothing\n", "targets: {}\n"):
        assert problems(text) == []


ERRORS: list[tuple[str, str, list[str]]] = [
    (
        "an octal-looking commit is text",
        one("").replace(PIN, "0123456"),
        ["a.yaml:4:5: targets.api.commit: expected a full commit id of 40 or 64 lower-case hex digits"],
    ),
    (
        "a number-like commit is text",
        one("").replace(PIN, "12e4567"),
        ["a.yaml:4:5: targets.api.commit: expected a full commit id of 40 or 64 lower-case hex digits"],
    ),
    (
        "an abbreviated branch is no pin",
        one("").replace(PIN, "main"),
        ["a.yaml:4:5: targets.api.commit: expected a full commit id of 40 or 64 lower-case hex digits"],
    ),
    (
        "an unknown key names the nearest",
        one("retires: 3"),
        ["a.yaml:5:5: targets.api.retires: unknown key; did you mean retry?"],
    ),
    (
        "an unknown key below names the nearest",
        one("retry: {backof: 3s}"),
        ["a.yaml:5:13: targets.api.retry.backof: unknown key; did you mean backoff?"],
    ),
    ("an unknown top key", "target: {}\ntargets: {}\n", ["a.yaml:1:1: target: unknown key; did you mean targets?"]),
    (
        "a target without a repo",
        "targets:\n  api:\n    commit: " + PIN + "\n",
        ["a.yaml:2:3: targets.api.repo: is missing"],
    ),
    (
        "a target that asks for nothing",
        "targets:\n  api:\n    repo: https://h/x\n",
        ["a.yaml:2:3: targets.api: expected commit: FULL-ID or follow: BRANCH"],
    ),
    ("an empty entry", "targets:\n  api:\n", ["a.yaml:2:3: targets.api.repo: is missing"]),
    (
        "a bad name",
        one("").replace("api:", "API_1:"),
        [
            (
                "a.yaml:2:3: targets.API_1: a target's name: expected 1 to 63 lower-case letters, digits and dashes, "
                "beginning and ending with a letter or digit"
            )
        ],
    ),
    (
        "an absolute path",
        one("path: /etc"),
        ["a.yaml:5:5: targets.api.path: expected a path inside the repository, relative and without .."],
    ),
    (
        "a path that leaves the tree",
        one("path: a/../../b"),
        ["a.yaml:5:5: targets.api.path: expected a path inside the repository, relative and without .."],
    ),
    ("a path into .git", one("path: .git/hooks"), ["a.yaml:5:5: targets.api.path: a path cannot lead into .git"]),
    (
        "a URL with user information",
        one("").replace("https://h", "https://me:pw@h"),
        ["a.yaml:3:5: targets.api.repo: a URL carries no user information; put credentials into the daemon's settings"],
    ),
    (
        "a local repository is off",
        one("").replace("https://h/x.git", "/srv/x"),
        [
            (
                "a.yaml:3:5: targets.api.repo: a local repository; set allow_local_repos: true in "
                "the daemon's settings to use it"
            )
        ],
    ),
    (
        "a refused variable",
        one("env: {LD_PRELOAD: x}"),
        [
            (
                "a.yaml:5:11: targets.api.env.LD_PRELOAD: this variable is the daemon's, git's, the loader's "
                "or make's own; choose another name"
            )
        ],
    ),
    (
        "MAKEFLAGS is refused in a step too",
        one("steps: [{make: x, env: {MAKEFLAGS: n}}]"),
        [
            (
                "a.yaml:5:29: targets.api.steps[0].env.MAKEFLAGS: this variable is the daemon's, git's, the "
                "loader's or make's own; choose another name"
            )
        ],
    ),
    (
        "a variable that is none",
        one("env: {A-B: x}"),
        ["a.yaml:5:11: targets.api.env.A-B: expected a variable name of letters, digits and underscores"],
    ),
    (
        "a step with two commands",
        one("steps: [{make: x, run: [y]}]"),
        ["a.yaml:5:13: targets.api.steps[0]: expected either make: TARGET or run: [COMMAND, ARGUMENT, ...]"],
    ),
    (
        "a make target that is an option",
        one("steps: [{make: -n}]"),
        [
            (
                "a.yaml:5:14: targets.api.steps[0].make: expected a make target: letters, digits and _ . + / -, "
                "not beginning with a dash"
            )
        ],
    ),
    (
        "a duration without a unit",
        one("timeout: 5"),
        ["a.yaml:5:5: targets.api.timeout: expected a duration such as 90s, 5m or 1h30m"],
    ),
    ("a boolean of another language", one("suspend: yes"), ["a.yaml:5:5: targets.api.suspend: expected true or false"]),
    (
        "a word that is no choice",
        one("on_failure: explode"),
        ["a.yaml:5:5: targets.api.on_failure: expected 'hold' or 'rollback'"],
    ),
    ("a list where text is expected", one("path: [a]"), ["a.yaml:5:5: targets.api.path: expected text"]),
    ("text where a list is expected", one("depends_on: db"), ["a.yaml:5:5: targets.api.depends_on: expected a list"]),
    (
        "an unknown dependency names the nearest",
        one("depends_on: [ap]"),
        ["a.yaml:2:3: targets.api.depends_on[0]: unknown target 'ap'"],
    ),
    (
        "a target that depends on itself",
        one("depends_on: [api]"),
        ["a.yaml:2:3: targets.api: a target cannot depend on itself"],
    ),
    (
        "a duration of nothing",
        one("timeout: 0s"),
        ["a.yaml:5:5: targets.api.timeout: expected a duration of more than nothing"],
    ),
    (
        "a duration that is a list",
        one("timeout: [5m]"),
        ["a.yaml:5:5: targets.api.timeout: expected a duration such as 90s, 5m or 1h30m"],
    ),
    (
        "an empty command",
        one('steps: [{run: [""]}]'),
        ["a.yaml:5:13: targets.api.steps[0]: expected a command, found an empty word"],
    ),
    (
        "two things to follow",
        one("follow: {branch: a, tag: b}"),
        ["a.yaml:5:5: targets.api.follow: expected one of branch, tag or semver"],
    ),
    (
        "a prefix without a range",
        one("follow: {branch: a, prefix: v}"),
        ["a.yaml:5:5: targets.api.follow: prefix goes with semver"],
    ),
    (
        "two ways to observe",
        one("observe: {make: a, url: 'https://h/x'}"),
        ["a.yaml:5:5: targets.api.observe: expected either make: TARGET or url: ADDRESS"],
    ),
    (
        "a pointer without an address",
        one("observe: {make: a, json: /x}"),
        ["a.yaml:5:5: targets.api.observe: json goes with url"],
    ),
    (
        "a number beyond its bound",
        one("retry: {limit: 5000}"),
        ["a.yaml:5:13: targets.api.retry.limit: input should be less than or equal to 1000"],
    ),
    (
        "an entry that is text",
        "targets:\n  api: hello\n",
        ["a.yaml:2:8: targets.api: expected a mapping, found text"],
    ),
    (
        "defaults that are a list",
        "defaults: [a]\ntargets: {}\n",
        ["a.yaml:1:11: defaults: expected a mapping, found a list"],
    ),
    (
        "a bad window",
        one('windows: ["Mon 9-17"]'),
        ["a.yaml:5:15: targets.api.windows[0]: expected hours such as 09:00-17:00, found '9-17'"],
    ),
    (
        "a secret that is a path",
        one("secrets: {TOKEN: ../x}"),
        ["a.yaml:5:15: targets.api.secrets.TOKEN: expected a secret's name: letters, digits and _ . -, never a path"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_error(text: str, expected: list[str]) -> None:
    assert problems(text) == expected


def test_all_errors_at_once() -> None:
    text = one("path: /etc\n    timeout: x\n    lables: {}") + "  other: {repo: ftp://x/y}\n"
    assert [line.split(": ")[1] for line in problems(text)] == [
        "targets.api.path",
        "targets.api.timeout",
        "targets.api.lables",
        "targets.other.repo",
    ]


def test_a_value_is_never_repeated_in_an_error() -> None:
    text = one("env: {A: [s3cret-canary]}\n    secrets: {B: 's3cret canary'}\n    timeout: s3cret-canary")
    assert problems(text)
    assert "s3cret" not in "".join(problems(text))


def test_an_error_in_the_defaults_stands_where_they_stand() -> None:
    text = f"defaults: {{tiemout: 5m, repo: 'https://h/x'}}\ntargets:\n  a: {{commit: {PIN}}}\n  b: {{commit: {PIN}}}\n"
    assert [line.split(": ")[0] for line in problems(text)] == ["a.yaml:1:12", "a.yaml:1:12"]


# --- the catalogue ----------------------------------------------------------------------------------------


def entry(name: str, commit: str = PIN, extra: str = "") -> str:
    return f"  {name}: {{repo: 'https://h/x', commit: {commit}{extra}}}\n"


def file_of(name: str, *entries: str) -> ParsedFile:
    return parsed("targets:\n" + "".join(entries), file=name)


def known(*names: str, file: str = "a.yaml") -> dict[str, KnownEntry]:
    return dict(merge({}, [file_of(file, *map(entry, names))], "c1").entries)


OTHER = "b" * 40


def test_one_bad_entry_keeps_its_last_good_target_and_touches_no_other() -> None:
    after = merge(known("api", "web"), [file_of("a.yaml", entry("api", "nonsense"), entry("web", OTHER))], "c2")
    assert after.targets["api"].commit == PIN
    assert after.entries["api"].problems
    assert after.entries["api"].commit == "c1"
    assert after.targets["web"].commit == OTHER
    assert not after.entries["web"].problems


def test_a_bad_entry_that_was_never_good_is_known_without_a_target() -> None:
    after = merge({}, [file_of("a.yaml", entry("api", "nonsense"))], "c1")
    assert after.entries["api"].target is None
    assert after.targets == {}


def test_a_broken_file_keeps_all_of_its_entries_and_only_those() -> None:
    before = known("api", "web") | known("db", file="b.yaml")
    after = merge(before, [parsed("targets: [", file="a.yaml"), file_of("b.yaml", entry("db", OTHER))], "c2")
    assert {name: target.commit for name, target in after.targets.items()} == {"api": PIN, "web": PIN, "db": OTHER}
    assert "not valid YAML" in after.entries["api"].problems[0]


@pytest.mark.parametrize("order", [list, lambda files: files[::-1]], ids=["as written", "reversed"])
def test_two_claimants_of_a_name_both_lose_and_the_last_good_stays(
    order: Callable[[list[ParsedFile]], list[ParsedFile]],
) -> None:
    files = [file_of("a.yaml", entry("api", OTHER)), file_of("b.yaml", entry("api", "c" * 40))]
    after = merge(known("api"), order(files), "c2")
    assert after.targets["api"].commit == PIN
    assert len([line for line in map(str, after.problems) if "duplicate target name" in line]) == 2


def test_an_entry_may_move_to_another_file() -> None:
    after = merge(known("api"), [file_of("b.yaml", entry("api", OTHER))], "c2")
    assert after.entries["api"].place.file == "b.yaml"
    assert after.problems == ()


def test_what_vanishes_is_unmanaged() -> None:
    after = merge(known("api", "web", "db"), [file_of("a.yaml", entry("api"))], "c2")
    assert after.unmanaged == ("db", "web")
    assert set(after.entries) == {"api"}


def test_a_mass_vanish_waits_for_another_commit() -> None:
    before = known("a", "b", "c", "d")
    held = merge(before, [file_of("a.yaml", entry("a"))], "c2")
    assert set(held.entries) == {"a", "b", "c", "d"}
    assert "vanished with 3 of 4" in held.entries["b"].problems[0]
    again = merge(held.entries, [file_of("a.yaml", entry("a"))], "c2")  # a restart at the same commit
    assert set(again.entries) == {"a", "b", "c", "d"}
    confirmed = merge(held.entries, [file_of("a.yaml", entry("a", OTHER))], "c3")
    assert set(confirmed.entries) == {"a"}
    back = merge(held.entries, [file_of("a.yaml", *map(entry, "abcd"))], "c3")
    assert back.problems == ()
    assert all(found.vanished_in is None for found in back.entries.values())


def test_half_of_four_may_vanish() -> None:
    after = merge(known("a", "b", "c", "d"), [file_of("a.yaml", entry("a"), entry("b"))], "c2")
    assert after.unmanaged == ("c", "d")


def test_everyone_in_a_cycle_is_told_and_keeps_the_last_good() -> None:
    after = merge(
        known("a", "b", "c"),
        [
            file_of(
                "a.yaml",
                entry("a", OTHER, ", depends_on: [b]"),
                entry("b", OTHER, ", depends_on: [a]"),
                entry("c", OTHER),
            )
        ],
        "c2",
    )
    assert {name: target.commit for name, target in after.targets.items()} == {"a": PIN, "b": PIN, "c": OTHER}
    assert len([line for line in map(str, after.problems) if "a cycle" in line]) == 2


def test_a_symlink_to_nothing_is_no_yaml() -> None:
    assert parsed("../elsewhere.yaml").fatal


def test_the_schema_knows_every_key() -> None:
    found = deployments_schema()
    target = found["$defs"]["Target"]["properties"]
    for key in ("repo", "commit", "follow", "timeout", "retry", "windows", "observe", "interval"):
        assert key in target
        assert target[key]["description"]
    assert "name" not in target
    assert found["$defs"]["Retry"]["properties"].keys() == {"limit", "backoff", "factor", "max_backoff"}
