"""Maps of a trace: the share of each cell, as colours, characters and SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.traces import trace_of
from vramtap.trace import picture
from vramtap.trace.picture import as_pixels, as_svg, as_text, heat
from vramtap.trace.trace import TraceBuilder


@given(
    st.integers(1, 40),
    st.lists(st.sets(st.integers(0, 39)), min_size=1, max_size=30),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_shares_add_up_to_all_writes(pages: int, written: list[set[int]], columns: int, rows: int) -> None:
    trace = trace_of(written, pages)
    shares = heat(trace, columns, rows)
    assert shares.shape[0] <= rows
    assert shares.shape[1] == min(columns, len(written))
    assert shares.min() >= 0
    assert shares.max() <= 1
    # Each share times the pages and the intervals of its cell adds up to all writes.
    tile = -(-pages // rows)
    edges = np.arange(shares.shape[1] + 1) * len(written) // shares.shape[1]
    cells = np.outer(trace.tiles(tile), np.diff(edges))
    assert (shares * cells).sum() == pytest.approx(sum(trace.written(i).count for i in range(len(written))))


def test_each_write_is_in_its_cell() -> None:
    shares = heat(trace_of([set(), {6, 7}, set(), {0}], 8), columns=4, rows=4)
    expected = np.zeros((4, 4))
    expected[3, 1], expected[0, 3] = 1.0, 0.5
    np.testing.assert_array_equal(shares, expected)


def test_map_of_a_long_trace_has_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_CELLS", 8)
    assert heat(trace_of([{0}] * 4, 8), rows=8).shape == (2, 4)


def test_trace_without_intervals_has_no_map() -> None:
    with pytest.raises(ValueError, match="without intervals"):
        heat(TraceBuilder(3).build({}))


def test_more_writes_are_brighter() -> None:
    pixels = as_pixels(np.linspace(0, 1, 50)[None, :])[0]
    assert pixels[0] == 0
    grey = sum((pixels >> shift & 0xFF).astype(int) for shift in (0, 8, 16))
    assert (np.diff(grey) > 0).all()


def test_rare_writes_are_visible() -> None:
    shares = np.array([[0.0, 0.001, 1.0]])
    assert as_pixels(shares)[0, 1] != 0
    assert as_text(shares) == [" .@"]


def test_svg_has_the_title_and_scales() -> None:
    root = ET.fromstring(as_svg(trace_of([{0}, {7}], 8), "a <b> & c"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <b> & c" in texts
    assert {"seconds", "page", "0", "8"} <= set(texts)
    (image,) = root.iter("{http://www.w3.org/2000/svg}image")
    assert image.attrib["href"].startswith("data:image/png;base64,iVBOR")
