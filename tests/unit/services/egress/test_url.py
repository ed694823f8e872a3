from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from hx_gateway.services.egress.errors import EgressDenied, EgressReason
from hx_gateway.services.egress.url import HTTP_SCHEMES, NETWORK_SCHEMES, is_host_name, parse_socket_path, parse_url


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://a.example", "https://a.example:443"),
        ("HTTPS://A.Example/Path", "https://a.example:443/Path"),
        ("http://a.example:8080/a/../b%2F?x=/?&y[]=1", "http://a.example:8080/a/../b%2F?x=/?&y[]=1"),
        ("http://my_service:8000/", "http://my_service:8000/"),
        ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example:80/"),
        ("ws://a.example/", "ws://a.example:80/"),
        ("wss://a.example/", "wss://a.example:443/"),
        ("tcp://a.example:9000", "tcp://a.example:9000"),
        ("http://93.184.216.34/", "http://93.184.216.34:80/"),
        ("http://[2606:2800:0220:1::1]/", "http://[2606:2800:220:1::1]:80/"),
        ("http://0xcafe.example/", "http://0xcafe.example:80/"),
        ("http://3com.example/", "http://3com.example:80/"),
        ("http://a.example/@b", "http://a.example:80/@b"),
        ("http://a.example?x", "http://a.example:80?x"),
    ],
)
def test_a_usual_url_is_read_and_its_path_kept_as_it_is(url: str, text: str) -> None:
    assert parse_url(url, schemes=NETWORK_SCHEMES, field="endpoint").text == text


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a.example/", EgressReason.SCHEME),
        ("ws://a.example/", EgressReason.SCHEME),
        ("http://user:secret@a.example/", EgressReason.CREDENTIALS),
        ("http://a.example/ secret", EgressReason.URL),
        ("http://a.example/#secret", EgressReason.URL),
        ("http://secret..example/", EgressReason.HOST),
        ("http://a.example:secret/", EgressReason.PORT),
    ],
)
def test_a_refusal_names_the_field_and_nothing_of_the_url(url: str, reason: EgressReason) -> None:
    with pytest.raises(EgressDenied, match=r"^health_check_url: it") as caught:
        parse_url(url, schemes=HTTP_SCHEMES, field="health_check_url")
    assert caught.value.reason is reason
    assert "secret" not in caught.value.message
    assert caught.value.failure_class == "egress_denied"


HOSTS = st.text("0123456789abcdefxX.-_", max_size=20)
URLS = st.one_of(
    st.text(max_size=40).map("http://{}".format),
    st.builds("http://{}{}{}".format, st.text("@:/\\#?[]%.01ax ", max_size=8), HOSTS, st.text("@:/?#\\80", max_size=6)),
)


@given(HOSTS)
def test_no_name_is_one_that_inet_aton_takes_for_an_address(host: str) -> None:
    if is_host_name(host):
        with pytest.raises(OSError, match="illegal IP address"):
            socket.inet_aton(host)


@given(URLS)
def test_what_is_accepted_is_read_alike_by_other_parsers(url: str) -> None:
    try:
        parsed = parse_url(url, schemes=NETWORK_SCHEMES, field="url")
    except EgressDenied:
        return
    for other in (url, parsed.text):
        split = urlsplit(other)
        assert (split.hostname, split.port or 80, split.username) == (parsed.host, parsed.port, None)
        yarl = URL(other, encoded=True)
        assert ((yarl.raw_host or "").lower(), yarl.port, yarl.user) == (parsed.host, parsed.port, None)


@pytest.mark.parametrize("path", ["/run/a.sock", "/run/user/1000/b-c_d"])
def test_a_plain_absolute_socket_path_is_read(path: str) -> None:
    assert parse_socket_path(f"unix://{path}", field="endpoint") == path


@pytest.mark.parametrize(
    "url",
    [
        "unix://run/a.sock",
        "unix:///",
        "unix:////run/a",
        "unix:///run/../etc/a",
        "unix:///run/./a",
        "unix:///run/..",
        "unix:///run/a/",
        "unix:///run/%2e%2e/a",
        "unix:///run/a?b",
        "unix://host/run/a",
        "unix:///" + "a" * 108,
    ],
)
def test_any_other_socket_path_is_refused(url: str) -> None:
    with pytest.raises(EgressDenied) as caught:
        parse_socket_path(url, field="endpoint")
    assert caught.value.reason is EgressReason.SOCKET_PATH
