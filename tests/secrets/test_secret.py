"""A secret is not shown, compared, pickled or serialised by accident."""

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable

import pytest
from pydantic import BaseModel, ValidationError

from card_worker.secrets.secret import REVEAL, Secret

VALUE = "DINCARD:4711-0815"


class Asked(BaseModel):
    token: Secret


@pytest.mark.parametrize(
    "shown",
    [
        repr,
        str,
        lambda secret: f"{secret} {secret!r} {secret:>20}",
        lambda secret: "%s" % secret,  # noqa: UP031
        lambda secret: repr([secret, {"a": secret}]),
        lambda secret: repr(Asked.model_construct(token=secret)),
        lambda secret: Asked.model_construct(token=secret).model_dump_json(),
        lambda secret: json.dumps({"a": secret}, default=str),
        lambda secret: logging.LogRecord("n", 10, "p", 1, "%s", (secret,), None).getMessage(),
    ],
)
def test_text_forms_do_not_show_the_secret(shown: Callable[[Secret], str]) -> None:
    said = shown(Secret(VALUE))
    assert VALUE not in said
    assert "***" in said


def _fail(secret: Secret) -> None:
    raise RuntimeError(secret)


def test_a_traceback_with_locals_does_not_show_the_secret() -> None:
    with pytest.raises(RuntimeError) as raised:
        _fail(Secret(VALUE))
    told = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert VALUE not in "".join(told.format())


@pytest.mark.parametrize("leave", [pickle.dumps, copy.deepcopy, json.dumps])
def test_it_can_be_neither_pickled_nor_serialised(leave: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError) as raised:
        leave(Secret(VALUE))
    assert VALUE not in str(raised.value)


def test_comparing_does_not_reveal_it() -> None:
    secret: object = Secret(VALUE)
    assert secret not in (VALUE, Secret(VALUE))


def test_a_model_reveals_it_only_in_the_reveal_context() -> None:
    asked = Asked.model_validate({"token": VALUE})
    assert asked.model_dump(mode="json") == {"token": "***"}
    assert asked.model_dump(mode="json", context=REVEAL) == {"token": VALUE}


def test_a_field_is_read_from_text() -> None:
    assert Asked.model_validate({"token": VALUE}).token.reveal() == VALUE
    assert Asked(token=Secret(VALUE)).token.reveal() == VALUE
    assert Asked.model_json_schema()["properties"]["token"]["writeOnly"]


@pytest.mark.parametrize("wrong", ["", "x" * 256, 4711, None])
def test_invalid_secrets_are_refused(wrong: object) -> None:
    with pytest.raises(ValidationError) as raised:
        Asked.model_validate({"token": wrong})
    assert "xxx" not in str(raised.value.errors(include_input=False))
