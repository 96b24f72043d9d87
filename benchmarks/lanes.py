"""Lanes: many screens side by side, changed one at a time, each after a long time without change.

Two hundred shots with 20 s without change before each take more than an hour on one screen, and eight minutes
on eight screens. The shots do not disturb each other: they are at least `GAP_S` apart, and a server that
takes longer than that to answer waits for a timer and uses no CPU.
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
"""Shortest time between two shots, seconds. vramtap and x0vncserver are done with a shot in a tenth of it."""
REST_S: Final = 0.3
"""A server is at rest when it did not wake up for this long, seconds. While vramtap polls it wakes up every
24 ms."""
_ANSWER_S: Final = 0.01
"""Interval of checks whether a fired change is finished, seconds. Updates are seen at once."""

T = TypeVar("T")


@dataclass(eq=False)
class Lane(Generic[T]):
    """A screen and the servers that show it.

    Args:
        kind: Name of the kind; lanes of a kind share the kind's shots.
        servers: The servers. Each gets a Raw client with an incremental request outstanding.
        fire: Changes the screen. Called in the thread of `run` with the number of the shot in its kind.
        wakeups: Returns how often the observed server has woken up; None if no server is observed.
        rest_limit_s: Longest delay of a due shot until the observed server is at rest, seconds.
    """

    kind: str
    servers: Sequence[Server]
    fire: Callable[[int], Future[T]]
    wakeups: Callable[[], int] | None = None
    rest_limit_s: float = 0.0


@dataclass
class Shot(Generic[T]):
    """One change of a screen.

    Args:
        kind: Kind of its lane.
        result: Result of `fire`.
        fired_s: When `fire` was called, on the monotonic clock.
        rested: Whether the observed server had not woken up for `REST_S`; None if no server is observed.
        arrived_s: When each server's update began to arrive, on the monotonic clock, by the server's name. A
            server without an entry sent no update within `SHOT_S`.
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
    """Number of wake-ups at the last check, at least `REST_S` ago."""
    since_s: float | None = None
    """Time of the first check for the shot that is due."""

    @property
    def answered(self) -> bool:
        """True if every server has answered and the change is finished, or if no shot is under way."""
        if self.shot is None:
            return True
        return len(self.shot.arrived_s) == len(self.clients) and self.shot.result.done()


def run(
    lanes: Sequence[Lane[T]],
    shots: dict[str, int],
    idle_s: float,
    progress: Callable[[str], None],
) -> list[Shot[T]]:
    """Take shots until each kind has its number of shots.

    Args:
        lanes: At least one of each kind.
        shots: Number of shots of each kind.
        idle_s: Shortest time without a change and without an update on a lane before its next shot, seconds.
        progress: Called with what is going on.

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
    """Return whether the observed server is at rest, or the wait for that has reached its limit."""
    if one.lane.wakeups is None:
        return True
    count, before = one.lane.wakeups(), one.mark
    one.rested, one.mark = count == before, count
    if one.since_s is None:
        one.since_s = now_s
    elif one.rested or now_s - one.since_s >= one.lane.rest_limit_s:
        return True
    one.due_s = now_s + REST_S
    return False


def _finish(one: _Running[T], now_s: float, idle_s: float) -> None:
    """End a shot that every server has answered, or that has timed out."""
    if one.shot is not None and (one.answered or now_s - one.shot.fired_s > SHOT_S):
        one.shot.result.result(timeout=SHOT_S)
        one.shot, one.due_s = None, now_s + idle_s


def _pause_s(running: list[_Running[T]], open_lanes: list[_Running[T]], clear_s: float) -> float:
    """Return how long `run` may wait for updates before its next action, seconds."""
    if any(one.shot is not None for one in running):
        return _ANSWER_S
    now_s = time.monotonic()
    due_s = min((one.due_s for one in open_lanes if one.shot is None), default=now_s)
    return max(0.0, max(due_s, clear_s) - now_s)


def _serve(selector: selectors.BaseSelector, timeout_s: float, idle_s: float) -> None:
    """Receive updates for at most this long."""
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
            # A late update or one without a shot: the idle time begins again.
            one.due_s, one.mark, one.since_s = now_s + idle_s, None, None
