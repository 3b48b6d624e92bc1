"""The JSON Schema of a deployments file, for editors; generated from the models that check it."""

from __future__ import annotations

from typing import Any

from reconciler.spec import NAME_PATTERN, Target

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def deployments_schema() -> dict[str, Any]:
    """Return the JSON Schema of deployments/*.yaml."""
    target = Target.model_json_schema(mode="validation", by_alias=True, ref_template="#/$defs/{model}")
    definitions = target.pop("$defs")
    del target["properties"]["name"]
    target["required"] = []  # a key may stand in defaults; `validate` says what is missing
    target["description"] = "One target."
    definitions["Target"] = target
    _write_follow_short(target)
    return {
        "$schema": SCHEMA_ID,
        "title": "deployments/*.yaml of the reconciler",
        "type": "object",
        "additionalProperties": False,
        "required": ["targets"],
        "properties": {
            "defaults": {"$ref": "#/$defs/Target", "description": "Merged under every target of this file."},
            "targets": {
                "type": "object",
                "propertyNames": {"pattern": NAME_PATTERN},
                "additionalProperties": {"$ref": "#/$defs/Target"},
            },
        },
        "$defs": definitions,
    }


def _write_follow_short(target: dict[str, Any]) -> None:
    """Allow `follow: main`, which the model reads before pydantic sees it."""
    follow = target["properties"]["follow"]
    follow["anyOf"] = [{"type": "string", "description": "A branch."}, *follow["anyOf"]]
