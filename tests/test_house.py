"""The house: what the project says of itself is true."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from reconciler.cli import cli
from reconciler.cli.examples import EXAMPLES
from reconciler.config.catalogue import check
from reconciler.config.deployments import UrlPolicy, parse_file
from reconciler.config.settings import ConfigRepo, Log, Settings
from reconciler.errors import SourceReason
from reconciler.model import HoldReason, OutcomeReason, WaitReason
from reconciler.spec import Follow, Observe, Retry, Step, Target

ROOT = Path(__file__).parents[1]


def test_every_reason_is_explained() -> None:
    page = (ROOT / "docs" / "reasons.md").read_text()
    for reason in (*WaitReason, *HoldReason, *OutcomeReason, *SourceReason):
        assert f"| `{reason}` |" in page, reason


def test_the_page_of_deployments_is_the_generated_one_and_its_example_is_valid() -> None:
    script = (
        "import sys; sys.path.insert(0, 'tools'); import deployments_page; sys.stdout.write(deployments_page.text())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "deployments.md").read_text()
    assert done.stdout == page, "run tools/deployments_page.py"
    example = page.partition("```yaml\n")[2].partition("```")[0]
    assert not check([parse_file(example.encode(), "example.yaml", UrlPolicy())]).problems


def test_the_example_of_every_key_is_valid() -> None:
    page = (ROOT / "docs" / "deployments.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \|.*\| `([^`]+)` \|$", page, re.MULTILINE)
    keys = sum(len(model.model_fields) for model in (Target, Step, Follow, Retry, Observe)) - 1  # a name is no key
    assert len(rows) == keys
    for key, example in rows:
        assert key in example
        lines = [example]
        if not example.startswith("repo:"):
            lines.append("repo: https://git.example.com/acme/api.git")
        if not example.startswith(("commit:", "follow:")):
            lines.append("follow: main")
        below = "".join(f"    {line}\n" for line in lines)
        data = f"targets:\n  api:\n{below}  database: {{repo: https://git.example.com/x, follow: main}}\n"
        assert not check([parse_file(data.encode(), "example.yaml", UrlPolicy())]).problems, example


def test_every_setting_is_explained() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for model, prefix in ((Settings, ""), (ConfigRepo, "config_repo."), (Log, "log.")):
        for name, info in model.model_fields.items():
            key = prefix + (info.alias or name)
            if key not in ("config_repo", "log"):
                assert f"`{key}`" in page, key


def test_the_example_is_valid() -> None:
    files = [parse_file(path.read_bytes(), path.name, UrlPolicy()) for path in (ROOT / "deployments").glob("*.yaml")]
    assert files
    assert not check(files).problems


def test_every_verb_explains_itself() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("help", "output", "limit"):
                assert parameter.help, (name, parameter.name)


EXAMPLE_LINES = [(verb, line) for verb, (lines, _) in EXAMPLES.items() for line in lines]


@pytest.mark.parametrize(("verb", "line"), EXAMPLE_LINES, ids=[line for _, line in EXAMPLE_LINES])
def test_an_example_of_the_help_is_taken_by_its_verb(verb: str, line: str) -> None:
    words = shlex.split(re.split(r" [|>] ", line)[0])
    while "=" in words[0]:
        words.pop(0)
    assert words[:2] == ["reconciler", verb]
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    command.make_context(verb, words[2:])  # raises for an option or argument that it does not know


def test_every_verb_has_examples_and_exit_codes() -> None:
    assert set(cli.list_commands(click.Context(cli))) == set(EXAMPLES)


@pytest.mark.parametrize("path", sorted(ROOT.glob("reconciler/**/*.py")), ids=str)
def test_every_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text())


def test_only_the_doors_start_processes() -> None:
    allowed = {"runner"}
    for path in ROOT.glob("reconciler/**/*.py"):
        text = path.read_text()
        if re.search(r"create_subprocess|os\.(fork|exec|spawn|posix_spawn|system|popen)\b", text):
            assert path.parent.name in allowed, path


def test_the_readmes_commands_are_in_the_makefile() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^make ([a-z]+)", readme, re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_of_the_documentation_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
