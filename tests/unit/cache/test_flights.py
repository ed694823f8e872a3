"""One calls, the others wait: for its answer, for its lead where it left, and never past its failure."""

from __future__ import annotations

import asyncio

import pytest

from hx_gateway.cache.answers import StoredAnswer
from hx_gateway.cache.flights import Flights, Lead
from tests.unit.cache.questions import answer, question

ASKED = question()
ANSWER = answer(ASKED)
PATIENT_SECONDS = 10.0
Joined = StoredAnswer | Lead | None


async def lead_of(flights: Flights) -> Lead:
    joined = await flights.join(ASKED.digest, PATIENT_SECONDS)
    assert isinstance(joined, Lead)
    return joined


async def waiting(flights: Flights, number: int) -> list[asyncio.Task[Joined]]:
    tasks = [asyncio.create_task(flights.join(ASKED.digest, PATIENT_SECONDS)) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


async def test_all_who_wait_get_the_answer() -> None:
    flights = Flights()
    lead = await lead_of(flights)
    tasks = await waiting(flights, 5)
    lead.end(ANSWER)
    assert await asyncio.gather(*tasks) == [ANSWER] * 5
    assert len(flights) == 0


async def test_another_question_does_not_wait() -> None:
    flights = Flights()
    await lead_of(flights)
    assert isinstance(await flights.join(question("other").digest, PATIENT_SECONDS), Lead)


async def test_nobody_waits_past_a_call_that_failed() -> None:
    flights = Flights()
    lead = await lead_of(flights)
    tasks = await waiting(flights, 3)
    lead.end()
    assert await asyncio.gather(*tasks) == [None] * 3
    assert len(flights) == 0


async def test_one_takes_the_lead_of_whoever_left_and_the_others_wait_on() -> None:
    flights = Flights()
    first = await lead_of(flights)
    tasks = await waiting(flights, 3)
    first.end(hand_over=True)
    second = await tasks[0]
    assert isinstance(second, Lead)
    first.end(answer(ASKED, b"late"))
    assert not tasks[1].done()
    second.end(ANSWER)
    assert await asyncio.gather(*tasks[1:]) == [ANSWER] * 2


async def test_who_left_without_anybody_waiting_leaves_nothing_behind() -> None:
    flights = Flights()
    (await lead_of(flights)).end(hand_over=True)
    assert len(flights) == 0
    await lead_of(flights)


async def test_one_who_stops_waiting_is_not_handed_the_lead() -> None:
    flights = Flights()
    lead = await lead_of(flights)
    tasks = await waiting(flights, 2)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    lead.end(hand_over=True)
    assert isinstance(await tasks[1], Lead)


async def test_a_lead_that_was_handed_to_somebody_who_just_left_goes_on_to_the_next() -> None:
    flights = Flights()
    lead = await lead_of(flights)
    tasks = await waiting(flights, 2)
    lead.end(hand_over=True)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert isinstance(await tasks[1], Lead)


async def test_a_wait_has_an_end() -> None:
    flights = Flights()
    lead = await lead_of(flights)
    assert await flights.join(ASKED.digest, 0.01) is None
    lead.end(hand_over=True)
    assert len(flights) == 0


async def test_no_more_wait_than_may() -> None:
    flights = Flights(max_waiting=2)
    lead = await lead_of(flights)
    tasks = await waiting(flights, 2)
    assert await flights.join(ASKED.digest, PATIENT_SECONDS) is None
    lead.end(ANSWER)
    assert await asyncio.gather(*tasks) == [ANSWER] * 2
