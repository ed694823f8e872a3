from __future__ import annotations

import pytest

from hx_gateway.services.upstream.http_wire import request_head, target_of


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://a.example/v1/x", "a.example", "/v1/x"),
        ("https://a.example", "a.example", "/"),
        ("https://a.example:443/x", "a.example", "/x"),
        ("https://a.example:8443/x?y=1", "a.example:8443", "/x?y=1"),
        ("http://[::1]:8080/x", "[::1]:8080", "/x"),
        ("http://a.example/a%2Fb/../c?d=%20#e", "a.example", "/a%2Fb/../c?d=%20"),
        ("http://user:word@a.example/", "a.example", "/"),
        ("http://bücher.example/", "xn--bcher-kva.example", "/"),
    ],
)
def test_a_url_is_split_into_host_and_path_as_they_are_sent(url: str, host: str, path: str) -> None:
    target = target_of(url)
    assert (target.host, target.path) == (host, path)
    assert target.origin.user is None


@pytest.mark.parametrize("url", ["", "/x", "ftp://a/", "http://", "http://a:b/", "http://a/ b", "http://a/\r\nx: y"])
def test_a_url_that_cannot_be_sent_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="URL is not") as caught:
        target_of(url)
    assert url == "" or url not in str(caught.value)


def test_host_and_length_are_added_to_the_fields_given() -> None:
    head = request_head("POST", target_of("http://a.example/x"), {"b": "c", "d": "é"}, 5)
    assert head == b"POST /x HTTP/1.1\r\nhost: a.example\r\nb: c\r\nd: \xe9\r\ncontent-length: 5\r\n\r\n"


def test_a_host_that_is_given_is_the_one_sent() -> None:
    assert request_head("GET", target_of("http://a/"), {"host": "b"}, 0) == b"GET / HTTP/1.1\r\nhost: b\r\n\r\n"


def test_a_framing_that_is_given_does_not_contradict_the_body() -> None:
    headers = {"content-length": "7", "transfer-encoding": "chunked"}
    assert request_head("PUT", target_of("http://a/"), headers, 2).endswith(b"host: a\r\ncontent-length: 2\r\n\r\n")
    assert request_head("PUT", target_of("http://a/"), headers, None).endswith(
        b"\r\ntransfer-encoding: chunked\r\n\r\n"
    )


@pytest.mark.parametrize(("method", "declared"), [("POST", True), ("PUT", True), ("GET", False), ("DELETE", False)])
def test_no_body_is_declared_only_where_one_is_expected(method: str, declared: bool) -> None:
    assert (b"content-length: 0" in request_head(method, target_of("http://a/"), {}, 0)) is declared


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\r\nb: c", "\0", "€", "é\n"])
def test_a_value_that_would_not_arrive_as_it_is_is_refused_and_not_told(value: str) -> None:
    with pytest.raises(ValueError, match="'x-key'") as caught:
        request_head("GET", target_of("http://a/"), {"x-key": value}, 0)
    assert value not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "ä", "a\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a valid name"):
        request_head("GET", target_of("http://a/"), {name: "x"}, 0)
    with pytest.raises(ValueError, match="not a valid name"):
        request_head(name, target_of("http://a/"), {}, 0)
