"""What we rely on in make and in the kernel."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEPLOY = "deploy:\n\t@echo really\n"


def make(folder: Path, *arguments: str, makefile: str = DEPLOY, **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "Makefile").write_text(makefile)
    path = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    return subprocess.run(["make", *arguments], cwd=folder, env=path | env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("flags", ["n", "q", "t"])
def test_makeflags_turns_a_deploy_into_nothing(tmp_path: Path, flags: str) -> None:
    # Why a step's environment is built from nothing.
    done = make(tmp_path, "deploy", MAKEFLAGS=flags)
    assert "really" not in done.stdout.splitlines()


def test_a_file_of_the_targets_name_makes_it_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "deploy").write_text("")
    done = make(tmp_path, "deploy")
    assert (done.returncode, done.stdout) == (0, "make: 'deploy' is up to date.\n")
    assert make(tmp_path, "-q", "deploy").returncode == 0
    phony = ".PHONY: deploy\n" + DEPLOY
    assert make(tmp_path, "-q", "deploy", makefile=phony).returncode == 1
    assert make(tmp_path, "deploy", makefile=phony).stdout == "really\n"


def test_a_target_without_a_recipe_succeeds_and_says_so(tmp_path: Path) -> None:
    done = make(tmp_path, "deploy", makefile="deploy:\n")
    assert (done.returncode, done.stdout) == (0, "make: Nothing to be done for 'deploy'.\n")


def test_a_silent_makefile_says_nothing(tmp_path: Path) -> None:
    # Why make is asked beforehand where a file has the target's name.
    (tmp_path / "deploy").write_text("")
    done = make(tmp_path, "deploy", makefile="MAKEFLAGS += -s\n" + DEPLOY)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_words_for_a_missing_target_and_a_killed_recipe(tmp_path: Path) -> None:
    done = make(tmp_path, "deploy", makefile="other:\n\ttrue\n")
    assert (done.returncode, done.stderr) == (2, "make: *** No rule to make target 'deploy'.  Stop.\n")
    done = make(tmp_path, "deploy", makefile="deploy:\n\t@kill -9 $$$$\n")
    assert (done.returncode, done.stderr) == (2, "make: *** [Makefile:2: deploy] Killed\n")
    assert make(tmp_path, "deploy", makefile="deploy:\n\t@exit 75\n").returncode == 2


def test_a_variable_of_the_environment_can_be_make_code(tmp_path: Path) -> None:
    # Why values that reach make are checked, and URLs with dollar signs refused.
    make(tmp_path, "deploy", makefile="deploy:\n\t@echo $(X)\n", X=f"$(shell touch {tmp_path}/pwned)")
    assert (tmp_path / "pwned").exists()


def test_makefiles_are_looked_for_in_this_order(tmp_path: Path) -> None:
    (tmp_path / "GNUmakefile").write_text("deploy:\n\t@echo gnu\n")
    (tmp_path / "makefile").write_text("deploy:\n\t@echo small\n")
    assert make(tmp_path, "deploy").stdout == "gnu\n"
    (tmp_path / "GNUmakefile").unlink()
    assert make(tmp_path, "deploy").stdout == "small\n"


def test_a_background_child_keeps_the_pipe_open_after_make_has_ended(tmp_path: Path) -> None:
    # Why the end of a deploy is not the end of its output.
    (tmp_path / "Makefile").write_text("deploy:\n\t@sleep 1000 & echo done\n")
    process = subprocess.Popen(["make", "deploy"], cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True)
    assert process.wait(20) == 0
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_subreaper_inherits_daemonised_children() -> None:
    script = """
import ctypes, os, subprocess, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.run(["setsid", "-f", "sleep", "1000"])
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    if children:
        os.kill(int(children[0]), 9)
        os.waitpid(int(children[0]), 0)
        print("inherited")
        break
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "inherited\n"


def test_ignored_signals_are_inherited_and_handlers_are_not() -> None:
    # Why the supervisor installs handlers that do nothing.
    script = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "ignore" else lambda *_: None)
print(subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True).stdout.split()[1])
"""
    masks = {}
    for way in ("ignore", "handle"):
        done = subprocess.run([sys.executable, "-c", script, way], capture_output=True, text=True, check=True)
        masks[way] = int(done.stdout, 16) >> (signal.SIGTERM - 1) & 1
    assert masks == {"ignore": 1, "handle": 0}


def test_the_clock_that_counts_sleep_only_goes_forward() -> None:
    one = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= one
    assert ctypes.CDLL(None).prctl is not None
