"""Pages for people: rendered here, readable without JavaScript, and refreshed by it where there is some."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from typing import Any

import jinja2
import yaml
from aiohttp import web
from markupsafe import Markup
from pydantic import BaseModel

from reconciler import __version__, clock, urls, views
from reconciler.lifecycle import LIVE
from reconciler.planning import RULES
from reconciler.schedule import format_duration
from reconciler.shapes import DeployView, TargetView
from reconciler.spec import Target
from reconciler.text import safe, short
from reconciler.web.api import known_deploy, known_target
from reconciler.web.face import Face

HISTORY = 50
CHART_DEPLOYS = 40
MAX_LOG = 256 * 1024  # characters of a log that a page holds; the rest is a link away
_CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_TYPES = {"css": "text/css", "js": "text/javascript"}
_COLOURS = {"good": "#1a7f4e", "busy": "#9a6700", "bad": "#c4302b", "off": "#6b7280"}
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # colours and cursor moves


def _read(name: str) -> bytes:
    return (resources.files("reconciler.web") / "static" / name).read_bytes()


STATIC: Mapping[str, bytes] = {name: _read(name) for name in ("page.css", "page.js")}
_STAMP = hashlib.sha256(b"".join(STATIC.values())).hexdigest()[:12]  # in their addresses, so that caches never mix


def tone(view: TargetView) -> str:
    """Return how a target is doing in one word: good, busy, bad or off."""
    if view["decision"]["reason"] == "suspended":
        return "off"
    if view["conditions"]["stalled"]:
        return "bad"
    return "good" if view["conditions"]["ready"] else "busy"


def _deploy_tone(status: str) -> str:
    return {"succeeded": "good", "failed": "bad", "timed_out": "bad", "cancelled": "off", "abandoned": "off"}.get(
        status, "busy"
    )


def _ago(text: str | None) -> str:
    if text is None:
        return "never"
    seconds = (clock.now() - datetime.fromisoformat(text)).total_seconds()
    return "just now" if seconds < 1 else f"{format_duration(seconds)} ago"


def _in(text: str) -> str:
    return f"in {format_duration((datetime.fromisoformat(text) - clock.now()).total_seconds())}"


def _commit_link(repo: str | None, commit: str | None) -> str | None:
    return urls.commit_page(urls.parse(repo), commit) if repo and commit else None


def _code(text: str) -> Markup:
    """Show what stands between backticks as code."""
    code, plain = Markup("<code>{}</code>"), Markup("{}")
    parts = [(code if index % 2 else plain).format(part) for index, part in enumerate(text.split("`"))]
    return Markup("").join(parts)


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def effective(target: Target) -> str:
    """Return a target's whole configuration as YAML, defaults included, in the words of deployments/*.yaml."""
    return yaml.safe_dump(_plain(target), sort_keys=False, allow_unicode=True, width=100).rstrip()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        shown = {}
        for name, info in type(value).model_fields.items():
            item = getattr(value, name)
            if item is None or name == "name":
                continue
            shown[info.alias or name] = format_duration(item) if name.endswith("_s") else _plain(item)
        return shown
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


class PageHandlers:
    """Handlers of the pages."""

    def __init__(self, face: Face) -> None:
        self._face = face
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("reconciler.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "short": short,
            "ago": _ago,
            "until": _in,
            "words": _words,
            "safe_text": safe,
            "code": _code,
        }
        self._templates.filters |= {"duration": format_duration}
        self._templates.globals |= {
            "version": __version__,
            "stamp": _STAMP,
            "tone": tone,
            "deploy_tone": _deploy_tone,
            "commit_link": _commit_link,
        }

    def _page(self, template: str, **values: Any) -> web.Response:
        snapshot = self._face.snapshot()
        shown = views.targets_view(snapshot)["targets"]
        worst = "bad" if any(tone(view) == "bad" for view in shown) else "good"
        if worst == "good" and any(tone(view) == "busy" for view in shown):
            worst = "busy"
        text = self._templates.get_template(template).render(
            **values, worst=worst, config=views.config_view(snapshot), ready=self._face.ready(), targets=shown
        )
        headers = {"Content-Security-Policy": _CSP, "Cache-Control": "no-store"}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def overview(self, request: web.Request) -> web.Response:
        """Show every target, and what is wrong with the configuration and the Sources."""
        snapshot = self._face.snapshot()
        query, state = request.query.get("q", "")[:200], request.query.get("state", "")[:40]
        shown = views.targets_view(snapshot)["targets"]
        counts = Counter(view["decision"]["reason"] for view in shown)
        found = [view for view in shown if _matches(view, query.lower()) and state in ("", view["decision"]["reason"])]
        sources = [source for source in views.sources_view(snapshot)["sources"] if source["reason"]]
        return self._page(
            "overview.html", shown=found, counts=sorted(counts.items()), query=query, state=state, failing=sources
        )

    async def target(self, request: web.Request) -> web.Response:
        """Show one target."""
        snapshot, name = self._face.snapshot(), known_target(self._face, request)
        view, planned = views.target_view(snapshot, name), snapshot.plan.targets.get(name)
        history = [views.deploy_view(deploy) for deploy in await self._face.history(name, HISTORY, None)]
        sources = {source["url"]: source for source in views.sources_view(snapshot)["sources"]}
        spec = planned.facts.target if planned else None
        rule = view["decision"]["rule"]
        return self._page(
            "target.html",
            target=view,
            rule=RULES[rule - 1] if rule else None,
            commits=await self._face.commits(view),
            history=history,
            chart=_chart(history),
            spec=effective(spec) if spec else "",
            source=sources.get(spec.source) if spec else None,
        )

    async def deploy(self, request: web.Request) -> web.Response:
        """Show one deploy with its log."""
        deploy = await known_deploy(self._face, request)
        log = await self._face.log(deploy)
        entry = self._face.snapshot().entries.get(deploy.target)
        live = deploy.status in LIVE
        return self._page(
            "deploy.html",
            deploy=views.deploy_view(deploy),
            repo=entry.target.repo if entry and entry.target else None,
            live=live,
            log=safe(_ANSI.sub("", log[-MAX_LOG:])),
            cut=len(log) > MAX_LOG,
        )

    async def favicon(self, request: web.Request) -> web.Response:
        """Draw the icon in the colour of the worst target."""
        colour = _COLOURS.get(request.query.get("tone", ""), _COLOURS["good"])
        ring = '<path d="M25 11a10.5 10.5 0 1 0 1.5 7" fill="none" stroke="#fff" stroke-width="3.4"/>'
        head = '<path d="M26.5 4.5v8h-8" fill="none" stroke="#fff" stroke-width="3.4"/>'
        text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">\
<rect width="32" height="32" rx="8" fill="{colour}"/>{ring}{head}</svg>'
        return web.Response(text=text, content_type="image/svg+xml", headers={"Cache-Control": "max-age=3600"})

    async def static(self, request: web.Request) -> web.Response:
        """Return a style sheet or a script; their addresses change with their content."""
        name = request.path.rpartition("/")[2]
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        kind = _TYPES[name.rpartition(".")[2]]
        return web.Response(body=STATIC[name], content_type=kind, charset="utf-8", headers=headers)


def _matches(view: TargetView, query: str) -> bool:
    labels = " ".join(f"{key}={value}" for key, value in view["labels"].items())
    texts = (view["name"], view["repo"] or "", view["desired"] or "", view["decision"]["message"], labels)
    return query in " ".join(texts).lower()


def _chart(history: list[DeployView]) -> list[dict[str, Any]]:
    """Return the bars of the newest deploys, the oldest first: height by duration, colour and shape by status."""
    ended = [deploy for deploy in history[:CHART_DEPLOYS] if deploy["duration_s"] is not None][::-1]
    longest = max((deploy["duration_s"] or 0.0 for deploy in ended), default=0.0) or 1.0
    return [
        {"deploy": deploy, "height": max(4, round(44 * (deploy["duration_s"] or 0.0) / longest)), "x": 11 * index}
        for index, deploy in enumerate(ended)
    ]
