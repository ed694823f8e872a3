"""Errors as responses: what clients of the official registry read is in two places at once."""

from __future__ import annotations

import msgspec
import pytest

from hx_gateway.errors import Forbidden, HXError, InvalidRequest, MethodNotAllowed, NotFound, Unavailable
from hx_gateway.http.errors import error_reply
from hx_gateway.pipeline.routes import ErrorShape


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (InvalidRequest("It is wrong.", param="name"), "Bad Request"),
        (NotFound("It is not there."), "Not Found"),
        (Forbidden("It is not yours."), "Forbidden"),
        (Unavailable("Later."), "Service Unavailable"),
        (MethodNotAllowed("Otherwise.", allow=("GET",)), "Method Not Allowed"),
    ],
)
def test_clients_of_the_registry_find_the_reason_where_either_document_says_it_is(error: HXError, title: str) -> None:
    reply = error_reply(error, ErrorShape.REGISTRY)
    assert isinstance(reply.body, bytes)
    body = msgspec.json.decode(reply.body)
    assert reply.headers[0] == (b"content-type", b"application/problem+json")
    assert (body["title"], body["status"], body["detail"]) == (title, error.status, error.message)
    assert body["error"] == error.message
    assert body["errors"] == [{"message": error.message, "location": error.param or ""}]
    assert body["code"] == error.code


def test_each_thing_that_is_wrong_is_told_of() -> None:
    error = InvalidRequest("Two things.")
    error.details = [{"message": "one", "location": "body.a"}, {"message": "two", "location": "body.b"}]
    reply = error_reply(error, ErrorShape.REGISTRY)
    assert isinstance(reply.body, bytes)
    assert msgspec.json.decode(reply.body)["errors"] == list(error.details)
