"""ZRLE (16): tiles as palettes and runs, through one zlib stream (RFC 6143, 7.7.5)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vramtap.display.region import Rect
from vramtap.rfb.convert import Converter, Work, converter
from vramtap.rfb.encodings.contract import Encoded, Wishes
from vramtap.rfb.encodings.deflate import DeflateStream
from vramtap.rfb.encodings.tiles import TileGroup, columns_of, index_of, tile_groups
from vramtap.rfb.wire import U32, Encoding, rect_header

_MAX_PALETTE: Final = 127
_MAX_PACKED: Final = 16
_RAW, _SOLID, _RUNS, _PALETTE_RUNS = 0, 1, 128, 128
"""Subencoding bytes; the size of the palette is added to the last."""
_NEVER: Final = 1 << 40
"""A cost above all others."""


class ZrleEncoder:
    """ZRLE through the connection's one stream. It cannot restart: the first rectangle's level stays."""

    def __init__(self) -> None:
        self._stream: DeflateStream | None = None

    def encode(self, rect: Rect, pixels: NDArray[np.uint32], wishes: Wishes) -> Encoded:
        """See `Encoder`."""
        if self._stream is None:
            self._stream = DeflateStream(wishes.compression)
        convert = converter(wishes.format)
        tiles: list[bytes] = [b""] * (columns_of(rect.width) * columns_of(rect.height))
        for group in tile_groups(convert.work(pixels)):
            _encode_group(group, convert, tiles)
        data = self._stream.compress(b"".join(tiles))
        return Encoded(1, [rect_header(*rect, Encoding.ZRLE) + U32.pack(len(data)), data])


def _encode_group(group: TileGroup, convert: Converter, tiles: list[bytes]) -> None:
    """Put the bytes of each tile of a group into its place, by whichever subencoding is shortest."""
    palettes = group.palettes(_MAX_PALETTE)
    sizes = np.array([0 if palette is None else len(palette) for palette in palettes])
    # Runs are worth listing where they are long or their colours are few.
    listed = np.flatnonzero((sizes > 1) | (group.runs <= group.area // 2) & (sizes != 1))
    runs = _Runs(group, listed)
    bytes_each = convert.cpixel_bytes
    bits = np.select([sizes <= 2, sizes <= 4], [1, 2], 4)
    costs = np.full((4, len(sizes)), _NEVER)
    costs[0] = group.area * bytes_each
    packed = (sizes >= 2) & (sizes <= _MAX_PACKED)
    costs[1, packed] = (sizes * bytes_each + group.height * -(-group.width * bits // 8))[packed]
    costs[2, listed] = group.runs[listed] * (bytes_each + 1) + runs.extra
    with_palette = sizes[listed] > 1
    at = listed[with_palette]
    costs[3, at] = (sizes[at] * bytes_each + 2 * group.runs[at]) + (runs.extra - runs.singles)[with_palette]
    choice = np.argmin(costs, axis=0)
    choice[sizes == 1] = -1

    numbers = group.numbers.tolist()
    _encode_solid(group, np.flatnonzero(choice == -1), convert, numbers, tiles)
    raw = np.flatnonzero(choice == 0)
    for tile, row in zip(raw.tolist(), convert.cpixels(group.pixels[raw]), strict=True):
        tiles[numbers[tile]] = bytes([_RAW]) + row.tobytes()
    for tile in np.flatnonzero(choice == 1).tolist():
        palette = _palette(palettes, tile)
        indices = index_of(palette, group.pixels[tile]).reshape(group.height, group.width)
        head = bytes([len(palette)]) + convert.cpixels(palette).tobytes()
        tiles[numbers[tile]] = head + pack_indices(indices, int(bits[tile]))
    plain = choice[listed] == 2
    for tile, data in runs.plain(plain, convert):
        tiles[numbers[tile]] = bytes([_RUNS]) + data
    for tile, data in runs.indexed(choice[listed] == 3, palettes):
        palette = _palette(palettes, tile)
        head = bytes([_PALETTE_RUNS + len(palette)]) + convert.cpixels(palette).tobytes()
        tiles[numbers[tile]] = head + data


def _encode_solid(
    group: TileGroup, chosen: NDArray[np.intp], convert: Converter, numbers: list[int], tiles: list[bytes]
) -> None:
    for tile, colour in zip(chosen.tolist(), convert.cpixels(group.pixels[chosen, 0]), strict=True):
        tiles[numbers[tile]] = bytes([_SOLID]) + colour.tobytes()


def _palette(palettes: list[Work | None], tile: int) -> Work:
    palette = palettes[tile]
    assert palette is not None, "chosen for the size of its palette"
    return palette


def pack_indices(indices: NDArray[np.uint8], bits: int) -> bytes:
    """Indices of so many bits each, leftmost highest, each row filled up to whole bytes.

    Args:
        indices: Shape `(rows, columns)`.
        bits: 1, 2 or 4.
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
    """The runs of some tiles of a group, one after the other."""

    def __init__(self, group: TileGroup, listed: NDArray[np.intp]) -> None:
        starts = group.starts if len(listed) == len(group.runs) else group.starts[listed]
        at = np.flatnonzero(starts)
        self.listed = listed
        self.counts = group.runs[listed]
        self.values: Work = group.pixels[listed].ravel()[at]
        self.lengths = np.diff(at, append=starts.size)
        first = np.cumsum(self.counts) - self.counts
        # What a tile's run lengths take beyond one byte each, and how many of its runs are of one pixel.
        self.extra = self._sum((self.lengths - 1) // 255, first)
        self.singles = self._sum(self.lengths == 1, first)

    def _sum(
        self, per_run: NDArray[np.integer] | NDArray[np.bool_], first: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        if not len(first):
            return np.zeros(0, dtype=np.intp)
        return np.add.reduceat(per_run.astype(np.intp), first)

    def plain(self, chosen: NDArray[np.bool_], convert: Converter) -> list[tuple[int, bytes]]:
        """Plain RLE: each run's pixel and length. A tile of the group and its bytes, for those chosen."""
        of_run = np.repeat(chosen, self.counts)
        lengths = self.lengths[of_run]
        heads = convert.cpixels(self.values[of_run])
        return self._split(chosen, heads, lengths, np.ones(len(lengths), dtype=np.bool_))

    def indexed(self, chosen: NDArray[np.bool_], palettes: list[Work | None]) -> list[tuple[int, bytes]]:
        """Palette RLE: each run's index, and its length if that is not 1."""
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
        """Lay out what begins each run and its length, then cut that up by tile.

        A length is written as so many 255 and one byte less than 255; their sum is one less than it.
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
