"""spec/hybrid.pml: the protocol of the hybrid tracker loses nothing, and each of its rules is needed."""

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
"""The claims about what happens in the end, and the part of the model that each needs."""

LOST = {
    "READ_BEFORE_LOG_PROTECT": "the consumer reads before phase two protects",
    "ANSWER_OF_PHASE_ONE": "a page in a bridged gap is protected but not reported",
    "READ_BEFORE_ARM": "the consumer reads before S's protection is in place",
    "NO_COMPARE_AFTER_ARM": "nothing is read once S's protection is in place",
    "READ_BEFORE_HAND_OVER": "the consumer reads before A's protection is in place",
    "NO_COMPARE_AFTER_HAND_OVER": "nothing is read once A's protection is in place",
    "ARM_WITHOUT_DONE": "a late watchdog lifts the protection of the next armed epoch",
    "BEGIN_AFTER_READ": "for a while neither S nor the socket tells of the writer",
    "BEGIN_AFTER_LIFT": "a write is done and neither S nor the socket tells of it",
    "OPEN_TILE_UNREPORTED": "an open tile is left out of an answer",
    "READ_BEFORE_TILE_PROTECT": "a tile is read before it is protected again",
    "TILE_CLOSED_UNREPORTED": "a tile is protected again and not reported once more",
    "NO_LIFT_BEFORE_UNREGISTER": "unregistering alone wakes nobody: the writer is held in the log's epoch",
    "NO_LIFT_AFTER_DONE": "arming protected after the watchdog's lift, and a second writer is held",
}
"""Rules of which breaking loses a write or leaves a writer behind: a state shows it."""

FOR_EVER = {
    "MAIN_IGNORES_S": ("released", "the watchdog is stopped and main does not look at S"),
    "MAIN_WAITS_EXCLUSIVELY": (
        "released",
        "the watchdog is stopped after it was woken, which nobody else was",
    ),
    "NOTHING_WHILE_S_FIRED": ("released", "the watchdog is stopped and main answers nothing"),
    "WAITS_FOR_DONE_FOREVER": ("released", "the watchdog is stopped between begin and done"),
    "WAKE_AFTER_UNREGISTER": ("released", "main is stopped between the two, and the watchdog's lift fails"),
    "MAIN_IGNORES_EOF": ("unwatched", "the watchdog is dead and main stays armed"),
    "ARM_WITHOUT_WATCHDOG": ("unwatched", "the watchdog is dead and main arms again"),
    "WATCHDOG_STAYS": ("clean", "main is dead and the watchdog keeps S open"),
}
"""Rules of which breaking keeps something from ever happening: a cycle shows it."""


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
    # Nothing holds for want of getting there: main, its ends and the watchdog are visited to the last line.
    assert report.unreached["Main"] == ()
    assert report.unreached["Watchdog"] == ()
    # But for what would be a fault of the model itself, and the end of who goes on for ever.
    writer = [line for line in report.unreached["Writer"] if '"-end-"' not in line]
    assert [line.rpartition(", ")[2] for line in writer] == ['"assert(0)"'], report.text
    assert [line for line in report.unreached["Fate"] if '"-end-"' not in line] == []


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
    # Not the model's own (no room in the socket, protection without registration), which are no negations.
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
