"""Lanes: how shots are shared out, when a server counts as at rest, and how errors surface."""

from __future__ import annotations

import itertools
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest
from benchmarks import lanes
from benchmarks.lanes import Lane

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GAP_S", "REST_S", "_ANSWER_S"):
        monkeypatch.setattr(lanes, name, 0.0)


def lane(kind: str, log: list[tuple[str, int]], wakeups: Callable[[], int] | None = None) -> Lane[str]:
    def fire(number: int) -> Future[str]:
        log.append((kind, number))
        done: Future[str] = Future()
        done.set_result(f"{kind} {number}")
        return done

    return Lane(kind, [], fire, wakeups)


def take(rows: list[Lane[str]], shots: dict[str, int]) -> list[lanes.Shot[str]]:
    return lanes.run(rows, shots, 0.0, lambda what: None)


def test_each_kind_gets_its_number_of_shots() -> None:
    log: list[tuple[str, int]] = []
    taken = take([lane("a", log), lane("a", log), lane("b", log)], {"a": 5, "b": 2})
    assert sorted(log) == [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 0), ("b", 1)]
    assert [shot.result.result() for shot in taken] == [f"{kind} {number}" for kind, number in log]
    assert [shot.rested for shot in taken] == [None] * 7


def test_every_lane_of_a_kind_takes_shots() -> None:
    logs: list[list[tuple[str, int]]] = [[], [], []]
    take([lane("a", log) for log in logs], {"a": 6})
    assert all(logs)
    assert sorted(itertools.chain(*logs)) == [("a", number) for number in range(6)]


def test_shot_records_whether_the_server_was_at_rest() -> None:
    restless = itertools.count()
    rows = [lane("rests", [], lambda: 7), lane("wakes", [], lambda: next(restless))]
    taken = take(rows, {"rests": 2, "wakes": 2})
    assert {(shot.kind, shot.rested) for shot in taken} == {("rests", True), ("wakes", False)}


def test_due_shot_waits_for_the_server_to_come_to_rest() -> None:
    wakeups = itertools.chain(range(20), itertools.repeat(20))
    row = lane("a", [], lambda: next(wakeups))
    row.rest_limit_s = 60.0
    (shot,) = take([row], {"a": 1})
    assert shot.rested is True


def test_error_in_a_shot_is_raised() -> None:
    def fire(number: int) -> Future[str]:
        failed: Future[str] = Future()
        failed.set_exception(RuntimeError("the guest has ended"))
        return failed

    with pytest.raises(RuntimeError, match="the guest has ended"):
        take([Lane("a", [], fire)], {"a": 1})
