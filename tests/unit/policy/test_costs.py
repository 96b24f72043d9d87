"""Costs: values out of range raise with their name."""

from __future__ import annotations

import dataclasses
import math

import pytest

from vramtap.errors import VramtapError
from vramtap.policy.costs import MAX_COST_US, REFERENCE, Costs

FIELDS = [field.name for field in dataclasses.fields(Costs)]


def test_from_mapping_reads_all_fields() -> None:
    values = dataclasses.asdict(REFERENCE)
    assert Costs.from_mapping(values) == REFERENCE
    del values["guest_cost_factor"]
    assert Costs.from_mapping(values).guest_cost_factor == 1.0


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "value", [-1.0, math.nan, math.inf, True, None, "1", [1.0], MAX_COST_US * 1.01, 10**400]
)
def test_value_out_of_range_raises_with_its_name(name: str, value: object) -> None:
    with pytest.raises(VramtapError, match=f"costs {name}"):
        Costs.from_mapping({**dataclasses.asdict(REFERENCE), name: value})


@pytest.mark.parametrize("name", ["page_us", "scan_us"])
def test_cost_that_must_be_positive_raises_for_0(name: str) -> None:
    with pytest.raises(VramtapError, match=f"costs {name}: 0 "):
        dataclasses.replace(REFERENCE, **{name: 0})


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"guest_cost_factor"}))
def test_missing_field_is_named(name: str) -> None:
    values = dataclasses.asdict(REFERENCE)
    del values[name]
    with pytest.raises(VramtapError, match=f"missing: {name}"):
        Costs.from_mapping(values)


def test_unknown_field_is_named_and_shortened() -> None:
    with pytest.raises(VramtapError, match="unknown: xx") as caught:
        Costs.from_mapping({**dataclasses.asdict(REFERENCE), "x" * 10_000: 1.0})
    assert len(str(caught.value)) < 1000


def test_guest_cost_factor_applies_to_guest_time_only() -> None:
    weighted = dataclasses.replace(REFERENCE, guest_cost_factor=3.0)
    assert weighted.fault_weighted_us == 3 * REFERENCE.fault_us
    assert weighted.arming_us(10) == REFERENCE.arming_us(10) == REFERENCE.arm_us + 10 * REFERENCE.page_us
    assert weighted.waking_us(10) - REFERENCE.waking_us(10) == pytest.approx(2 * REFERENCE.held_us)
