"""Supervised deploys, with real processes: what a step may do, and how each ends."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.needs import need

from reconciler.model import Deploy, DeployStatus, Outcome, OutcomeReason, StartReason, Version
from reconciler.runner import cgroups, deploys, output
from reconciler.runner.deploys import Job, RunningDeploy, Supervisors
from reconciler.runner.environment import step_environment
from reconciler.runner.secrets import masks
from reconciler.runner.supervisor import HEAD_BYTES, SEGMENT_BYTES, Output
from reconciler.spec import Step, Target

DEPLOY = (Step.model_validate({"make": "deploy"}),)
GRACE_S = 0.5
TIMES = re.compile(r"  \(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\)")  # behind each step's heading
NOW = datetime(2026, 11, 20, tzinfo=UTC)


class Bench:
    """One deploy on a bench: a tree, a supervisor, and what came of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "runs" / "api.1"
        self.tree = self.folder / "checkout"
        self.tree.mkdir(parents=True)
        self.id = f"bench.{os.getpid()}.{id(self)}"
        self.cgroup: Path | None = None

    def job(
        self,
        steps: Sequence[Step] = DEPLOY,
        timeout_s: float = 20,
        path: str = ".",
        lease_s: float = 120,
        secrets: Sequence[str] = (),
    ) -> Job:
        env = {"PATH": os.environ["PATH"], "RECONCILER_DEPLOY_ID": self.id, "OUT": str(self.root)}
        return Job(
            deploy_id=self.id,
            folder=self.folder,
            log=self.root / "log",
            path=path,
            steps=[(step, {**env, **step.env}) for step in steps],
            timeout_s=timeout_s,
            grace_s=GRACE_S,
            lease_end=time.clock_gettime(time.CLOCK_BOOTTIME) + lease_s,
            masks=masks(secrets),
        )

    def run(
        self, makefile: str | None = None, during: Callable[[RunningDeploy], object] | None = None, **keys: object
    ) -> Outcome:
        if makefile is not None:
            (self.tree / "Makefile").write_text(makefile)

        async def go() -> Outcome:
            self.supervisors = Supervisors(lambda: self.cgroup)
            running = await self.supervisors.start(self.job(**keys))  # type: ignore[arg-type]
            if during is not None:
                made = during(running)
                if asyncio.iscoroutine(made):
                    await made
            outcome = await running.wait()
            await self.supervisors.close()
            return outcome

        return asyncio.run(go())

    @property
    def output(self) -> str:
        return TIMES.sub("", output.read_all(self.root / "log"))

    def survivors(self) -> list[int]:
        cookie = b"RECONCILER_DEPLOY_ID=" + self.id.encode()
        return [pid for pid in deploys._processes() if cookie in deploys._environment(pid)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def recipe(*lines: str) -> str:
    return ".PHONY: deploy\ndeploy:\n" + "".join(f"\t{line}\n" for line in lines)


def test_a_good_deploy(bench: Bench) -> None:
    found = bench.run(recipe("@echo hello; echo oops >&2"))
    assert found.status is DeployStatus.SUCCEEDED
    assert (found.exit_code, found.reason) == (0, None)
    assert bench.output == "==> make deploy\nhello\noops\n"
    assert found.output_bytes == len(output.read_all(bench.root / "log"))
    assert TIMES.search(output.read_all(bench.root / "log"))
    assert [step.title for step in found.steps] == ["make deploy"]


def test_steps_run_in_order_and_the_first_failure_ends_it(bench: Bench) -> None:
    steps = [
        Step.model_validate({"make": "test"}),
        Step.model_validate({"run": ["sh", "-c", "echo two $X; exit 3"], "env": {"X": "x"}}),
        Step.model_validate({"make": "deploy"}),
    ]
    found = bench.run(".PHONY: test deploy\ntest:\n\t@echo one\ndeploy:\n\t@echo three\n", steps=steps)
    assert (found.status, found.reason, found.exit_code) == ("failed", "exit_code", 3)
    assert found.message == "sh -c echo two $X; exit 3 exited with 3"
    assert [step.exit_code for step in found.steps] == [0, 3]
    assert "three" not in bench.output


@pytest.mark.parametrize(
    ("makefile", "files", "reason"),
    [
        (recipe("exit 3"), [], "exit_code"),
        (recipe("kill -9 $$$$"), [], "killed"),
        (recipe("kill -TERM $$$$"), [], "killed"),
        ("build:\n\techo x\n", [], "no_such_make_target"),
        ("deploy: missing\n\techo x\n", [], "exit_code"),
        ("deploy\n", [], "exit_code"),
        (None, [], "no_makefile"),
        ("deploy:\n\techo x\n", ["deploy"], "nothing_to_do"),
        ("deploy:\n\techo x\n", ["deploy/file"], "nothing_to_do"),
        ("MAKEFLAGS += -s\ndeploy:\n\techo x\n", ["deploy"], "nothing_to_do"),
        ("deploy:\n", [], "nothing_to_do"),
        (".PHONY: deploy\ndeploy:\n", [], "nothing_to_do"),
    ],
)
def test_a_false_success_is_a_failure_with_its_reason(
    bench: Bench, makefile: str | None, files: list[str], reason: str
) -> None:
    for name in files:
        (bench.tree / name).parent.mkdir(exist_ok=True)
        (bench.tree / name).write_text("")
    found = bench.run(makefile)
    assert (found.status, found.reason) == ("failed", reason)
    assert found.message
    assert found.message in bench.output


def test_a_phony_target_runs_beside_a_file_of_its_name(bench: Bench) -> None:
    (bench.tree / "deploy").write_text("")
    assert bench.run(recipe("@echo really")).status is DeployStatus.SUCCEEDED
    assert "really" in bench.output


def test_a_recipe_that_prints_the_words_of_make_is_not_mistaken(bench: Bench) -> None:
    found = bench.run(recipe("@echo \"make: 'deploy' is up to date.\"", "@echo done"))
    assert found.status is DeployStatus.SUCCEEDED


def test_a_makefile_that_leaves_the_tree_is_not_read(bench: Bench) -> None:
    outside = bench.root / "outside.mk"
    outside.write_text(recipe(f"touch {bench.root}/pwned"))
    (bench.tree / "Makefile").symlink_to(outside)
    found = bench.run()
    assert (found.status, found.reason) == ("failed", "makefile_not_regular")
    assert not (bench.root / "pwned").exists()


def test_a_makefile_that_is_a_link_inside_the_tree_is_fine(bench: Bench) -> None:
    (bench.tree / "real.mk").write_text(recipe("@echo x"))
    (bench.tree / "Makefile").symlink_to("real.mk")
    assert bench.run().status is DeployStatus.SUCCEEDED


def test_the_makefile_is_the_one_that_make_would_take(bench: Bench) -> None:
    (bench.tree / "GNUmakefile").write_text(recipe("@echo gnu"))
    bench.run(recipe("@echo plain"))
    assert "gnu" in bench.output


@pytest.mark.parametrize("path", ["missing", "link"])
def test_a_path_that_is_not_in_the_tree(bench: Bench, path: str) -> None:
    (bench.tree / "link").symlink_to("/")
    found = bench.run(recipe("true"), path=path)
    assert (found.status, found.reason) == ("failed", "no_such_path")


def test_a_path_is_where_make_runs(bench: Bench) -> None:
    (bench.tree / "services" / "api").mkdir(parents=True)
    (bench.tree / "services" / "api" / "Makefile").write_text(recipe("@pwd"))
    bench.run(path="services/api")
    assert "checkout/services/api\n" in bench.output


def test_a_command_that_is_not_there(bench: Bench) -> None:
    found = bench.run(steps=[Step.model_validate({"run": ["no-such-program"]})])
    assert (found.status, found.reason) == ("failed", "not_executable")
    assert found.message == "no-such-program cannot be run: No such file or directory"


def test_a_step_has_no_input_and_no_open_files_of_ours(bench: Bench) -> None:
    found = bench.run(recipe("@cat; ls /proc/$$$$/fd | tr '\\n' ' '"))
    assert found.status is DeployStatus.SUCCEEDED
    assert bench.output.split("\n")[1].split() in (["0", "1", "2"], ["0", "1", "10", "2"], ["0", "1", "2", "3"])


def test_no_signal_is_ignored_or_blocked_in_a_step(bench: Bench) -> None:
    bench.run(recipe("@grep -E 'Sig(Ign|Blk)' /proc/self/status"))
    values = [line.split()[1] for line in bench.output.splitlines() if line.startswith("Sig")]
    assert [int(value, 16) & 0x7FFFEFFF for value in values] == [0, 0]


# --- the end of a deploy is the end of its tree -----------------------------------------------------------

HOSTILE = {
    "ignores TERM": recipe("trap '' TERM INT HUP; while :; do sleep 0.05; done"),
    "never ends": recipe("sleep 1000"),
    "daemonised child": recipe("setsid -f sh -c 'trap \"\" TERM; sleep 1000'; sleep 1000"),
    "double fork": recipe("(setsid sh -c '(sleep 1000 &) ; sleep 1000' &) ; sleep 1000"),
    "nested make": recipe("$(MAKE) -f Makefile inner") + "inner:\n\tsleep 1000 & sleep 1000\n",
    "fork loop": recipe("while :; do (sleep 0.2 &) ; sleep 0.02; done"),
    "stopped child": recipe("sh -c 'kill -STOP $$$$' & sleep 1000"),
    "floods": recipe("yes"),
}


@pytest.mark.parametrize("makefile", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_time_out_ends_the_whole_tree(bench: Bench, makefile: str) -> None:
    began = time.monotonic()
    found = bench.run(makefile, timeout_s=0.7)
    assert (found.status, found.reason) == ("timed_out", "timeout")
    assert found.message == "the deploy took longer than 0.7 s"
    assert bench.survivors() == []
    assert time.monotonic() - began < 30  # not a benchmark: it ends at all


@pytest.mark.parametrize(
    "left", ["sleep 1000 &", "setsid -f sleep 1000", "(trap '' TERM; sleep 1000) &", "env -i setsid -f sleep 54321"]
)
def test_what_a_good_deploy_leaves_in_the_background_ends_with_it(bench: Bench, left: str) -> None:
    found = bench.run(recipe(f"{left} echo done" if left.endswith("&") else f"{left}; echo done"))
    assert found.status is DeployStatus.SUCCEEDED
    assert bench.survivors() == []
    assert subprocess.run(["pgrep", "-f", "sleep 54321"], capture_output=True, check=False).stdout == b""


def test_a_step_has_its_own_time_limit(bench: Bench) -> None:
    steps = [Step.model_validate({"make": "deploy", "timeout": "300ms"})]
    found = bench.run(recipe("sleep 1000"), steps=steps)
    assert (found.status, found.message) == ("timed_out", "make deploy took longer than its timeout")


def test_a_deploy_can_be_stopped(bench: Bench) -> None:
    async def stop(running: RunningDeploy) -> None:
        while "started" not in bench.output:
            await asyncio.sleep(0.01)
        await running.stop(OutcomeReason.OBSOLETE, "a newer version is wanted")

    found = bench.run(recipe("@echo started; sleep 1000"), during=stop)
    assert (found.status, found.reason, found.message) == ("cancelled", "obsolete", "a newer version is wanted")
    assert bench.survivors() == []


def test_a_lease_that_is_not_renewed_ends_the_deploy(bench: Bench) -> None:
    found = bench.run(recipe("sleep 1000"), lease_s=1.0)
    assert (found.status, found.reason) == ("abandoned", "lease_expired")


def test_a_renewed_lease_goes_on(bench: Bench) -> None:
    async def renew(running: RunningDeploy) -> None:
        await running.renew(time.clock_gettime(time.CLOCK_BOOTTIME) + 120)

    found = bench.run(recipe("sleep 1; echo done"), lease_s=1.0, during=renew)
    assert found.status is DeployStatus.SUCCEEDED


# --- deaths -----------------------------------------------------------------------------------------------

DAEMON = """
import asyncio, json, sys
from pathlib import Path
from reconciler.runner.deploys import Job, Supervisors
from reconciler.spec import Step

async def main():
    root, deploy_id, path, group = sys.argv[1:]
    env = {"PATH": path, "RECONCILER_DEPLOY_ID": deploy_id}
    job = Job(deploy_id=deploy_id, folder=Path(root) / "runs" / "api.1", log=Path(root) / "log", path=".",
              steps=[(Step(make="deploy"), env)], timeout_s=1000, grace_s=0.3, lease_end=1e12)
    # Another one waits for the next deploy, and dies with us.
    running = await Supervisors(lambda: Path(group) if group else None).start(job)
    print("started", flush=True)
    await running.wait()

asyncio.run(main())
"""
TREE = recipe("echo up; trap '' TERM; (setsid sleep 1000 &); $(MAKE) -f Makefile inner") + "inner:\n\tsleep 1000\n"


def killed_daemon(bench: Bench, makefile: str) -> subprocess.Popen[str]:
    """Start a stand-in for the daemon that runs one deploy; return it once the recipe runs."""
    (bench.tree / "Makefile").write_text(makefile)
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(bench.root), bench.id, os.environ["PATH"], str(bench.cgroup or "")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=bench.root,  # not the source tree: what is imported is what is installed, or what PYTHONPATH says
    )
    deadline = time.monotonic() + 20
    while "up" not in bench.output and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "up" in bench.output
    return daemon


def supervisor_of(bench: Bench, daemon: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    (found,) = [pid for pid in children if Path(f"/proc/{pid}/cwd").readlink() == bench.folder]
    return int(found)


def end(daemon: subprocess.Popen[str]) -> None:
    daemon.kill()
    daemon.communicate()


@pytest.mark.parametrize("patience_s", [10.0, 0.0], ids=["the supervisor ends it", "the next daemon ends it"])
def test_nothing_outlives_a_killed_daemon(bench: Bench, patience_s: float) -> None:
    end(killed_daemon(bench, TREE))
    found = deploys.recover(bench.folder, bench.id, patience_s)
    assert found.status is DeployStatus.ABANDONED
    assert found.reason in (OutcomeReason.DAEMON_DIED, OutcomeReason.SUPERVISOR_DIED)
    assert bench.survivors() == []


def test_nothing_outlives_a_killed_daemon_and_its_supervisor(bench: Bench) -> None:
    daemon = killed_daemon(bench, TREE)
    supervisor = supervisor_of(bench, daemon)
    end(daemon)
    os.kill(supervisor, signal.SIGKILL)
    found = deploys.recover(bench.folder, bench.id, 10)
    assert (found.status, found.reason) == ("abandoned", "daemon_died")
    assert bench.survivors() == []


@pytest.fixture
def grouped(bench: Bench) -> Iterator[Bench]:
    bench.cgroup = cgroups.make(bench.folder.parent)
    writable = bench.cgroup is not None
    if os.geteuid() == 0:
        need(writable, "a cgroup v2 that may be written", "mount cgroup2, or run without root to skip this")
    elif not writable:
        pytest.skip("only root, or a systemd unit with Delegate=yes, may make control groups")
    yield bench
    assert bench.cgroup is not None
    cgroups.kill(bench.cgroup)
    assert not bench.cgroup.exists()


def test_a_control_group_ends_what_clears_its_environment(grouped: Bench) -> None:
    daemon = killed_daemon(grouped, recipe("echo up; env -i setsid -f sleep 98765; sleep 1000"))
    supervisor = supervisor_of(grouped, daemon)
    os.kill(supervisor, signal.SIGSTOP)
    end(daemon)
    os.kill(supervisor, signal.SIGKILL)
    assert deploys.recover(grouped.folder, grouped.id, 10).status is DeployStatus.ABANDONED
    assert subprocess.run(["pgrep", "-f", "sleep 98765"], capture_output=True, check=False).stdout == b""


def test_a_control_group_ends_a_fork_loop(grouped: Bench) -> None:
    found = grouped.run(HOSTILE["fork loop"], timeout_s=0.5)
    assert found.status is DeployStatus.TIMED_OUT
    assert grouped.survivors() == []


def test_a_killed_supervisor_is_noticed_and_its_children_killed(bench: Bench) -> None:
    async def kill(running: RunningDeploy) -> None:
        while "up" not in bench.output:
            await asyncio.sleep(0.01)
        running._process.kill()

    found = bench.run(TREE, during=kill)
    assert (found.status, found.reason) == ("abandoned", "supervisor_died")
    assert bench.survivors() == []


@pytest.mark.parametrize("installed", ["in the same place", "elsewhere"])
def test_a_deploy_of_the_same_id_under_another_daemon_is_left_alone(
    bench: Bench, tmp_path: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Bench(tmp_path / "other")
    other.id = bench.id
    if installed == "elsewhere":
        package = Path(deploys.__file__).parents[1]
        shutil.copytree(package, tmp_path / "copy" / "reconciler")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "copy"))
    daemon = killed_daemon(other, TREE)
    supervisor = supervisor_of(other, daemon)
    is_copy = str(tmp_path / "copy").encode() in Path(f"/proc/{supervisor}/cmdline").read_bytes()
    assert is_copy is (installed == "elsewhere")
    assert deploys.recover(bench.folder, bench.id, 0).status is DeployStatus.ABANDONED
    assert other.survivors()
    end(daemon)
    deploys.recover(other.folder, other.id, 10)
    assert other.survivors() == []


def test_a_result_that_was_written_is_adopted(bench: Bench) -> None:
    daemon = killed_daemon(bench, recipe("echo up"))
    while not (bench.folder / "result.json").exists():
        time.sleep(0.01)
    end(daemon)
    assert deploys.recover(bench.folder, bench.id, 1).status is DeployStatus.SUCCEEDED


def test_a_deploy_that_never_began_is_abandoned(tmp_path: Path) -> None:
    assert deploys.recover(tmp_path / "nothing", "api.99", 1).status is DeployStatus.ABANDONED


# --- output -----------------------------------------------------------------------------------------------


def test_a_flood_keeps_head_and_tail_and_counts_the_middle(bench: Bench) -> None:
    found = bench.run(recipe("@echo first; head -c 50000000 /dev/zero | tr '\\0' x; echo; echo last"))
    kept = bench.output
    assert found.status is DeployStatus.SUCCEEDED
    assert found.output_bytes == 50_000_000 + len("==> make deploy  (2026-11-20T00:00:00Z)\nfirst\n\nlast\n")
    assert kept.startswith("==> make deploy\nfirst\n")
    assert kept.endswith("\nlast\n")
    assert f"… {found.output_omitted_bytes} bytes left out …" in kept
    assert len(kept) < HEAD_BYTES + 6 * SEGMENT_BYTES


def test_output_is_read_while_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    assert output.read(folder, 0) is None
    writer = Output(folder, [])
    writer.write(b"one\n")
    first = output.read(folder, 0)
    assert first is not None
    assert (first.data, first.next_offset) == (b"one\n", 4)
    assert output.read(folder, 4) is None
    writer.write(b"two\n")
    second = output.read(folder, 4)
    assert second is not None
    assert second.data == b"two\n"
    writer.close()


def test_invalid_utf8_and_controls_are_stored_as_they_are(bench: Bench) -> None:
    found = bench.run(recipe("@printf '\\377\\000\\033[31m\\n'"))
    assert found.status is DeployStatus.SUCCEEDED
    assert b"\xff\x00\x1b[31m\n" in (bench.root / "log" / f"{0:015d}").read_bytes()


# --- secrets ----------------------------------------------------------------------------------------------

SECRET = 'p4ss/wörd+"x"&y'


def test_no_form_of_a_secret_is_stored(bench: Bench) -> None:
    forms = [
        SECRET,
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.quote_plus(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        base64.b64encode(f"me:{SECRET}".encode()).decode(),
        base64.urlsafe_b64encode(f"x{SECRET}".encode()).decode(),
        json.dumps(SECRET)[1:-1],
    ]
    (bench.tree / "out.txt").write_text("\n".join(f"[{form}]" for form in forms))
    bench.run(recipe("@cat out.txt"), secrets=[SECRET])
    stored = bench.output
    assert SECRET not in stored
    for form in forms:
        core = form.rstrip("=")[4:-4]
        assert core not in stored, form
    assert stored.count("***") >= len(forms)


def test_a_secret_split_over_two_reads_is_masked(bench: Bench) -> None:
    bench.run(
        recipe("@printf 'a hunter'; sleep 0.2; printf '2hunter2 b'; sleep 0.2; echo hunter"), secrets=["hunter2hunter2"]
    )
    assert bench.output == "==> make deploy\na *** bhunter\n"


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["secret", "se", "cret", "sec", "ret", "x", "s", "secre", "tt", "\n"]), max_size=20),
    st.integers(1, 7),
)
def test_masking_does_not_depend_on_how_output_is_cut(parts: list[str], size: int) -> None:
    import tempfile  # noqa: PLC0415 - a fixture is not made anew for each example

    text = "".join(parts).encode()
    with tempfile.TemporaryDirectory() as root:
        whole, cut = Output(Path(root) / "w", [b"secret"]), Output(Path(root) / "c", [b"secret"])
        whole.write(text)
        for begin in range(0, len(text), size):
            cut.write(text[begin : begin + size])
        whole.close()
        cut.close()
        assert output.read_all(Path(root) / "w") == output.read_all(Path(root) / "c")
        assert "secret" not in output.read_all(Path(root) / "c")


# --- the environment --------------------------------------------------------------------------------------


def test_a_step_sees_exactly_what_is_promised() -> None:
    target = Target.model_validate(
        {"name": "api", "repo": "git@h:x.git", "commit": "a" * 40, "env": {"A": "target", "B": "target", "C": "target"}}
    )
    step = Step.model_validate({"make": "deploy", "env": {"B": "step", "C": "step"}})
    deploy = Deploy(
        id="api.7",
        target="api",
        fence=7,
        version=Version("a" * 40, "d"),
        cause=StartReason.RETRY,
        message="",
        status=DeployStatus.PENDING,
        created_at=NOW,
        deadline=NOW,
        previous_commit=None,
    )
    daemon = {
        "PATH": "/bin",
        "HOME": "/root",
        "TZ": "UTC",
        "AWS_PROFILE": "prod",
        "MAKEFLAGS": "n",
        "MAKELEVEL": "1",
        "VIRTUAL_ENV": "/v",
        "GIT_DIR": "/g",
        "LD_PRELOAD": "/x.so",
        "PYTHONPATH": "/p",
        "NOTIFY_SOCKET": "/n",
        "RECONCILER_API_TOKEN_FILE": "/t",
        "DATABASE_URL": "secret",
        "LANG": "de_DE.UTF-8",
    }
    found = step_environment(daemon, ("PATH", "AWS_PROFILE"), target, step, deploy, {"C": "once"})
    assert found == {
        "PATH": "/bin",
        "HOME": "/root",
        "TZ": "UTC",
        "LANG": "C.UTF-8",
        "AWS_PROFILE": "prod",
        "A": "target",
        "B": "step",
        "C": "once",
        "RECONCILER_TARGET": "api",
        "RECONCILER_COMMIT": "a" * 40,
        "RECONCILER_PREVIOUS_COMMIT": "",
        "RECONCILER_REPO": "ssh://git@h/x.git",
        "RECONCILER_DEPLOY_ID": "api.7",
        "RECONCILER_REASON": "retry",
        "RECONCILER_FENCING_TOKEN": "7",
    }


def test_without_path_in_pass_env_programs_are_found() -> None:
    target = Target.model_validate({"name": "api", "repo": "git@h:x", "commit": "a" * 40})
    deploy = Deploy(
        id="api.7",
        target="api",
        fence=7,
        version=Version("a" * 40, "d"),
        cause=StartReason.RETRY,
        message="",
        status=DeployStatus.PENDING,
        created_at=NOW,
        deadline=NOW,
    )
    assert "/usr/bin" in step_environment({}, (), target, target.steps[0], deploy, {})["PATH"]
