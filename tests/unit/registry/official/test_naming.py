"""Every service has one name as a server, and every such name leads back to its service."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.server_json import errors_of, validate
from tests.unit.registry.official.documents import server

ID = UUID("6f1f2f0e-0000-4000-8000-000000000000")
NAMING = Naming("com.acme")
NAMES = st.one_of(
    st.text(min_size=1, max_size=255),
    st.from_regex(r"[A-Za-z0-9._/-]{1,255}", fullmatch=True),
    st.from_regex(r"com\.acme/[A-Za-z0-9._-]{1,40}", fullmatch=True),
    st.uuids().map(str),
)


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("mail", "com.acme/mail"),
        ("Mail_2.x", "com.acme/Mail_2.x"),
        ("io.example/mail", "io.example/mail"),
        ("com.acme/mail", f"com.acme/{ID}"),
        ("COM.acme/mail", f"com.acme/{ID}"),
        ("my mail", f"com.acme/{ID}"),
        ("mail-", f"com.acme/{ID}"),
        ("a/b/c", f"com.acme/{ID}"),
        ("ü", f"com.acme/{ID}"),
        ("m" * 191, "com.acme/" + "m" * 191),
        ("m" * 192, f"com.acme/{ID}"),
        ("a/" + "m" * 199, f"com.acme/{ID}"),
        ("9d4c0f0a-0000-4000-8000-000000000000", f"com.acme/{ID}"),
    ],
)
def test_a_service_is_called_so(service: str, name: str) -> None:
    assert NAMING.server_name(service, ID) == name


@given(NAMES, st.uuids())
def test_every_name_leads_back_to_its_service(service: str, item_id: UUID) -> None:
    name = NAMING.server_name(service, item_id)
    assert errors_of(validate(server(name=name))) == []
    assert NAMING.item_of(name) in (service, item_id)


@given(NAMES, NAMES)
def test_no_two_services_have_the_same_name(one: str, other: str) -> None:
    second = UUID(int=7)
    same = NAMING.server_name(one, ID) == NAMING.server_name(other, second)
    assert same is (one == other and NAMING.server_name(one, ID) == NAMING.server_name(one, second))


@pytest.mark.parametrize("name", ["mail", "COM.acme/mail", "a/b/c", "", "io.example/" + "m" * 200, "io.example/mail\n"])
def test_a_name_that_no_service_has_leads_nowhere(name: str) -> None:
    assert NAMING.item_of(name) is None


@pytest.mark.parametrize("namespace", ["", "a/b", "-a", "a b", "n" * 101])
def test_a_namespace_is_one(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Naming(namespace)
