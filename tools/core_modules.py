"""Print the files of the pure core, as a pattern for coverage: what import-linter keeps pure is tested whole."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
MODULES = next(contract["source_modules"] for contract in CONTRACTS if contract["name"].startswith("The core is pure"))


def files(module: str) -> str:
    """Return the files of a module or package as one pattern."""
    path = ROOT / module.replace(".", "/")
    return f"{path.relative_to(ROOT)}/*" if path.is_dir() else f"{path.relative_to(ROOT)}.py"


sys.stdout.write(",".join(files(module) for module in MODULES) + "\n")
