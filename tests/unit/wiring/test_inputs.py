"""What operators give for the stores, and the URLs that come of it."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.services.dsn import postgres_dsn, redis_dsn
from hx_gateway.wiring.inputs import InputProblem, stores_from

PARTS = {"PG_HOST": "db.example.org", "REDIS_HOST": "cache.example.org", "QDRANT_URL": "none"}


def test_parts_have_defaults() -> None:
    stores = stores_from(PARTS)
    assert stores.postgres == "postgresql://hx_gateway@db.example.org:5432/hx_gateway"
    assert stores.redis == "redis://cache.example.org:6379/0"
    assert stores.qdrant == "none"


@given(
    st.text(min_size=1).filter(
        lambda text: text.isascii() or text.encode("utf-8", "ignore") == text.encode("utf-8", "replace")
    )
)
def test_any_password_is_encoded_for_both(password: str) -> None:
    stores = stores_from({**PARTS, "PG_PASS": password, "REDIS_PASS": password})
    for url, check in ((stores.postgres, postgres_dsn), (stores.redis, redis_dsn)):
        assert unquote(urlsplit(check(url)).password or "") == password
        assert url.isascii()
        assert not set(url) & set(" \t\r\n\"'\\`$#")


def test_whole_urls_are_taken_as_they_are_with_the_scheme_that_everybody_knows() -> None:
    given = {
        "PG_URL": "postgresql+asyncpg://u:p%40@[2001:db8::1]:5433/d?sslmode=require",
        "REDIS_URL": "rediss://u:p@h:1/2",
    }
    stores = stores_from({**given, "QDRANT_URL": "https://vectors.example.org:6333"})
    assert stores.postgres == "postgresql://u:p%40@[2001:db8::1]:5433/d?sslmode=require"
    assert (stores.redis, stores.qdrant) == ("rediss://u:p@h:1/2", "https://vectors.example.org:6333")


def test_an_address_of_ipv6_gets_its_brackets() -> None:
    stores = stores_from({**PARTS, "PG_HOST": "2001:db8::1", "REDIS_HOST": "[::1]"})
    assert "@[2001:db8::1]:5432/" in stores.postgres
    assert stores.redis == "redis://[::1]:6379/0"


@pytest.mark.parametrize("name", ["PG_HOST", "REDIS_HOST", "QDRANT_URL"])
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(InputProblem, match=f"^{name} is missing"):
        stores_from({key: value for key, value in PARTS.items() if key != name})


def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(InputProblem) as raised:
        stores_from({})
    assert [line.split()[0] for line in str(raised.value).splitlines()] == ["PG_HOST", "REDIS_HOST", "QDRANT_URL"]


WRONG = {
    "PG_HOST is 'a b'": {"PG_HOST": "a b"},
    "PG_HOST is 'h/d'": {"PG_HOST": "h/d"},
    "PG_PORT is '0'": {"PG_PORT": "0"},
    "PG_PORT is '65536'": {"PG_PORT": "65536"},
    "PG_PORT is '²'": {"PG_PORT": "²"},
    "REDIS_PORT is 'x'": {"REDIS_PORT": "x"},
    "PG_URL and PG_HOST are both given": {"PG_URL": "postgresql://u@h/d"},
    "PG_URL and DATABASE_URL say": {
        "PG_HOST": "",
        "PG_URL": "postgresql://u@h/d",
        "DATABASE_URL": "postgresql://u@i/d",
    },
    "PG_URL names no host": {"PG_HOST": "", "PG_URL": "postgresql:///d"},
    "PG_URL: the PostgreSQL URL must start with": {"PG_HOST": "", "PG_URL": "mysql://u@h/d"},
    "PG_URL: .* percent-encode it": {"PG_HOST": "", "PG_URL": "postgresql://u:hid/den@h/d"},
    "PG_URL holds a space": {"PG_HOST": "", "PG_URL": "postgresql://u:p@h/d?application_name=a b"},
    "REDIS_URL: the Redis URL must start with": {"REDIS_HOST": "", "REDIS_URL": "none"},
    "REDIS_URL names no host": {"REDIS_HOST": "", "REDIS_URL": "redis:///0"},
    "QDRANT_URL must start with": {"QDRANT_URL": "vectors.example.org:6333"},
    "QDRANT_URL: its host or port": {"QDRANT_URL": "http://h:port"},
    "QDRANT_API_KEY holds a character": {"QDRANT_API_KEY": "hid den"},
    "PG_PASS is not valid UTF-8": {"PG_PASS": "hid\udcffden"},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_named_without_what_is_secret(message: str) -> None:
    with pytest.raises(InputProblem, match=message) as raised:
        stores_from({**PARTS, **WRONG[message]})
    assert "hid" not in str(raised.value)
