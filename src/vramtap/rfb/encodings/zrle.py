"""ZRLE, encoding 16: tiles with palettes and runs, in one zlib stream (RFC 6143, 7.7.5)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.rfb.convert import Converter, WorkingPixels, converter
from vramtap.rfb.encodings.base import Encoded, EncodeOptions
from vramtap.rfb.encodings.deflate import DeflateStream
from vramtap.rfb.encodings.tiles import TileGroup, columns_of, index_of, tile_groups
from vramtap.rfb.wire import U32, Encoding, rect_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.display.region import Rect

_MAX_PALETTE: Final = 127
_MAX_PACKED: Final = 16
_RAW, _SOLID, _RUNS, _PALETTE_RUNS = 0, 1, 128, 128
"""Subencoding bytes. The size of the palette is added to the last one."""
_NEVER: Final = 1 << 40
"""Cost of a way that is not possible."""


class ZrleEncoder:
    """Encoder for ZRLE. Its one stream cannot restart, so the first compression level stays."""

    def __init__(self) -> None:
        self._stream: DeflateStream | None = None

    def encode(self, rect: Rect, pixels: NDArray[np.uint32], options: EncodeOptions) -> Encoded:
        """See `Encoder`."""
        if self._stream is None:
            self._stream = DeflateStream(options.compression)
        convert = converter(options.format)
        tiles: list[bytes] = [b""] * (columns_of(rect.width) * columns_of(rect.height))
        for group in tile_groups(convert.working(pixels)):
            _encode_group(group, convert, tiles)
        data = self._stream.compress(b"".join(tiles))
        return Encoded(1, [rect_header(*rect, Encoding.ZRLE) + U32.pack(len(data)), data])


def _encode_group(group: TileGroup, convert: Converter, tiles: list[bytes]) -> None:
    """Encode each tile of a group in the shortest way, and put its bytes into `tiles`."""
    palettes = group.palettes(_MAX_PALETTE)
    sizes = np.array([0 if palette is None else len(palette) for palette in palettes])
    # Runs are only listed for tiles with few colours or with long runs.
    runs = _Runs(group, np.flatnonzero((sizes > 1) | ((group.runs <= group.area // 2) & (sizes == 0))))
    choice = _cheapest(group, sizes, runs, convert.cpixel_bytes)
    numbers = group.numbers.tolist()
    for way in set(choice.tolist()):
        for tile, data in _WAYS[way](group, choice == way, palettes, runs, convert):
            tiles[numbers[tile]] = data


class _Way(IntEnum):
    """The ways to encode a tile."""

    RAW = 0
    SOLID = 1
    PACKED = 2
    RUNS = 3
    PALETTE_RUNS = 4


def _cheapest(group: TileGroup, sizes: NDArray[np.intp], runs: _Runs, cpixel_bytes: int) -> NDArray[np.intp]:
    """Return the way with the fewest bytes before deflate, for each tile.

    Args:
        group: The tiles.
        sizes: Number of colours of each tile. 0 if a palette cannot hold them.
        runs: The runs of the tiles that can be encoded as runs.
        cpixel_bytes: Size of a CPIXEL, bytes.
    """
    costs = np.full((len(_Way), len(sizes)), _NEVER)
    costs[_Way.RAW] = group.area * cpixel_bytes
    costs[_Way.SOLID, sizes == 1] = 0
    packed = (sizes >= 2) & (sizes <= _MAX_PACKED)
    row_bytes = -(-group.width * _bits(sizes) // 8)
    costs[_Way.PACKED, packed] = (sizes * cpixel_bytes + group.height * row_bytes)[packed]
    costs[_Way.RUNS, runs.listed] = runs.counts * (cpixel_bytes + 1) + runs.extra
    indexed = sizes[runs.listed] > 1
    at = runs.listed[indexed]
    lengths = (runs.counts - runs.singles + runs.extra)[indexed]
    costs[_Way.PALETTE_RUNS, at] = sizes[at] * cpixel_bytes + group.runs[at] + lengths
    choice: NDArray[np.intp] = np.argmin(costs, axis=0)
    return choice


def _bits(sizes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the number of bits of a packed index, for palettes of these sizes."""
    bits: NDArray[np.intp] = np.where(sizes <= 2, 1, np.where(sizes <= 4, 2, 4))
    return bits


_Palettes = list[WorkingPixels | None]
_Tiles = Iterable[tuple[int, bytes]]
"""Numbers of tiles in a group, and the bytes of each tile."""


def _raw(
    group: TileGroup, chosen: NDArray[np.bool_], palettes: _Palettes, runs: _Runs, convert: Converter
) -> _Tiles:
    at = np.flatnonzero(chosen)
    for tile, row in zip(at.tolist(), convert.cpixels(group.pixels[at]), strict=True):
        yield tile, bytes([_RAW]) + row.tobytes()


def _solid(
    group: TileGroup, chosen: NDArray[np.bool_], palettes: _Palettes, runs: _Runs, convert: Converter
) -> _Tiles:
    at = np.flatnonzero(chosen)
    for tile, colour in zip(at.tolist(), convert.cpixels(group.pixels[at, 0]), strict=True):
        yield tile, bytes([_SOLID]) + colour.tobytes()


def _packed(
    group: TileGroup, chosen: NDArray[np.bool_], palettes: _Palettes, runs: _Runs, convert: Converter
) -> _Tiles:
    for tile in np.flatnonzero(chosen).tolist():
        palette = _palette(palettes, tile)
        indices = index_of(palette, group.pixels[tile]).reshape(group.height, group.width)
        head = bytes([len(palette)]) + convert.cpixels(palette).tobytes()
        yield tile, head + pack_indices(indices, int(_bits(np.array(len(palette)))))


def _plain_runs(
    group: TileGroup, chosen: NDArray[np.bool_], palettes: _Palettes, runs: _Runs, convert: Converter
) -> _Tiles:
    for tile, data in runs.plain(chosen[runs.listed], convert):
        yield tile, bytes([_RUNS]) + data


def _palette_runs(
    group: TileGroup, chosen: NDArray[np.bool_], palettes: _Palettes, runs: _Runs, convert: Converter
) -> _Tiles:
    for tile, data in runs.indexed(chosen[runs.listed], palettes):
        palette = _palette(palettes, tile)
        yield tile, bytes([_PALETTE_RUNS + len(palette)]) + convert.cpixels(palette).tobytes() + data


_WAYS: Final = {
    _Way.RAW: _raw,
    _Way.SOLID: _solid,
    _Way.PACKED: _packed,
    _Way.RUNS: _plain_runs,
    _Way.PALETTE_RUNS: _palette_runs,
}


def _palette(palettes: _Palettes, tile: int) -> WorkingPixels:
    palette = palettes[tile]
    assert palette is not None, "a way with a palette was chosen for a tile without one"
    return palette


def pack_indices(indices: NDArray[np.uint8], bits: int) -> bytes:
    """Pack indices, the leftmost in the highest bits. Each row is padded to whole bytes.

    Args:
        indices: Shape `(rows, columns)`.
        bits: Bits per index: 1, 2 or 4.
    """
    if bits == 1:
        return np.packbits(indices, axis=1).tobytes()
    each = 8 // bits
    rows, columns = indices.shape
    if columns % each:
        indices = np.pad(indices, ((0, 0), (0, -columns % each)))
    packed = np.zeros((rows, indices.shape[1] // each), dtype=np.uint8)
    for place in range(each):
        packed |= indices[:, place::each] << (8 - bits * (place + 1))
    return packed.tobytes()


class _Runs:
    """The runs of some tiles of a group, one tile after the other.

    Args:
        group: The tiles.
        listed: Numbers of the tiles whose runs are listed. Shape `(listed,)`.
    """

    def __init__(self, group: TileGroup, listed: NDArray[np.intp]) -> None:
        starts = group.starts if len(listed) == len(group.runs) else group.starts[listed]
        at = np.flatnonzero(starts)
        self.listed = listed
        self.counts = group.runs[listed]
        self.values: WorkingPixels = group.pixels[listed].ravel()[at]
        self.lengths = np.empty(len(at), dtype=np.intp)
        np.subtract(at[1:], at[:-1], out=self.lengths[:-1])
        self.lengths[-1:] = starts.size - at[-1:]
        first = np.cumsum(self.counts) - self.counts
        # For each tile: bytes of its run lengths beyond one byte each, and number of its runs of one pixel.
        self.extra = self._sum((self.lengths - 1) // 255, first)
        self.singles = self._sum(self.lengths == 1, first)

    def _sum(
        self, per_run: NDArray[np.integer] | NDArray[np.bool_], first: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        if not len(first):
            return np.zeros(0, dtype=np.intp)
        return np.add.reduceat(per_run.astype(np.intp), first)

    def plain(self, chosen: NDArray[np.bool_], convert: Converter) -> list[tuple[int, bytes]]:
        """Return the chosen tiles in plain RLE: the pixel and length of each run."""
        of_run = np.repeat(chosen, self.counts)
        lengths = self.lengths[of_run]
        heads = convert.cpixels(self.values[of_run])
        return self._split(chosen, heads, lengths, np.ones(len(lengths), dtype=np.bool_))

    def indexed(self, chosen: NDArray[np.bool_], palettes: _Palettes) -> list[tuple[int, bytes]]:
        """Return the chosen tiles in palette RLE: the index of each run, and its length if it is not 1."""
        of_run = np.repeat(chosen, self.counts)
        values, lengths = self.values[of_run], self.lengths[of_run]
        heads = np.empty(len(values), dtype=np.uint8)
        last = 0
        for tile, count in zip(self.listed[chosen].tolist(), self.counts[chosen].tolist(), strict=True):
            first, last = last, last + count
            heads[first:last] = index_of(_palette(palettes, tile), values[first:last])
        long = lengths > 1
        heads[long] |= 0x80
        return self._split(chosen, heads[:, None], lengths, long)

    def _split(
        self,
        chosen: NDArray[np.bool_],
        heads: NDArray[np.uint8],
        lengths: NDArray[np.intp],
        with_length: NDArray[np.bool_],
    ) -> list[tuple[int, bytes]]:
        """Return the bytes of each chosen tile.

        A length is written as bytes of 255 and one byte below 255. Their sum is the length minus 1.

        Args:
            chosen: Which of the listed tiles to return. Shape `(listed,)`.
            heads: First bytes of each run: its pixel or index. Shape `(runs, bytes)`.
            lengths: Length of each run. Shape `(runs,)`.
            with_length: Whether the length of each run is written. Shape `(runs,)`.
        """
        if not len(lengths):
            return []
        head_bytes = heads.shape[1]
        sizes = head_bytes + np.where(with_length, (lengths - 1) // 255 + 1, 0)
        ends = np.cumsum(sizes)
        begins = ends - sizes
        data = np.full(int(ends[-1]), 255, dtype=np.uint8)
        for byte in range(head_bytes):
            data[begins + byte] = heads[:, byte]
        data[ends[with_length] - 1] = (lengths[with_length] - 1) % 255
        tiles = self.listed[chosen].tolist()
        tile_ends = ends[np.cumsum(self.counts[chosen]) - 1].tolist()
        laid_out = data.tobytes()
        return [
            (tile, laid_out[first:last])
            for tile, first, last in zip(tiles, [0, *tile_ends], tile_ends, strict=False)
        ]
