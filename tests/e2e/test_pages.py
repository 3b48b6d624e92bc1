"""The pages in a real browser: what people see, with and without JavaScript, in both schemes, on a phone."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.needs import need_program
from support.product import Daemon
from support.repos import target, targets
from support.world import World

SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
MAKEFILE = (
    ".PHONY: deploy\ndeploy:\n\t@echo uploading '<b>part 1</b>'; "
    'if [ -n "$(SLOW)" ]; then while ! test -e $(SITE)/go; do sleep 0.05; done; fi; '
    'test -z "$(FAIL)" || { echo the bucket refuses; exit 3; }; printf "\\033[32mdone\\033[0m\\n"\n'
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need_program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("pages"), makefile=MAKEFILE)
    world.app.commit(message="Warmer greeting")
    world.app.commit(message="Log <script>alert(1)</script> ids")
    app = world.app
    world.config.pin(
        targets(
            target("api", app.url, app.first, follow="main", labels="{env: production, team: payments}"),
            target("front-end", app.url, app.head, env='{FAIL: "1"}', retry="{limit: 0}"),
            target("mailer", "https://git.invalid/acme/mailer.git", "a" * 40),
            target("search", app.url, app.first, suspend="true"),
            target("worker", app.url, app.first, env='{SLOW: "1"}', secrets="{TOKEN: worker-token}"),
        )
        + "  broken:\n    comit: abc\n"
    )
    return world


@pytest.fixture(scope="module")
def daemon(world: World) -> Iterator[Daemon]:
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        daemon.wait_reason("front-end", "stalled")
        daemon.wait_for(lambda: '"reason": "unreachable"' in daemon.get("/api/v1/sources"), "the dead source")
        yield daemon


@contextmanager
def page(
    browser: Browser, daemon: Daemon, path: str, *, scheme: str = "light", width: int = 1280, scripts: bool = True
) -> Iterator[Page]:
    context = browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": 900},
        java_script_enabled=scripts,
        base_url=f"http://{daemon.address()}",
    )
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("requestfailed", lambda request: complaints.append(request.url))
    opened.goto(path)
    yield opened
    assert not [text for text in complaints if "/log" not in text]  # a stream that is left is a failed request
    context.close()


def test_the_overview_says_what_runs_where_and_why(browser: Browser, daemon: Daemon) -> None:
    with page(browser, daemon, "/") as shown:
        rows = {
            name: shown.get_by_role("row").filter(has=shown.get_by_role("link", name=name, exact=True))
            for name in ("api", "front-end", "search", "broken")
        }
        expect(rows["api"]).to_contain_text("in sync")
        expect(rows["api"]).to_contain_text("2 behind")
        expect(rows["front-end"]).to_contain_text("failed 1 time (exit_code)")
        expect(rows["search"]).to_contain_text("suspended in its YAML")
        expect(rows["broken"]).to_contain_text("unknown key; did you mean commit?")
        expect(shown.get_by_role("heading", name="The configuration has")).to_be_visible()
        expect(shown.get_by_role("heading", name="1 source cannot be polled")).to_be_visible()
        expect(shown.locator("link[rel=icon]")).to_have_attribute("href", "/favicon.svg?tone=bad")
    red = urllib.request.urlopen(f"http://{daemon.address()}/favicon.svg?tone=bad").read()
    assert b"#c4302b" in red


def test_the_filter_works_with_scripts_and_without(browser: Browser, daemon: Daemon) -> None:
    with page(browser, daemon, "/") as shown:
        shown.get_by_role("searchbox").fill("payments")
        expect(shown.get_by_role("link", name="api", exact=True)).to_be_visible()
        expect(shown.get_by_role("link", name="search", exact=True)).to_be_hidden()
    with page(browser, daemon, "/", scripts=False) as shown:
        shown.get_by_role("searchbox").fill("payments")
        shown.get_by_role("button", name="Filter").click()
        expect(shown.get_by_role("link", name="api", exact=True)).to_be_visible()
        expect(shown.get_by_role("link", name="search", exact=True)).to_have_count(0)
        shown.goto("/?state=suspended")
        expect(shown.get_by_role("link", name="search", exact=True)).to_be_visible()
        expect(shown.get_by_role("link", name="api", exact=True)).to_have_count(0)
        shown.goto("/?q=nothing+like+it")
        expect(shown.get_by_role("heading", name="No target matches")).to_be_visible()
        assert (
            shown.locator("noscript meta[http-equiv=refresh]").count()
            or shown.locator("meta[http-equiv=refresh]").count()
        )


def test_a_targets_page_has_commits_history_and_configuration(browser: Browser, daemon: Daemon) -> None:
    with page(browser, daemon, "/targets/front-end") as shown:
        expect(shown.get_by_role("heading", name="Would be deployed")).to_be_visible()
        expect(shown.get_by_text("Log <script>alert(1)</script> ids")).to_be_visible()
        expect(shown.get_by_role("link", name="front-end.1")).to_be_visible()
        expect(shown.get_by_text("What changes that:")).to_be_visible()
    with page(browser, daemon, "/targets/worker") as shown:
        shown.get_by_text("Effective configuration").click()
        expect(shown.get_by_text("TOKEN: worker-token")).to_be_visible()
        expect(shown.get_by_text("deployments/all.yaml:").first).to_be_visible()
        expect(shown.get_by_text("timeout: 30m").first).to_be_visible()
    assert urllib.request.urlopen(f"http://{daemon.address()}/targets/broken").status == 200


def test_a_running_deploy_is_followed_live_and_the_page_sees_its_end(browser: Browser, tmp_path: Path) -> None:
    world = World(tmp_path, makefile=MAKEFILE)
    world.pin(world.app.first, env='{SLOW: "1"}')
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "running")
        with page(browser, daemon, "/deploys/api.1") as shown:
            expect(shown.locator("#log")).to_contain_text("uploading <b>part 1</b>")
            expect(shown.locator(".title")).to_contain_text("running")
            shown.screenshot(path=_shot("deploy-live"))
            (world.product.site / "go").touch()
            expect(shown.locator("#log")).to_contain_text("done\n")
            expect(shown.locator(".title")).to_contain_text("succeeded")
            expect(shown.locator("[data-running]")).to_have_count(0)
            assert "\x1b" not in shown.locator("#log").inner_text()
            assert shown.locator("#log").inner_text().count("part 1") == 1
        with page(browser, daemon, "/") as shown:  # what changes is seen without a reload
            expect(shown.locator("link[rel=icon]")).to_have_attribute("href", "/favicon.svg?tone=good")
            world.pin(world.app.first, suspend="true")
            expect(shown.get_by_text("suspended in its YAML")).to_be_visible(timeout=20_000)


def test_pages_without_anything_to_show_say_what_to_do(browser: Browser, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.config.pin("targets: {}\n")
    with world.product.daemon() as daemon:
        daemon.wait_for(lambda: daemon.ask("GET", "/readyz").status == 200, "the daemon to be ready")
        with page(browser, daemon, "/") as shown:
            expect(shown.get_by_text("reconciler init DIR")).to_be_visible()
        assert daemon.ask("GET", "/targets/none").status == 404


PAGES = {
    "overview": "/",
    "target": "/targets/api",
    "target-failed": "/targets/front-end",
    "deploy": "/deploys/front-end.1",
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_serious_finding_of_accessibility(
    browser: Browser, daemon: Daemon, name: str, scheme: str, width: int
) -> None:
    with page(browser, daemon, PAGES[name], scheme=scheme, width=width) as shown:
        shown.screenshot(path=_shot(f"{name}-{scheme}-{width}"), full_page=True)
        found = Axe().run(shown).response["violations"]
        serious = [
            (one["id"], one["help"], one["nodes"][0]["html"])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not serious
        assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it scrolls sideways"


def test_the_keyboard_reaches_everything(browser: Browser, daemon: Daemon) -> None:
    with page(browser, daemon, "/") as shown:
        seen = []
        for _ in range(14):
            shown.keyboard.press("Tab")
            seen.append(shown.evaluate("document.activeElement.textContent.trim() || document.activeElement.type"))
        assert seen[0] == "Skip to the content"
        assert "search" in seen
        assert "api" in seen


def _shot(name: str) -> Path:
    SHOTS.mkdir(parents=True, exist_ok=True)
    return SHOTS / f"{name}.png"
