"""TARGET strings: parsed and checked before anything is opened.

    KIND:REST                      qemu:/run/vm.qmp    x11::99    xen:debian
    KIND:REST?NAME=VALUE&...       pid:812?address=0x7f3a10000000&mode=1024x768
    KIND:?NAME=VALUE&...           demo:?workload=scroll&seed=7

In REST and in values `%XX` is a byte, so that a path may contain a `?` (`%3F`).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from vramtap.display.mode import MAX_DIMENSION, MAX_STRIDE_BYTES, Mode, PixelFormat
from vramtap.errors import ModeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_URL_CHARS: Final = 8192
"""Longest TARGET string: more than any path the kernel takes (PATH_MAX 4096), with percent signs."""
_MAX_NUMBER: Final = (1 << 64) - 1

_GEOMETRY: Final = ("mode", "format", "stride", "offset")
_EXAMPLES: Final = {
    "qemu": "qemu:/run/vm.qmp",
    "x11": "x11::99",
    "xen": "xen:debian",
    "pid": "pid:812?address=0x7f3a10000000&mode=1024x768",
    "shm": "shm:/dev/shm/screen?mode=1024x768",
    "demo": "demo:?workload=video-window",
}
_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "qemu": (),
    "x11": (),
    "xen": (),
    "pid": ("address", *_GEOMETRY),
    "shm": _GEOMETRY,
    "demo": ("workload", "seed", "hz", "mode", "frames", "cpu", "log", "image"),
}
_NAMELESS: Final = frozenset({"demo"})
"""Kinds that have no REST."""
_PLAIN: Final = "/:@,=+~ !$&'()*;"
"""Characters of REST that `format_url` does not encode. It does encode the percent sign and question mark."""
_SIZE: Final = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.ASCII)
_GREYS: Final = tuple(level * 0x010101 for level in range(256))


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A parsed TARGET string.

    Args:
        url: The string, as the user wrote it.
        kind: `qemu`, `x11`, `xen`, `pid`, `shm` or `demo`.
        rest: The part between the first colon and the question mark, decoded: a path, a display, a domain,
            a pid. Empty for `demo`.
        query: The parameters, decoded; each name is a parameter of the kind.
    """

    url: str
    kind: str
    rest: str
    query: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: int | None = None) -> int:
        """Return the value of a parameter that is a number.

        Args:
            name: Name of the parameter.
            default: The value if the parameter is absent; None if it is required.

        Raises:
            UsageError: the parameter is missing, or is not a number of at most 64 bits, decimal or with 0x.
        """
        text = self.query.get(name)
        if text is None:
            if default is None:
                raise UsageError("target", self.url, f"{name}= is missing", f"as in {_EXAMPLES[self.kind]}")
            return default
        value = parse_number(text)
        if value is None:
            raise UsageError("target", self.url, f"{name}={text} is not a number", "decimal, or hex with 0x")
        return value

    def choice(self, name: str, known: Iterable[str], default: str) -> str:
        """Return the value of a parameter that is one of a few words.

        Args:
            name: Name of the parameter.
            known: The valid words.
            default: The value if the parameter is absent.

        Raises:
            UsageError: the value is another word; the message names a similar one.
        """
        text = self.query.get(name, default)
        words = list(known)
        if text not in words and text != default:
            raise UsageError("target", self.url, f"{name}={text} is not known", _hint(text, words))
        return text

    def size(self) -> tuple[int, int]:
        """Return the width and height that `mode=WxH` gives, in pixels; each is below 100,000.

        Raises:
            UsageError: the parameter is missing or has another form.
        """
        text = self.query.get("mode", "")
        size = _SIZE.fullmatch(text)
        if size is None:
            what = f"mode={text} is not WIDTHxHEIGHT" if text else "mode= is missing"
            raise UsageError("target", self.url, what, f"as in {_EXAMPLES[self.kind]}")
        return int(size[1]), int(size[2])

    def mode(self) -> Mode:
        """Return the mode that `mode=WxH&format=&stride=&offset=` give.

        The default format is XR24, the default stride one row of pixels, the default offset 0. `C8` has no
        palette here and is shown as 256 levels of grey.

        Raises:
            UsageError: a parameter is missing, unknown or out of bounds.
        """
        width, height = self.size()
        name = self.query.get("format", PixelFormat.XR24.fourcc)
        known = {known.fourcc: known for known in PixelFormat}
        pixel_format = known.get(name.upper())
        if pixel_format is None:
            raise UsageError("target", self.url, f"format={name} is not known", _hint(name.upper(), known))
        # The default is bounded so that Mode complains about the width, not about a stride the user did not
        # write.
        stride = self.number("stride", min(width, MAX_DIMENSION) * pixel_format.bytes_per_pixel)
        palette = _GREYS if pixel_format is PixelFormat.C8 else None
        try:
            return Mode(width, height, stride, pixel_format, self.number("offset", 0), palette)
        except ModeError as error:
            remedy = f"a side has at most {MAX_DIMENSION} pixels, a stride at most {MAX_STRIDE_BYTES} bytes"
            raise UsageError("target", self.url, error.reason, remedy) from error


def parse_number(text: str) -> int | None:
    """Return the number that a text is, decimal or with 0x, at most 64 bits; None for any other text."""
    # 20 digits hold 2**64. Python's int() also takes signs, spaces, underscores and digits of other scripts.
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", text, re.ASCII):
        return None
    value = int(text, 16) if text[:2] in ("0x", "0X") else int(text)
    return value if value <= _MAX_NUMBER else None


def parse(url: str) -> TargetSpec:
    """Parse a TARGET string.

    Args:
        url: The string, as the user wrote it.

    Returns:
        Its parts. The kind is known, and every parameter is known to the kind.

    Raises:
        UsageError: the string is not valid; the message lists the valid kinds or parameters.
    """
    shown = url if len(url) <= 200 else url[:200] + "..."
    if len(url) > MAX_URL_CHARS or not url.isprintable():
        raise UsageError("target", repr(shown), f"is longer than {MAX_URL_CHARS} characters or not printable")
    kind, colon, tail = url.partition(":")
    if not colon or kind not in _PARAMETERS:
        what = f"{kind!r} is not a kind of target" if colon else "has no kind"
        raise UsageError("target", shown, what, _hint(kind, _PARAMETERS, _examples()))
    rest, _, query = tail.partition("?")
    if bool(rest) == (kind in _NAMELESS):
        what = f"unexpected {rest!r} after {kind}:" if rest else f"nothing after {kind}:"
        raise UsageError("target", shown, what, f"as in {_EXAMPLES[kind]}")
    spec = TargetSpec(url, kind, unquote(rest), _parse_query(shown, kind, query))
    if "\0" in spec.rest:
        raise UsageError("target", shown, "contains a zero byte", "a path has none")
    return spec


def format_url(kind: str, rest: str) -> str:
    """Return the TARGET string of this kind whose REST is `rest`; the inverse of `parse`."""
    return f"{kind}:{quote(rest, safe=_PLAIN)}"


def _parse_query(shown: str, kind: str, query: str) -> dict[str, str]:
    known = _PARAMETERS[kind]
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if name not in known:
            remedy = (
                _hint(name, known) if known else f"{kind}: takes no parameters; write %3F for ? in a path"
            )
            raise UsageError("target", shown, f"{name!r} is not a parameter of {kind}:", remedy)
        if not equals or not value:
            raise UsageError("target", shown, f"{name}= has no value")
        if name in found:
            raise UsageError("target", shown, f"{name}= is given twice")
        found[name] = unquote(value)
    return found


def _hint(word: str, known: Iterable[str], listing: str = "") -> str:
    """Return a remedy that names a similar word and lists all known ones."""
    names = list(known)
    close = difflib.get_close_matches(word[:64], names, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}known: {listing or ', '.join(names)}"


def _examples() -> str:
    return ", ".join(_EXAMPLES.values())
