"""What the commands about traces share: a progress bar, names, and the small files they take."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Final

from vramtap.errors import KernelError, NotFound, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from vramtap.policy.costs import Costs
    from vramtap.policy.decide import Parameters
    from vramtap.trace.trace import Trace

MAX_JSON_BYTES: Final = 1 << 20
"""Of costs or parameters; they take a few hundred."""
_NAME_CHARACTERS: Final = 200


def load(file: Path) -> Trace:
    """A trace to try policies on.

    Raises:
        VramtapError: it cannot be read, is none, or has no look.
    """
    from vramtap.trace import store

    trace = store.load(file)
    if not trace.intervals:
        raise UsageError("trace", str(file), "has no look", "record a longer one")
    return trace


def title(trace: Trace, file: Path) -> str:
    """What a trace is called: its own name, or the file's; printable."""
    return plain(trace.meta.get("name", "")) or plain(file.stem)


def plain(text: str) -> str:
    """A stranger's words, with nothing in them that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text[:_NAME_CHARACTERS])


def read_costs(path: Path | None) -> Costs | None:
    """The costs in a JSON file, if one is named.

    Raises:
        VramtapError: it cannot be read, or says no costs.
    """
    from vramtap.trace.recording import costs_from_mapping

    return None if path is None else costs_from_mapping(_read_json("--costs", path))


def charged(trace: Trace, given: Costs | None) -> tuple[Costs, str]:
    """The costs a trace is replayed with, and where they are from: `given`, `measured`, `reference`.

    Args:
        trace: May bring along what was measured on its target.
        given: By the user, if at all; goes first.

    Raises:
        VramtapError: what the trace says is no costs.
    """
    from vramtap.policy.costs import REFERENCE
    from vramtap.trace.recording import costs_of

    if given is not None:
        return given, "given"
    measured = costs_of(trace)
    return (REFERENCE, "reference") if measured is None else (measured, "measured")


def read_parameters(path: Path | None) -> Parameters:
    """The parameters of our policy in a JSON file, by themselves or in what `vramtap tune --json` wrote.

    Raises:
        VramtapError: it cannot be read, or says no parameters.
    """
    from vramtap.policy.decide import Parameters

    defaults = Parameters()
    if path is None:
        return defaults
    values = _read_json("--parameters", path)
    inner = values.get("parameters", values)
    if not isinstance(inner, dict):
        raise UsageError("--parameters", str(path), "holds no parameters")
    for name, value in inner.items():
        default = getattr(defaults, name, None)
        if default is None:
            known = ", ".join(field.name for field in dataclasses.fields(defaults))
            raise UsageError("--parameters", f"{path} {plain(name)}", "is no parameter", f"known: {known}")
        number = not isinstance(default, bool) and isinstance(default, float) and type(value) is int
        if not number and type(value) is not type(default):
            kind = type(default).__name__
            raise UsageError("--parameters", f"{path} {name}", f"{plain(repr(value))} is no {kind}")
    try:
        return dataclasses.replace(defaults, **inner)
    except ValueError as error:
        raise UsageError("--parameters", str(path), str(error)) from error


def _read_json(option: str, path: Path) -> dict[str, object]:
    """An object in a small file.

    Raises:
        NotFound: there is no such file.
        KernelError: it cannot be read.
        UsageError: it is none.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(option, str(path), "no such file") from error
    except OSError as error:
        raise KernelError("read", str(path), error.errno or 0) from error
    if len(text) > MAX_JSON_BYTES:
        raise UsageError(option, str(path), f"is longer than {MAX_JSON_BYTES} bytes")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(option, str(path), f"is no JSON: {plain(str(error))}") from error
    if not isinstance(values, dict):
        raise UsageError(option, str(path), "holds no JSON object")
    return values
