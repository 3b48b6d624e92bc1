"""No configured secret, raw or encoded, in anything that the product writes, shows or says."""

from __future__ import annotations

import base64
import json
import urllib.parse
from contextlib import suppress
from pathlib import Path

from support.product import Product
from support.repos import Application, Config, target, targets
from support.servers import serving

DEPLOY_SECRET = 'c4n4ry-deploy/+&"x'
GIT_PASSWORD = "c4n4ry-git-password"
LEAKY = """\
.PHONY: deploy
deploy:
\t@echo "raw $$TOKEN"
\t@printf '%s' "$$TOKEN" | base64
\t@printf 'user:%s' "$$TOKEN" | base64
\t@printf '%s' "$$TOKEN" | cut -c1-9 | tr -d '\\n'; sleep 0.2; printf '%s\\n' "$$TOKEN" | cut -c10-
\t@env | sort
\t@echo "url $$QUOTED json $$JSON"
\t@test -e "$$SITE/good" && echo "$$TOKEN" > "$$SITE/token"
"""


def forms(secret: str) -> set[bytes]:
    """Return what must stand nowhere."""
    encoded = {
        secret,
        urllib.parse.quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        base64.b64encode(secret.encode()).decode().rstrip("=")[:-1],
        base64.b64encode(f"user:{secret}".encode()).decode()[8:-4],
        base64.b64encode(f"bot:{secret}".encode()).decode()[8:-4],
    }
    return {form.encode() for form in encoded}


def test_a_canary_is_nowhere(tmp_path: Path) -> None:
    app, config = Application(tmp_path / "git" / "app", LEAKY), Config(tmp_path / "git" / "config")
    (tmp_path / "secrets").mkdir()
    for name, value in {
        "token": DEPLOY_SECRET,
        "password": GIT_PASSWORD,
        "quoted": urllib.parse.quote(DEPLOY_SECRET, safe=""),
        "json": json.dumps(DEPLOY_SECRET)[1:-1],
    }.items():
        (tmp_path / "secrets" / name).write_text(value + "\n")
    with serving(tmp_path / "git") as server:
        server.password = GIT_PASSWORD
        settings = (
            f"secrets_dir: {tmp_path}/secrets\n"
            f"credentials: [{{url: '{server.url}', username: bot, password_file: {tmp_path}/secrets/password}}]\n"
        )
        product = Product(tmp_path, f"{server.url}/config/.git", settings)
        secrets = "{TOKEN: token, QUOTED: quoted, JSON: json}"
        url = f"{server.url}/app/.git"
        config.pin(targets(target("api", url, app.first, secrets=secrets, retry="{limit: 1, backoff: 100ms}")))
        seen: list[bytes] = []
        with product.daemon() as daemon:
            daemon.wait_reason("api", "stalled")
            (product.site / "good").write_text("")
            product.run("reconcile", "api")
            daemon.wait_in_sync("api", app.first)
            pages = ("targets", "sources", "deploys/api.1", "deploys/api.1/log")
            seen += [daemon.get(path).encode() for path in ("/metrics", *(f"/api/v1/{page}" for page in pages))]
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.append(process.read_bytes())
            server.password = "changed"
            daemon.wait_for(lambda: b"authentication_failed" in daemon.get("/api/v1/sources").encode(), "the refusal")
            seen.append(daemon.get("/api/v1/sources").encode())
        assert (product.site / "token").read_text() == DEPLOY_SECRET + "\n"
        for verb in (("logs", "api"), ("history", "api"), ("why", "api"), ("status",)):
            done = product.run(*verb)
            seen += [done.stdout.encode(), done.stderr.encode()]
    assert "***" in product.run("logs", "api").stdout
    seen.append((tmp_path / "daemon.log").read_bytes())
    seen += [path.read_bytes() for path in product.state.rglob("*") if path.is_file()]
    for form in forms(DEPLOY_SECRET) | forms(GIT_PASSWORD):
        assert not [data for data in seen if form in data], form
