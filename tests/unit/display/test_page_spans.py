"""Tests of pages_of, against a loop over each pixel."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vramtap.display.mode import Mode, PixelFormat
from vramtap.display.page_spans import pages_of
from vramtap.display.region import Rect
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns


@st.composite
def modes(draw: st.DrawFn) -> Mode:
    made = draw(st.sampled_from(PixelFormat))
    width, height = draw(st.integers(1, 300)), draw(st.integers(1, 60))
    stride = width * made.bytes_per_pixel + draw(st.sampled_from([0, 1, 7, 64, 3000, 5000]))
    palette = tuple(range(256)) if made is PixelFormat.C8 else None
    return Mode(width, height, stride, made, draw(st.integers(0, 3 * PAGE_SIZE)), palette)


@st.composite
def rects_of(draw: st.DrawFn, mode: Mode) -> Rect:
    x, y = draw(st.integers(0, mode.width - 1)), draw(st.integers(0, mode.height - 1))
    return Rect(x, y, draw(st.integers(1, mode.width - x)), draw(st.integers(1, mode.height - y)))


@given(st.data())
def test_pages_of_equals_the_pages_of_each_pixel(data: st.DataObject) -> None:
    mode = data.draw(modes())
    rects = data.draw(st.lists(rects_of(mode), max_size=4))
    size = mode.format.bytes_per_pixel
    pages = set()
    for rect in rects:
        for y in range(rect.y, rect.bottom):
            row = mode.offset_bytes + y * mode.stride_bytes
            # A pixel of three bytes can lie in two pages, so its first and last byte are checked.
            pages |= {(row + x * size) // PAGE_SIZE for x in range(rect.x, rect.right)}
            pages |= {(row + x * size + size - 1) // PAGE_SIZE for x in range(rect.x, rect.right)}
    assert pages_of(rects, mode) == PageRuns.from_pages(sorted(pages))


def test_no_rects_give_no_pages() -> None:
    assert pages_of([], Mode(10, 10, 40)) == NO_PAGES


def test_pages_between_two_rows_are_left_out() -> None:
    """A column of a wide screen touches one page per row, not the pages between them."""
    mode = Mode(1024, 4, 4 * PAGE_SIZE)
    assert pages_of([Rect(0, 0, 1, 4)], mode) == PageRuns.from_pages([0, 4, 8, 12])
    assert pages_of([Rect(1023, 1, 1, 1)], mode) == PageRuns([(4, 5)])


def test_a_row_that_ends_at_a_page_boundary_is_in_one_page() -> None:
    assert pages_of([Rect(0, 0, 1024, 1)], Mode(1024, 2, PAGE_SIZE)) == PageRuns([(0, 1)])
