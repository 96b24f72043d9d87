"""A trace as a picture: the share of each cell, in the right place, in colours, characters and SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.pages import PageRuns
from vramtap.trace import picture
from vramtap.trace.picture import as_pixels, as_svg, as_text, heat
from vramtap.trace.trace import Trace, TraceBuilder


def trace_of(pages: int, looks: list[set[int]]) -> Trace:
    builder = TraceBuilder(pages)
    for number, written in enumerate(looks):
        builder.add(1000 * (number + 1), PageRuns.from_pages(page for page in written if page < pages))
    return builder.build({})


@given(
    st.integers(1, 40),
    st.lists(st.sets(st.integers(0, 39)), min_size=1, max_size=30),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_nothing_is_lost_and_nothing_is_invented(
    pages: int, looks: list[set[int]], columns: int, rows: int
) -> None:
    trace = trace_of(pages, looks)
    shares = heat(trace, columns, rows)
    assert shares.shape[0] <= rows
    assert shares.shape[1] == min(columns, len(looks))
    assert shares.min() >= 0
    assert shares.max() <= 1
    # Each cell's share by its pages and its looks gives all writes again.
    tile = -(-pages // rows)
    edges = np.arange(shares.shape[1] + 1) * len(looks) // shares.shape[1]
    cells = np.outer(trace.tiles(tile), np.diff(edges))
    assert (shares * cells).sum() == pytest.approx(sum(trace.written(i).count for i in range(len(looks))))


def test_each_write_is_where_it_was() -> None:
    shares = heat(trace_of(8, [set(), {6, 7}, set(), {0}]), columns=4, rows=4)
    expected = np.zeros((4, 4))
    expected[3, 1], expected[0, 3] = 1.0, 0.5
    np.testing.assert_array_equal(shares, expected)


def test_a_trace_too_long_for_its_rows_gets_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_CELLS", 8)
    assert heat(trace_of(8, [{0}] * 4), rows=8).shape == (2, 4)


def test_without_looks_there_is_no_picture() -> None:
    with pytest.raises(ValueError, match="without looks"):
        heat(TraceBuilder(3).build({}))


def test_more_is_brighter() -> None:
    pixels = as_pixels(np.linspace(0, 1, 50)[None, :])[0]
    assert pixels[0] == 0
    grey = sum((pixels >> shift & 0xFF).astype(int) for shift in (0, 8, 16))
    assert (np.diff(grey) > 0).all()


def test_the_least_write_can_be_seen() -> None:
    shares = np.array([[0.0, 0.001, 1.0]])
    assert as_pixels(shares)[0, 1] != 0
    assert as_text(shares) == [" .@"]


def test_an_svg_is_xml_with_its_title_and_scales() -> None:
    root = ET.fromstring(as_svg(trace_of(8, [{0}, {7}]), "a <b> & c"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <b> & c" in texts
    assert {"seconds", "page", "0", "8"} <= set(texts)
    (image,) = root.iter("{http://www.w3.org/2000/svg}image")
    assert image.attrib["href"].startswith("data:image/png;base64,iVBOR")
