"""One deployments file: bytes in, entries out, each valid or with its problems.

An entry is the unit of trust: what is wrong with one entry never touches another one of the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from reconciler import urls
from reconciler.config import yamltree
from reconciler.config.problems import Place, Problem, describe, dotted, nearest
from reconciler.config.yamltree import Document, Node
from reconciler.spec import Follow, Observe, Retry, Step, Target

MAX_TARGETS = 5_000  # a file; the node bound of YAML is reached first
_TOP_KEYS = ("defaults", "targets")
# Mappings that an entry adds to; everything else of `defaults` is replaced as a whole.
_MERGED = ("env", "secrets", "labels", "retry")
_SUBMODELS: Mapping[str, type[BaseModel]] = {"steps": Step, "retry": Retry, "follow": Follow, "observe": Observe}


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """Which repositories the daemon's settings allow."""

    allow_local: bool = False
    allow_http: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of one file: a target where it is valid, and its problems where it is not."""

    name: str
    place: Place
    target: Target | None
    problems: Sequence[Problem] = ()


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """What one file holds. `fatal` problems concern the file as a whole: none of its entries is known."""

    file: str
    entries: Sequence[Entry] = ()
    problems: Sequence[Problem] = field(default_factory=tuple)
    fatal: bool = False


def parse_file(data: bytes, file: str, policy: UrlPolicy) -> ParsedFile:
    """Return the entries of one deployments file; never raises for anything that the bytes hold."""
    document = yamltree.parse(data, file)
    if document.fatal is not None:
        return ParsedFile(file, problems=(document.fatal,), fatal=True)
    root = document.root
    if root is None or root.value is None:
        return ParsedFile(file)  # an empty file declares nothing
    if not isinstance(root.value, dict):
        problem = Problem(root.place, "", f"expected a mapping with the key targets, found {root.kind}")
        return ParsedFile(file, problems=(problem,), fatal=True)
    problems = [
        Problem(root.keys[key], key, f"unknown key{nearest(key, _TOP_KEYS)}")
        for key in root.value
        if key not in _TOP_KEYS
    ]
    targets, defaults = root.value.get("targets"), root.value.get("defaults")
    if targets is None or not isinstance(targets.value, dict):
        what = "is missing" if targets is None else f"expected a mapping of names to targets, found {targets.kind}"
        problems.append(Problem(targets.place if targets else root.place, "targets", what))
        return ParsedFile(file, problems=tuple(problems), fatal=True)
    if defaults is not None and not isinstance(defaults.value, dict | None):
        problems.append(Problem(defaults.place, "defaults", f"expected a mapping, found {defaults.kind}"))
        return ParsedFile(file, problems=tuple(problems), fatal=True)
    flaws_of_defaults = _flaws(document, "defaults")
    entries = [
        _entry(
            name, node, targets.keys[name], defaults, (*flaws_of_defaults, *_flaws(document, "targets", name)), policy
        )
        for name, node in targets.value.items()
    ]
    known = {flaw.problem for flaw in document.flaws}
    assigned = {problem for entry in entries for problem in entry.problems}
    return ParsedFile(file, tuple(entries), (*problems, *sorted(known - assigned)))


def _flaws(document: Document, *prefix: str) -> tuple[Problem, ...]:
    return tuple(flaw.problem for flaw in document.flaws if flaw.path[: len(prefix)] == prefix)


def _entry(
    name: str, node: Node, place: Place, defaults: Node | None, flaws: Sequence[Problem], policy: UrlPolicy
) -> Entry:
    prefix = ("targets", name)
    if not isinstance(node.value, dict | None):
        problem = Problem(node.place, dotted(prefix), f"expected a mapping, found {node.kind}")
        return Entry(name, place, None, (*flaws, problem))
    merged = _merge(defaults, node, place)
    try:
        target = Target.model_validate({**_as_dict(merged), "name": name})
    except ValidationError as error:
        return Entry(name, place, None, tuple(sorted({*flaws, *_translate(error, merged, prefix)})))
    refused = urls.refusal(urls.parse(target.repo), allow_local=policy.allow_local, allow_http=policy.allow_http)
    if refused:
        flaws = (*flaws, Problem(merged.place_of(("repo",)), dotted((*prefix, "repo")), refused))
    return Entry(name, place, None if flaws else target, tuple(flaws))


def _as_dict(node: Node) -> dict[str, Any]:
    plain = node.plain()
    assert isinstance(plain, dict)  # noqa: S101 - _merge makes mappings only
    return plain


def _merge(defaults: Node | None, entry: Node, place: Place) -> Node:
    """Return the entry with the file's defaults under it; every value keeps the place that it came from."""
    merged = Node(place, {}, {})
    assert isinstance(merged.value, dict)  # noqa: S101 - two lines above
    for layer in (defaults, entry):
        if layer is None or not isinstance(layer.value, dict):
            continue
        for key, child in layer.value.items():
            below = merged.value.get(key)
            if below and key in _MERGED and isinstance(below.value, dict) and isinstance(child.value, dict):
                both = Node(child.place, {**below.value, **child.value}, {**below.keys, **child.keys})
                merged.value[key] = both
            else:
                merged.value[key] = child
            merged.keys[key] = layer.keys[key]
    return merged


def _translate(error: ValidationError, node: Node, prefix: tuple[str, ...]) -> list[Problem]:
    """Return pydantic's errors as problems with places."""
    errors = error.errors(include_url=False, include_input=False)
    # A list whose only item is wrong is also called too short; the item's own error says more.
    locations = {item["loc"][:length] for item in errors for length in range(1, len(item["loc"]))}
    problems = []
    for item in errors:
        path = tuple(part for part in item["loc"] if part != "[key]")
        if path == ("name",):
            problems.append(Problem(node.place, dotted(prefix), f"a target's name: {describe(item, ())}"))
            continue
        if item["type"] == "too_short" and item["loc"] in locations:
            continue
        problems.append(Problem(node.place_of(path), dotted((*prefix, *path)), describe(item, _known_keys(path))))
    return problems


def _known_keys(path: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = Target
    if len(path) > 1:
        model = _SUBMODELS.get(str(path[0]), Target)
    return [info.alias or name for name, info in model.model_fields.items() if not (model is Target and name == "name")]
