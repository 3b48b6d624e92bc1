"""Removing folders, whatever is in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from reconciler.removing import remove

READ_ONLY = """
import os, sys
from pathlib import Path
from reconciler.removing import remove
root = Path(sys.argv[1])
if os.geteuid() == 0:
    os.chown(root, 65534, 65534)
    os.setgid(65534)
    os.setuid(65534)
cache = root / "module" / "cache" / "deep"
cache.mkdir(parents=True)
(cache / "file").write_text("x")
for folder in (cache, cache.parent, cache.parent.parent):
    folder.chmod(0o500)
(root / "hidden").mkdir(mode=0)
remove(root / "module")
remove(root / "hidden")
print(sorted(path.name for path in root.iterdir()))
"""


def test_nothing_is_removed_already(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    remove(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (canary / "sub").mkdir(parents=True)
    (canary / "sub" / "keep").write_text("kept")
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "link").symlink_to(canary)
    (tmp_path / "tree" / "link").symlink_to(canary / "sub" / "keep")
    (tmp_path / "link").symlink_to(canary)
    remove(tmp_path / "tree")
    remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    assert (canary / "sub" / "keep").read_text() == "kept"


def test_depth_has_no_bound(tmp_path: Path) -> None:
    here = Path.cwd()
    (tmp_path / "tree").mkdir()
    os.chdir(tmp_path / "tree")
    try:
        for number in range(5_000):
            Path("x").mkdir()
            Path(f"file{number % 10}").write_text("x")
            os.chdir("x")
    finally:
        os.chdir(here)
    remove(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_may_not_be_written_or_read_go_too(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o111)  # the other user has to come here
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(tmp_path / "root")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr
