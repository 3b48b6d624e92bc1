"""The API's description is valid, and the daemon does what it says for everything that it allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.hooks import SECRET
from support.product import Daemon
from support.world import World

from reconciler.web.openapi import document

TOKEN = "let me in"
SCHEMA = schemathesis.openapi.from_dict(document(with_hooks=True))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root: Path = tmp_path_factory.mktemp("openapi")
    (root / "token").write_text(TOKEN)
    (root / "secret").write_bytes(SECRET)
    hooks = ", ".join(f"{name}: {{secret_files: [{root}/secret]}}" for name in ("github", "gitlab", "generic"))
    world = World(root, f"api_token_file: {root}/token\nwebhooks: {{{hooks}}}\n")
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        yield daemon


def test_the_description_is_valid_and_served(daemon: Daemon) -> None:
    served = json.loads(daemon.get("/openapi.json"))
    openapi_spec_validator.validate(served)
    assert served == document(with_hooks=True)
    assert served["openapi"].startswith("3.1")


@SCHEMA.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_no_5xx_and_nothing_that_is_not_described(case: schemathesis.Case[Any], daemon: Daemon) -> None:
    for name in ("name", "id"):  # names that exist are tried as often as those that do not
        if name in case.path_parameters and len(str(case.body)) % 2:
            case.path_parameters[name] = {"name": "api", "id": "api.1"}[name]
    response = case.call(base_url=f"http://{daemon.address()}", headers={"Authorization": f"Bearer {TOKEN}"})
    case.validate_response(
        response,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            response_headers_conformance,
        ],
    )
