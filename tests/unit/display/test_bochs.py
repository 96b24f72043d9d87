"""Tests of the DISPI registers: values of real guests, and any values of hostile ones."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vramtap.display.bochs import COUNT, Dispi
from vramtap.display.mode import Mode, PixelFormat

VRAM_BYTES = 16 << 20
words = st.integers(0, 0xFFFF)


def registers(**changed: int) -> Dispi:
    """Return the registers of QEMU at 1024x768x32, with some changed."""
    named = {
        "id": 0xB0C5,
        "width": 1024,
        "height": 768,
        "bpp": 32,
        "enable": 0x41,
        "virt_width": 1024,
        "x_offset": 0,
        "y_offset": 0,
    }
    return Dispi(**(named | changed))


def test_registers_of_a_linux_console_give_its_mode() -> None:
    read = [0xB0C5, 1024, 768, 32, 0x41, 0, 1024, 4096, 0, 0, 256]
    assert Dispi.from_words(read).mode(VRAM_BYTES) == Mode(1024, 768, 4096, PixelFormat.XR24, 0)


def test_a_page_flip_changes_the_offset() -> None:
    mode = registers(y_offset=768, x_offset=4).mode(VRAM_BYTES)
    assert mode is not None
    assert mode.offset_bytes == 768 * 4096 + 16


@pytest.mark.parametrize(
    ("bpp", "x_offset", "offset_bytes"), [(16, 33, 64), (16, 34, 68), (24, 1, 0), (24, 5, 12), (32, 1, 4)]
)
def test_the_offset_is_a_multiple_of_four_bytes(bpp: int, x_offset: int, offset_bytes: int) -> None:
    mode = registers(bpp=bpp, x_offset=x_offset).mode(VRAM_BYTES)
    assert mode is not None
    assert mode.offset_bytes == offset_bytes


@pytest.mark.parametrize(
    ("bpp", "pixel_format", "stride_bytes"),
    [
        (16, PixelFormat.RG16, 2048),
        (24, PixelFormat.RG24, 3072),
        (32, PixelFormat.XR24, 4096),
    ],
)
def test_bits_per_pixel_select_the_format(bpp: int, pixel_format: PixelFormat, stride_bytes: int) -> None:
    mode = registers(bpp=bpp).mode(VRAM_BYTES)
    assert mode == Mode(1024, 768, stride_bytes, pixel_format)


@pytest.mark.parametrize(
    "changed",
    [
        {"enable": 0},
        {"bpp": 8},
        {"bpp": 15},
        {"bpp": 4},
        {"bpp": 0},
        {"id": 0},
        {"id": 0xFFFF},
        {"width": 0},
        {"height": 0},
        {"y_offset": 0xFFFF},
        {"virt_width": 0xFFFF, "y_offset": 60000},
        {"height": 0xFFFF},
    ],
)
def test_registers_without_a_linear_framebuffer_give_none(changed: dict[str, int]) -> None:
    assert registers(**changed).mode(VRAM_BYTES) is None


@given(st.lists(words, min_size=COUNT, max_size=COUNT), st.integers(1, 256))
@example([0xB0C5, 0xFFFF, 0xFFFF, 32, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF], 16)
def test_any_registers_give_none_or_a_mode_that_fits(read: list[int], megabytes: int) -> None:
    mode = Dispi.from_words(read).mode(megabytes << 20)
    assert mode is None or mode.end_bytes <= megabytes << 20


@given(words, words, words, words, words)
def test_enabled_registers_give_none_or_a_mode_that_fits(
    width: int, height: int, virt_width: int, x_offset: int, y_offset: int
) -> None:
    read = registers(width=width, height=height, virt_width=virt_width, x_offset=x_offset, y_offset=y_offset)
    mode = read.mode(VRAM_BYTES)
    assert mode is None or (mode.end_bytes <= VRAM_BYTES and (mode.width, mode.height) == (width, height))


def test_too_few_registers_raise() -> None:
    with pytest.raises(ValueError, match="10 DISPI registers, not 11"):
        Dispi.from_words([0] * 10)
