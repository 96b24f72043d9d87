"""Check spec/hybrid.pml: the hybrid tracker's protocol loses no write, and needs each of its rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.spin import Report, verify
from support.testbed.require import program

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "spec" / "hybrid.pml"

HELD = ("LIVENESS", "HOLDING")

RIGHT = {
    "released": HELD,
    "clean": HELD,
    "unwatched": HELD,
    "seen": ("LIVENESS", "MAIN_LIVES", "ONE_WRITER"),
}
"""Liveness claims, each with the part of the model that it needs."""

LOST = {
    "READ_BEFORE_LOG_PROTECT": "the consumer reads before phase two protects",
    "ANSWER_OF_PHASE_ONE": "a page in a bridged gap is protected but not reported",
    "READ_BEFORE_ARM": "the consumer reads before S's protection is in place",
    "NO_COMPARE_AFTER_ARM": "the consumer does not read after S's protection is in place",
    "READ_BEFORE_HAND_OVER": "the consumer reads before A's protection is in place",
    "NO_COMPARE_AFTER_HAND_OVER": "the consumer does not read after A's protection is in place",
    "ARM_WITHOUT_DONE": "a late watchdog lifts the protection of the next armed epoch",
    "BEGIN_AFTER_READ": "for a while neither S nor the socket reports the writer",
    "BEGIN_AFTER_LIFT": "a write is done and neither S nor the socket reports it",
    "OPEN_TILE_UNREPORTED": "an answer lacks an open tile",
    "READ_BEFORE_TILE_PROTECT": "the consumer reads a tile before it is protected again",
    "TILE_CLOSED_UNREPORTED": "a tile is protected again and not reported once more",
    "NO_LIFT_BEFORE_UNREGISTER": "unregistering wakes no writer: it stays held in the log's epoch",
    "NO_LIFT_AFTER_DONE": "arming protects after the watchdog's lift, and a second writer is held",
}
"""Rules whose breach loses a write or leaves a writer held: an assertion in a state fails."""

FOR_EVER = {
    "MAIN_IGNORES_S": ("released", "the watchdog is stopped and main does not poll S"),
    "MAIN_WAITS_EXCLUSIVELY": (
        "released",
        "only the watchdog was woken, and it was stopped after that",
    ),
    "NOTHING_WHILE_S_FIRED": ("released", "the watchdog is stopped and main reports no page"),
    "WAITS_FOR_DONE_FOREVER": ("released", "the watchdog is stopped between begin and done"),
    "WAKE_AFTER_UNREGISTER": ("released", "main is stopped between the two, and the watchdog's lift fails"),
    "MAIN_IGNORES_EOF": ("unwatched", "the watchdog is dead and main stays armed"),
    "ARM_WITHOUT_WATCHDOG": ("unwatched", "the watchdog is dead and main arms again"),
    "WATCHDOG_STAYS": ("clean", "main is dead and the watchdog keeps S open"),
}
"""Rules whose breach keeps an event from ever happening: the search finds a cycle."""


def check(claim: str, defines: tuple[str, ...], directory: Path, *, liveness: bool) -> Report:
    program("spin", "spin")
    program("gcc", "gcc")
    return verify(MODEL, claim, defines, directory, liveness=liveness)


def assert_holds(report: Report) -> None:
    assert (report.errors, report.kind, report.trail) == (0, "", False), report.text
    assert report.complete, report.text


def test_no_write_is_lost_and_every_statement_is_reached(tmp_path: Path) -> None:
    report = check("safe", (), tmp_path, liveness=False)
    assert_holds(report)
    # The claim does not hold vacuously: the search reaches every statement of main and of the watchdog.
    assert report.unreached["Main"] == ()
    assert report.unreached["Watchdog"] == ()
    # Exceptions are the assertion about the model itself, and the ends of processes that run for ever.
    writer = [line for line in report.unreached["Writer"] if '"-end-"' not in line]
    assert [line.rpartition(", ")[2] for line in writer] == ['"assert(0)"'], report.text
    assert [line for line in report.unreached["Faults"] if '"-end-"' not in line] == []


@pytest.mark.parametrize(
    "claim", [claim if claim == "clean" else pytest.param(claim, marks=pytest.mark.long) for claim in RIGHT]
)
def test_liveness_claims_hold(claim: str, tmp_path: Path) -> None:
    assert_holds(check(claim, RIGHT[claim], tmp_path, liveness=True))


@pytest.mark.parametrize("rule", LOST)
def test_breaking_rule_loses_write(rule: str, tmp_path: Path) -> None:
    report = check("safe", (f"BREAK_{rule}",), tmp_path, liveness=False)
    assert (report.errors, report.kind, report.trail) == (1, "assertion", True), (
        f"{LOST[rule]}: {report.text}"
    )
    # The model's own assertions (room in the socket, protection without registration) are no negations.
    assert report.violated.startswith("!"), report.violated


@pytest.mark.parametrize("rule", FOR_EVER)
def test_breaking_rule_violates_liveness(rule: str, tmp_path: Path) -> None:
    claim, why = FOR_EVER[rule]
    report = check(claim, (*RIGHT[claim], f"BREAK_{rule}"), tmp_path, liveness=True)
    assert (report.errors, report.kind, report.trail) == (1, "cycle", True), f"{why}: {report.text}"


def test_two_faults_exceed_the_promise(tmp_path: Path) -> None:
    report = check("released", (*HELD, "TWO_FAULTS"), tmp_path, liveness=True)
    assert (report.errors, report.kind, report.trail) == (1, "cycle", True), report.text


def test_every_rule_is_broken_here_and_explained() -> None:
    rules = set(re.findall(r"BREAK_([A-Z_]*[A-Z])\b", MODEL.read_text()))
    assert rules == LOST.keys() | FOR_EVER.keys()
    explained = (ROOT / "docs" / "protocol.md").read_text()
    assert [rule for rule in sorted(rules) if f"`{rule}`" not in explained] == []
