"""Lanes: many screens side by side, changed one at a time, each after a long stillness of its own.

Two hundred shots with 20 s of stillness before each take more than an hour on one screen. On eight they take
eight minutes, and none is taken while another is under way: shots are at least `GAP_S` apart, and a server
that takes longer than that to answer waits for a timer and uses no CPU meanwhile.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from benchmarks.watching import SHOT_S, take
from support.rfb_client import RAW, RfbClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from benchmarks.servers import Server

GAP_S: Final = 0.25
"""Between two shots: what vramtap and x0vncserver do after one is over in a tenth of it."""
REST_S: Final = 0.3
"""A server that did not wake up for so long before its shot was at rest; while it asks the log it wakes up
every 24 ms."""
_ANSWER_S: Final = 0.01
"""Between two looks whether what was fired is over; updates are seen at once."""

T = TypeVar("T")


@dataclass(eq=False)
class Lane(Generic[T]):
    """A screen and the servers that show it.

    Args:
        kind: Lanes of a kind share its shots.
        servers: Each gets a Raw client with an incremental request outstanding.
        fire: Changes the screen; called with the number of the shot in its kind, in the thread of `run`.
        wakeups: How often the server observed has woken up so far; None where that is not asked.
        patience_s: For so long past its time a shot is put off until that server is at rest.
    """

    kind: str
    servers: Sequence[Server]
    fire: Callable[[int], Future[T]]
    wakeups: Callable[[], int] | None = None
    idle_after_s: float = 0.0


@dataclass
class Shot(Generic[T]):
    """One change of a screen.

    Args:
        kind: Of its lane.
        result: What `fire` promised.
        fired_s: When it was called, on the monotonic clock.
        arrived_s: When each server's update began to arrive, on the monotonic clock, by name; one that is
            missing sent none within `SHOT_S`.
        rested: Whether the server observed had not woken up for `REST_S`; None where that is not asked.
    """

    kind: str
    result: Future[T]
    fired_s: float
    rested: bool | None
    arrived_s: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class _Running(Generic[T]):
    lane: Lane[T]
    clients: dict[RfbClient, str]
    due_s: float
    shot: Shot[T] | None = None
    rested: bool | None = None
    mark: int | None = None
    """Wake-ups at the last look, `REST_S` or longer ago."""
    since_s: float | None = None
    """When it was looked at first for the shot that is due."""

    @property
    def answered(self) -> bool:
        """Whether nothing is waited for: every server has answered, and what was fired is over."""
        if self.shot is None:
            return True
        return len(self.shot.arrived_s) == len(self.clients) and self.shot.result.done()


def run(
    lanes: Sequence[Lane[T]],
    shots: dict[str, int],
    idle_s: float,
    progress: Callable[[str], None],
) -> list[Shot[T]]:
    """Take shots until each kind has had its number.

    Args:
        lanes: At least one of each kind.
        shots: How many, by kind.
        idle_s: For so long no server of a lane has sent anything, and nobody has changed its screen, before
            it is changed again.
        progress: Told what is going on.

    Returns:
        All shots, in the order they were taken.
    """
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        began_s = time.monotonic()
        running = []
        for lane in lanes:
            clients = {}
            for server in lane.servers:
                client = stack.enter_context(RfbClient.connect("127.0.0.1", server.port, encodings=[RAW]))
                client.refresh(incremental=False)
                client.request()
                clients[client] = server.name
            one = _Running(lane, clients, began_s + idle_s)
            for client in clients:
                selector.register(client.socket, selectors.EVENT_READ, (one, client))
            running.append(one)
        return _take_all(running, shots, idle_s, selector, progress)


def _take_all(
    running: list[_Running[T]],
    shots: dict[str, int],
    idle_s: float,
    selector: selectors.BaseSelector,
    progress: Callable[[str], None],
) -> list[Shot[T]]:
    taken: list[Shot[T]] = []
    fired: Counter[str] = Counter()
    clear_s = 0.0
    while True:
        now_s = time.monotonic()
        for one in running:
            _finish(one, now_s, idle_s)
        open_lanes = [one for one in running if fired[one.lane.kind] < shots[one.lane.kind]]
        if not open_lanes and all(one.shot is None for one in running):
            return taken
        ready = [one for one in open_lanes if one.shot is None and one.due_s <= now_s]
        if ready and now_s >= clear_s:
            one = min(ready, key=lambda one: one.due_s)
            if _may_fire(one, now_s):
                number = fired[one.lane.kind]
                fired[one.lane.kind] += 1
                progress(", ".join(f"{kind} {fired[kind]} of {count}" for kind, count in shots.items()))
                shot = Shot(one.lane.kind, one.lane.fire(number), now_s, one.rested)
                one.shot, one.mark, one.since_s = shot, None, None
                taken.append(shot)
                clear_s = time.monotonic() + GAP_S
        _serve(selector, _pause_s(running, open_lanes, clear_s), idle_s)


def _may_fire(one: _Running[T], now_s: float) -> bool:
    """Whether it is known if the server observed is at rest, and it is or has been waited for long enough."""
    if one.lane.wakeups is None:
        return True
    count, before = one.lane.wakeups(), one.mark
    one.rested, one.mark = count == before, count
    if one.since_s is None:
        one.since_s = now_s
    elif one.rested or now_s - one.since_s >= one.lane.idle_after_s:
        return True
    one.due_s = now_s + REST_S
    return False


def _finish(one: _Running[T], now_s: float, idle_s: float) -> None:
    """End a shot that is answered, or that never will be."""
    if one.shot is not None and (one.answered or now_s - one.shot.fired_s > SHOT_S):
        one.shot.result.result(timeout=SHOT_S)
        one.shot, one.due_s = None, now_s + idle_s


def _pause_s(running: list[_Running[T]], open_lanes: list[_Running[T]], clear_s: float) -> float:
    """How long nothing has to be done but take in updates."""
    if any(one.shot is not None for one in running):
        return _ANSWER_S
    now_s = time.monotonic()
    due_s = min((one.due_s for one in open_lanes if one.shot is None), default=now_s)
    return max(0.0, max(due_s, clear_s) - now_s)


def _serve(selector: selectors.BaseSelector, timeout_s: float, idle_s: float) -> None:
    """Take in what comes, for so long at most."""
    events = selector.select(timeout_s)
    now_s = time.monotonic()
    for key, _ in events:
        one, client = key.data
        if not take(client):
            continue
        client.request()
        if one.shot is not None:
            one.shot.arrived_s.setdefault(one.clients[client], now_s)
        else:
            # Late or of itself: the screen was not still.
            one.due_s, one.mark, one.since_s = now_s + idle_s, None, None
