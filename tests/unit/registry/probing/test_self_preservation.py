"""When failures are our own: many at once of those that were healthy."""

from __future__ import annotations

from hx_gateway.registry.probing.self_preservation import SelfPreservation


class Window:
    """Services that are looked at each minute."""

    def __init__(self) -> None:
        self.guard = SelfPreservation[int]()
        self.now = 1000.0

    def see(self, *, failing: int, well: int) -> bool:
        """Look at some; return whether the guard changed."""
        for number in range(failing + well):
            self.guard.note(number, failed=number < failing, now=self.now, interval=60.0)
        return self.guard.update(self.now)


def test_half_of_ten_raise_it_once() -> None:
    window = Window()
    assert window.see(failing=5, well=5)
    assert window.guard.raised
    assert not window.see(failing=6, well=4)
    assert window.guard.raised
    assert window.guard.figures() == (6, 10)


def test_less_than_half_do_not() -> None:
    window = Window()
    assert not window.see(failing=5, well=6)
    assert not window.guard.raised


def test_fewer_than_five_do_not_even_if_they_are_all() -> None:
    window = Window()
    assert not window.see(failing=4, well=0)


def test_it_is_lowered_once_when_they_are_back() -> None:
    window = Window()
    window.see(failing=5, well=5)
    assert window.see(failing=4, well=6)
    assert not window.guard.raised
    assert not window.see(failing=4, well=6)


def test_findings_that_are_overdue_count_no_more() -> None:
    window = Window()
    window.see(failing=5, well=5)
    window.now += 91.0
    assert window.guard.update(window.now)
    assert window.guard.figures() == (0, 0)


def test_those_that_were_not_healthy_before_say_nothing() -> None:
    window = Window()
    window.see(failing=5, well=5)
    for number in range(5):
        window.guard.forget(number)
    assert window.guard.update(window.now)
    assert not window.guard.raised


def test_a_fault_that_lasts_is_believed_and_only_another_one_raises_it_again() -> None:
    window = Window()
    window.see(failing=8, well=2)
    window.now += 600.0
    assert window.see(failing=8, well=2)
    assert not window.guard.raised
    assert not window.see(failing=8, well=2)
    window.see(failing=0, well=10)
    assert window.see(failing=8, well=2)
    assert window.guard.raised
