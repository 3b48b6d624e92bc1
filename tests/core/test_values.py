"""Nouns and events are frozen values."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from reconciler import errors, events, model, snapshot
from reconciler.model import Lease
from reconciler.spec import Target


@pytest.mark.parametrize(
    "noun",
    [
        *typing.get_args(events.Event),
        snapshot.Snapshot,
        *(value for value in vars(model).values() if isinstance(value, type) and dataclasses.is_dataclass(value)),
    ],
)
def test_is_frozen(noun: type) -> None:
    assert noun.__dataclass_params__.frozen  # type: ignore[attr-defined] # what dataclass leaves on its classes
    assert noun.__doc__


def test_a_deploy_is_named_by_target_and_token() -> None:
    assert Lease("api", 7, "me").deploy_id == "api.7"


def test_an_error_of_a_source_says_its_reason_first() -> None:
    error = errors.SourceError(errors.SourceReason.TIMEOUT, "too late")
    assert str(error) == "timeout: too late"
    assert isinstance(error, errors.Transient)


def test_an_error_of_a_source_is_bounded_text_that_can_be_written() -> None:
    error = errors.SourceError(errors.SourceReason.PROTOCOL_ERROR, "\udcff" + "x" * 100_000)
    assert error.message.startswith("?x")
    assert len(error.message) == errors.MAX_MESSAGE


@pytest.mark.parametrize(
    ("follow", "words"),
    [("main", "main"), ({"tag": "v*"}, "v*"), ({"semver": "^1.2", "prefix": "v"}, "v^1.2")],
)
def test_what_is_followed_has_words(follow: object, words: str) -> None:
    made = Target.model_validate({"name": "api", "repo": "https://git.example.com/api.git", "follow": follow})
    assert made.follow is not None
    assert made.follow.words == words
