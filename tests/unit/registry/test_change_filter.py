"""Which changes are wanted, and what they are called."""

from __future__ import annotations

from hx_gateway.registry.feed.changes import ChangeFilter, ChangeType, type_of
from tests.unit.registry.feeds import change


def test_a_change_is_called_after_what_changed() -> None:
    assert type_of("created", frozenset({"name"})) is ChangeType.CREATED
    assert type_of("deleted", frozenset({"status"})) is ChangeType.DELETED
    assert type_of("restored", frozenset({"deleted_at"})) is ChangeType.RESTORED
    assert type_of("updated", frozenset({"status"})) is ChangeType.STATUS_CHANGED
    assert type_of("updated", frozenset({"dependencies"})) is ChangeType.DEPENDENCY_CHANGED
    assert type_of("updated", frozenset({"tools"})) is ChangeType.TOOLS_CHANGED
    assert type_of("updated", frozenset({"pending_dependencies"})) is ChangeType.DEPENDENCY_CHANGED
    assert type_of("updated", frozenset({"dependencies", "pending_dependencies"})) is ChangeType.DEPENDENCY_CHANGED
    assert type_of("updated", frozenset({"status", "version"})) is ChangeType.UPDATED
    assert type_of("updated", frozenset({"dependencies", "version"})) is ChangeType.UPDATED
    assert type_of("purged", frozenset({"name"})) is ChangeType.PURGED
    assert type_of("noticed", frozenset({"flapping"})) is ChangeType.FLAPPING
    assert type_of("noticed", frozenset({"stale"})) is ChangeType.STALE
    assert type_of("noticed", frozenset({"self_preservation"})) is ChangeType.SELF_PRESERVATION


def test_nothing_asked_for_passes_all() -> None:
    assert ChangeFilter().passes(change(1))


def test_all_that_is_asked_for_must_hold() -> None:
    both = ChangeFilter(types=frozenset({ChangeType.UPDATED}), names=frozenset({"weather"}))
    assert both.passes(change(1))
    assert not both.passes(change(1, name="maps"))
    assert not both.passes(change(1, type=ChangeType.CREATED))


def test_a_renamed_service_is_known_by_both_names_whatever_their_case() -> None:
    renamed = change(1, name="Climate", before={"name": "Weather"}, after={"name": "Climate"})
    assert ChangeFilter(names=frozenset({"weather"})).passes(renamed)
    assert ChangeFilter(names=frozenset({"climate"})).passes(renamed)


def test_a_tag_that_was_taken_away_still_tells_of_that() -> None:
    untagged = change(1, before={"tags": ["a"]}, after={"tags": []})
    assert ChangeFilter(tags=frozenset({"a"})).passes(untagged)
    assert ChangeFilter(tags=frozenset({"b"})).passes(change(1, tags=frozenset({"b"})))
    assert not ChangeFilter(tags=frozenset({"b"})).passes(untagged)


def test_of_required_services_only() -> None:
    required = ChangeFilter(required_only=True)
    assert required.passes(change(1, is_required=True))
    assert not required.passes(change(1))
    assert required.passes(change(1, before={"is_required": True}, after={"is_required": False}))


def test_what_is_about_no_service_passes_no_filter_by_services() -> None:
    general = change(1, type=ChangeType.SELF_PRESERVATION, service_id=None, name=None, before={}, after={})
    assert ChangeFilter(types=frozenset({ChangeType.SELF_PRESERVATION})).passes(general)
    assert not ChangeFilter(names=frozenset({"weather"})).passes(general)
    assert not ChangeFilter(tags=frozenset({"a"})).passes(general)
    assert not ChangeFilter(required_only=True).passes(general)
    assert "subject" not in general.event()
    assert general.event()["data"]["service_id"] is None


def test_an_event_is_a_cloud_event() -> None:
    event = change(17).event()
    assert {"specversion", "id", "source", "type"} <= event.keys()
    assert (event["id"], event["subject"], event["data"]["changed_fields"]) == ("17", "weather", ["version"])
