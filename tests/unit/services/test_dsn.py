"""URLs as people write them."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.services.dsn import DsnError, place_of, postgres_dsn, redis_dsn

SECRET = "s3cret"


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg", "postgresql+psycopg2", "POSTGRES"]
)
def test_every_usual_scheme_becomes_the_drivers(scheme: str) -> None:
    assert postgres_dsn(f"{scheme}://u:p@db.example:5433/d") == "postgresql://u:p@db.example:5433/d"


@pytest.mark.parametrize("url", ["mysql://u@h/d", "h:5432/d", "", "postgresql:/h/d"])
def test_another_scheme_is_refused(url: str) -> None:
    with pytest.raises(DsnError, match="postgresql://"):
        postgres_dsn(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/d",
        "postgresql:///d?host=/run/postgresql",
        "postgresql://u:p@/d?host=/run/a%20b&port=5433",
        "postgresql:///d?host=@abstract",
        "postgresql://u:p@h1:5432,h2:5433/d?target_session_attrs=read-write",
        "postgresql://u:p@[::1]:5432/d?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql://u:a:b@h/d",
    ],
)
def test_what_is_well_formed_stays_as_it_is(url: str) -> None:
    assert postgres_dsn(url) == url


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
@pytest.mark.parametrize(
    "password",
    [
        f"{SECRET}@x",
        f"{SECRET}/x",
        f"{SECRET}#x",
        f"{SECRET}?x",
        f"{SECRET}[x",
        f"{SECRET}]x",
        f"{SECRET}%x",
        f"9?{SECRET}",
    ],
)
def test_a_password_that_is_not_encoded_is_told_as_such_and_not_repeated(kind: str, password: str) -> None:
    read = postgres_dsn if kind == "postgresql" else redis_dsn
    with pytest.raises(DsnError, match="percent-encode") as caught:
        read(f"{kind}://user:{password}@db.example/0")
    assert SECRET not in str(caught.value)


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_credentials_survive_when_they_are_encoded(user: str, password: str) -> None:
    written = [quote(part.encode("utf-8", "surrogatepass"), safe="") for part in (user, password)]
    parts = urlsplit(postgres_dsn(f"postgres://{written[0]}:{written[1]}@h:5432/d"))
    assert [parts.username, parts.password] == written
    assert [parts.hostname, parts.port, parts.path] == ["h", 5432, "/d"]
    assert unquote(parts.password or "", errors="surrogatepass") == password


def test_options_of_other_clients_are_left_out_and_ours_are_kept() -> None:
    url = "postgresql://h/d?schema=public&connection_limit=5&sslmode=require&channel_binding=require&application_name=x"
    assert postgres_dsn(url) == "postgresql://h/d?sslmode=require&application_name=x"
    assert postgres_dsn("postgresql://h/d?schema=public") == "postgresql://h/d"


@pytest.mark.parametrize("url", ["redis://:p@h:6379/0", "rediss://user:p%40@h", "unix:///run/a%20b.sock?db=1"])
def test_every_usual_form_of_a_redis_url_is_accepted(url: str) -> None:
    assert redis_dsn(url) == url


@pytest.mark.parametrize("url", ["http://h", "h:6379", ""])
def test_another_scheme_is_no_redis(url: str) -> None:
    with pytest.raises(DsnError, match="redis://"):
        redis_dsn(url)


def test_a_port_that_is_no_number_is_told_as_such() -> None:
    with pytest.raises(DsnError, match="port"):
        redis_dsn("redis://u:p@h:port/0")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:p@h:5433/d?sslmode=require", "postgresql://h:5433/d"),
        ("postgresql://u:p@h1:1,h2:2/d", "postgresql://h1:1,h2:2/d"),
        ("redis://u:p@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix:///run/a%20b.sock", "unix:///run/a b.sock"),
    ],
)
def test_a_place_is_told_without_credentials(url: str, place: str) -> None:
    assert place_of(url) == place
