"""Windows of budgets: calendars, time zones, and days on which the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.allowances import Budget, Period, ScopeKind
from hx_gateway.kit.epochs import unix_us
from hx_gateway.limits.windows import MAX_REMEMBERED, WindowCalendar, charges_for, window_of

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "America/Havana",
    "Asia/Kathmandu",
    "Asia/Beirut",
    "Africa/Cairo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
]


def at(text: str, zone: str = "UTC", fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)


@pytest.mark.parametrize(
    ("period", "name", "start", "end"),
    [
        (Period.DAY, "2026-11-25", "2026-11-25", "2026-11-26"),
        (Period.WEEK, "2026-W48", "2026-11-23", "2026-11-30"),
        (Period.MONTH, "2026-11", "2026-11-01", "2026-12-01"),
    ],
)
def test_a_moment_is_in_its_day_week_and_month(period: Period, name: str, start: str, end: str) -> None:
    assert window_of(period, "UTC", at("2026-11-25T13:00")) == (name, at(start), at(end))


def test_all_time_has_no_end() -> None:
    name, start, end = window_of(Period.TOTAL, "Europe/Berlin", at("2026-11-25"))
    assert (name, end) == ("total", None)
    assert start < at("2000-01-01")


def test_a_week_of_two_years_has_the_number_and_the_year_of_the_iso_calendar() -> None:
    assert window_of(Period.WEEK, "UTC", at("2027-01-02"))[0] == "2026-W53"
    assert window_of(Period.WEEK, "UTC", at("2024-12-31"))[0] == "2025-W01"


def test_a_month_of_december_ends_with_the_year() -> None:
    assert window_of(Period.MONTH, "UTC", at("2026-12-31T23:59"))[2] == at("2027-01-01")


def test_a_moment_is_in_the_day_of_its_zone() -> None:
    moment = at("2026-11-25T23:30")
    assert window_of(Period.DAY, "Europe/Berlin", moment)[0] == "2026-11-26"
    assert window_of(Period.DAY, "America/New_York", moment)[0] == "2026-11-25"


def test_the_last_microsecond_of_a_window_is_in_it_and_the_next_is_not() -> None:
    end = window_of(Period.DAY, "Europe/Berlin", at("2026-11-25T12:00"))[2]
    assert end is not None
    assert window_of(Period.DAY, "Europe/Berlin", end - timedelta(microseconds=1))[0] == "2026-11-25"
    assert window_of(Period.DAY, "Europe/Berlin", end)[0] == "2026-11-26"


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_on_which_the_clocks_change_is_shorter_or_longer(day: str, hours: int) -> None:
    _, start, end = window_of(Period.DAY, "Europe/Berlin", at(f"{day}T12:00", "Europe/Berlin"))
    assert end is not None
    assert end - start == timedelta(hours=hours)


def test_both_hours_that_the_clocks_show_twice_are_in_the_same_day() -> None:
    days = {window_of(Period.DAY, "Europe/Berlin", at("2026-10-25T02:30", "Europe/Berlin", fold))[0] for fold in (0, 1)}
    assert days == {"2026-10-25"}


def test_a_day_whose_midnight_is_skipped_begins_when_the_clocks_change() -> None:
    _, start, end = window_of(Period.DAY, "Africa/Cairo", at("2026-04-24T12:00", "Africa/Cairo"))
    assert start == at("2026-04-23T22:00")
    assert end is not None
    assert end - start == timedelta(hours=23)


def test_a_day_with_two_midnights_begins_with_the_first() -> None:
    _, start, end = window_of(Period.DAY, "America/Havana", at("2026-11-01T12:00", "America/Havana"))
    assert start == at("2026-11-01T04:00")
    assert end is not None
    assert end - start == timedelta(hours=25)


def test_clocks_that_are_set_back_over_midnight_do_not_bring_back_the_day_before() -> None:
    change = at("2010-11-07T02:31")  # 00:01 on the 7th in Newfoundland, which became 23:01 on the 6th
    assert (change + timedelta(minutes=5)).astimezone(ZoneInfo("America/St_Johns")).day == 6
    assert window_of(Period.DAY, "America/St_Johns", change + timedelta(minutes=5))[0] == "2010-11-07"


def test_a_day_that_a_country_left_out_is_nobodys() -> None:
    before = window_of(Period.DAY, "Pacific/Apia", at("2011-12-30T09:59"))
    after = window_of(Period.DAY, "Pacific/Apia", at("2011-12-30T10:00"))
    assert (before[0], after[0]) == ("2011-12-29", "2011-12-31")
    assert before[2] == after[1]


@given(
    seconds=st.integers(800_000_000, 2_100_000_000),
    zone=st.sampled_from(ZONES),
    period=st.sampled_from([Period.DAY, Period.WEEK, Period.MONTH]),
)
def test_windows_follow_each_other_without_a_gap(seconds: int, zone: str, period: Period) -> None:
    moment = datetime.fromtimestamp(seconds, UTC)
    calendar = WindowCalendar()
    window = calendar.window_of(period, zone, moment)
    assert window.end is not None
    assert window.start <= moment < window.end
    following = WindowCalendar().window_of(period, zone, window.end)
    assert following.start == window.end
    assert following.id > window.id
    assert calendar.window_of(period, zone, moment) == WindowCalendar().window_of(period, zone, window.start)


def test_what_is_remembered_is_right_when_the_clock_steps_back() -> None:
    calendar = WindowCalendar()
    assert calendar.window_of(Period.DAY, "UTC", at("2026-11-25T00:00")).id == "2026-11-25"
    assert calendar.window_of(Period.DAY, "UTC", at("2026-11-24T23:59")).id == "2026-11-24"


def test_no_more_is_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hx_gateway.limits.windows.MAX_REMEMBERED", 3)
    calendar = WindowCalendar()
    for zone in ZONES:
        calendar.window_of(Period.DAY, zone, at("2026-11-25"))
    assert len(calendar._current) <= 3 < MAX_REMEMBERED


def test_a_zone_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ZoneInfoNotFoundError):
        window_of(Period.DAY, "Atlantis/Capital", at("2026-11-25"))


def test_a_call_is_charged_to_the_window_that_it_begins_in_of_each_budget() -> None:
    budgets = [
        Budget(
            id="bg-a", kind=ScopeKind.KEY, owner_id="k", limit_nano=1, period=Period.DAY, time_zone="Asia/Kathmandu"
        ),
        Budget(id="bg-b", kind=ScopeKind.TENANT, owner_id="t", limit_nano=1, period=Period.TOTAL),
    ]
    charges = charges_for(budgets, unix_us(at("2026-11-25T18:15")))
    assert [charge.key for charge in charges] == ["bg-a:2026-11-26", "bg-b:total"]
