"""What a test needs of the machine: missing, it is skipped loudly, or fails where everything is required."""

from __future__ import annotations

import os
import shutil

import pytest


def need(found: object, what: str, remedy: str) -> None:
    """Go on only if `found`; else skip, or fail where TESTS_REQUIRE_ALL is set."""
    if found:
        return
    message = f"{what} is missing here: {remedy}"
    if os.environ.get("TESTS_REQUIRE_ALL"):
        pytest.fail(message)
    pytest.skip(message)


def need_program(name: str, package: str) -> None:
    """Go on only if a program is on PATH."""
    need(shutil.which(name), name, f"sudo apt-get install {package}")
