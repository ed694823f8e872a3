"""Which registries are followed: each once, however its address is written."""

from __future__ import annotations

import pytest

from hx_gateway.registry.official.source import root_of
from hx_gateway.registry.sync.followed import Followed, followed_of

URL = "https://registry.example.com"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (f"{URL}/", URL),
        ("HTTPS://Registry.Example.COM:443", URL),
        ("https://registry.example.com:", URL),
        ("http://registry.example.com:80/", "http://registry.example.com"),
        ("http://registry.example.com:443", "http://registry.example.com:443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        (f"{URL}/v0.1/servers/", f"{URL}/v0.1"),
        (f"{URL}/Acme/v0/", f"{URL}/Acme/v0"),
        (f"{URL}/acme/servers", f"{URL}/acme/servers"),
    ],
)
def test_an_address_is_kept_in_one_spelling_which_leads_to_the_same_place(written: str, kept: str) -> None:
    assert followed_of([f"default={written}"]) == (Followed("default", kept),)
    assert followed_of([f"default={kept}"]) == (Followed("default", kept),)
    assert root_of(kept).url.endswith(root_of(written).url.partition("://")[2].partition("/")[2])


@pytest.mark.parametrize(
    "other", [f"{URL}/", "https://REGISTRY.example.com", f"{URL}:443", f"{URL}/v0", f"{URL}/v0.1/", f"{URL}/v0/servers"]
)
def test_a_registry_is_followed_once_for_a_tenant(other: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        followed_of([f"default={URL}", f"default={other}"])
    assert len(followed_of([f"default={URL}", f"acme={other}", f"default={URL}/acme", "default=http://a.example"])) == 4
