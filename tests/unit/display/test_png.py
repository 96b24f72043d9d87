"""Tests of the PNG writer, with another decoder."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vramtap.display import png as module
from vramtap.display.pixels import to_rgb
from vramtap.display.png import write_png
from vramtap.errors import KernelError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def noise(width: int, height: int, seed: int = 1) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, 1 << 24, (height, width), dtype=np.uint32)


def decoded(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        image.load()
        return np.asarray(image)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_another_decoder_returns_the_same_pixels(width: int, height: int, seed: int, level: int) -> None:
    pixels = noise(width, height, seed)
    file = io.BytesIO()
    write_png(file, pixels, level)
    assert np.array_equal(decoded(file.getvalue()), to_rgb(pixels))


def test_an_image_of_many_bands_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BAND_BYTES", 1000)
    pixels = noise(100, 77)
    file = io.BytesIO()
    write_png(file, pixels)
    assert np.array_equal(decoded(file.getvalue()), to_rgb(pixels))


def test_a_read_only_view_of_part_of_a_screen_can_be_written() -> None:
    pixels = noise(100, 80)[10:50, 20:30]
    pixels.flags.writeable = False
    file = io.BytesIO()
    write_png(file, pixels)
    assert np.array_equal(decoded(file.getvalue()), to_rgb(pixels))


def test_a_flat_screen_is_small() -> None:
    file = io.BytesIO()
    write_png(file, np.full((768, 1024), 0x336699, dtype=np.uint32))
    assert len(file.getvalue()) < 10_000


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_replaced_and_no_temporary_file_remains(
    tmp_path: Path, kind: type[str] | type[Path]
) -> None:
    path = tmp_path / "screen.png"
    path.write_bytes(b"old")
    pixels = noise(20, 10)
    write_png(kind(path), pixels)
    assert np.array_equal(decoded(path.read_bytes()), to_rgb(pixels))
    assert os.listdir(tmp_path) == ["screen.png"]


def test_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path, target = tmp_path / "latest.png", tmp_path / "elsewhere" / "screen.png"
    path.symlink_to(target)
    for seed in (1, 2):
        pixels = noise(20, 10, seed)
        write_png(path, pixels)
        assert path.is_symlink()
        assert np.array_equal(decoded(target.read_bytes()), to_rgb(pixels))
    assert os.listdir(target.parent) == ["screen.png"]


def test_a_pipe_or_device_is_written_to_directly(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pixels = noise(20, 10)
    with pytest.raises(KernelError, match="ENXIO"):
        write_png(path, pixels)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        write_png(path, pixels)
        assert np.array_equal(decoded(reader.read()), to_rgb(pixels))
    assert path.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]
    with pytest.raises(KernelError, match="EISDIR"):
        write_png(tmp_path, pixels)


def test_a_new_file_has_the_default_permissions(tmp_path: Path) -> None:
    write_png(tmp_path / "screen.png", noise(3, 3))
    (tmp_path / "plain").touch()
    assert (tmp_path / "screen.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_keeps_the_old_file_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "screen.png"
    path.write_bytes(b"old")

    def fails(level: int) -> None:
        raise zlib.error(f"level {level}")

    monkeypatch.setattr(zlib, "compressobj", fails)
    with pytest.raises(zlib.error, match="level 6"):
        write_png(path, noise(3, 3))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["screen.png"]


def test_an_unwritable_path_raises_with_the_path_and_errno(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "screen.png"
    with pytest.raises(KernelError, match=r"write .*missing/screen\.png: ENOENT \(check that the directory"):
        write_png(path, noise(3, 3))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5,), (2, 2, 2)])
def test_an_empty_image_raises(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no image in pixels of shape"):
        write_png(io.BytesIO(), np.zeros(shape, dtype=np.uint32))
