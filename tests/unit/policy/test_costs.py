"""Costs: what is no measurement is refused, by name."""

from __future__ import annotations

import dataclasses
import math

import pytest

from vramtap.errors import VramtapError
from vramtap.policy.costs import MAX_COST_US, REFERENCE, Costs

FIELDS = [field.name for field in dataclasses.fields(Costs)]


def test_what_a_file_says_is_taken_whole() -> None:
    said = dataclasses.asdict(REFERENCE)
    assert Costs.from_mapping(said) == REFERENCE
    del said["guest_cost_factor"]
    assert Costs.from_mapping(said).guest_cost_factor == 1.0


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "value", [-1.0, math.nan, math.inf, True, None, "1", [1.0], MAX_COST_US * 1.01, 10**400]
)
def test_what_is_no_measurement_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(VramtapError, match=f"costs {name}"):
        Costs.from_mapping({**dataclasses.asdict(REFERENCE), name: value})


@pytest.mark.parametrize("name", ["page_us", "look_us"])
def test_nothing_is_read_for_nothing(name: str) -> None:
    with pytest.raises(VramtapError, match=f"costs {name}: 0 "):
        dataclasses.replace(REFERENCE, **{name: 0})


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"guest_cost_factor"}))
def test_a_field_that_is_missing_is_named(name: str) -> None:
    said = dataclasses.asdict(REFERENCE)
    del said[name]
    with pytest.raises(VramtapError, match=f"missing: {name}"):
        Costs.from_mapping(said)


def test_a_field_that_is_unknown_is_named_and_cut() -> None:
    with pytest.raises(VramtapError, match="unknown: xx") as caught:
        Costs.from_mapping({**dataclasses.asdict(REFERENCE), "x" * 10_000: 1.0})
    assert len(str(caught.value)) < 1000


def test_only_the_guests_time_is_weighted() -> None:
    heavy = dataclasses.replace(REFERENCE, guest_cost_factor=3.0)
    assert heavy.fault_weighted_us == 3 * REFERENCE.fault_us
    assert heavy.arming_us(10) == REFERENCE.arming_us(10) == REFERENCE.arm_us + 10 * REFERENCE.page_us
    assert heavy.waking_us(10) - REFERENCE.waking_us(10) == pytest.approx(2 * REFERENCE.held_us)
