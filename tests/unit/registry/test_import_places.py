"""How many registries are imported at once: so many in all, and fewer of one tenant."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from hx_gateway.registry.errors import ImportsBusy
from hx_gateway.registry.import_places import MAX_AT_ONCE, MAX_OF_TENANT, ImportPlaces


def test_a_tenant_has_some_places_and_all_together_a_few_more() -> None:
    places = ImportPlaces()
    with ExitStack() as held:
        for number in range(MAX_AT_ONCE):
            held.enter_context(places.place(f"tn-{number // MAX_OF_TENANT}"))
        with pytest.raises(ImportsBusy), places.place("tn-late"):
            pass
    with places.place("tn-late"), places.place("tn-late"):
        with pytest.raises(ImportsBusy), places.place("tn-late"):
            pass
        with places.place("tn-other"):
            pass


def test_an_import_that_fails_gives_its_place_back() -> None:
    places = ImportPlaces()
    for _ in range(MAX_AT_ONCE + 1):
        with pytest.raises(ValueError, match="made up"), places.place("tn-one"):
            raise ValueError("made up")
