"""Shared by the commands about traces: loading traces, costs and parameters, and printable names."""

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
"""Longest file of costs or parameters; they have a few hundred bytes."""
_NAME_CHARACTERS: Final = 200
"""Characters of a name that are printed at most."""


def load(file: Path) -> Trace:
    """Load a trace with at least one interval.

    Raises:
        VramtapError: The file cannot be read, is not a trace, or has no interval.
    """
    from vramtap.trace import store

    trace = store.load(file)
    if not trace.intervals:
        raise UsageError("trace", str(file), "has no interval", "record a longer one")
    return trace


def title(trace: Trace, file: Path) -> str:
    """Return a printable title of a trace: its own name, or the file's."""
    return printable(trace.meta.get("name", "")) or printable(file.stem)


def printable(text: str) -> str:
    """Return text from a stranger's file without control characters, shortened."""
    return "".join(character if character.isprintable() else "?" for character in text[:_NAME_CHARACTERS])


def read_costs(path: Path | None) -> Costs | None:
    """Return the costs in a JSON file; None without a file.

    Raises:
        VramtapError: The file cannot be read, or has no valid costs.
    """
    from vramtap.trace.recording import costs_from_mapping

    return None if path is None else costs_from_mapping(_read_json("--costs", path))


def charged(trace: Trace, given: Costs | None) -> tuple[Costs, str]:
    """Return the costs for replaying a trace, and their source: `given`, `measured` or `reference`.

    Args:
        trace: May have costs that were measured on its target.
        given: Costs from the user, which take precedence; None if there are none.

    Raises:
        VramtapError: The trace's costs are not valid.
    """
    from vramtap.policy.costs import REFERENCE
    from vramtap.trace.recording import costs_of

    if given is not None:
        return given, "given"
    measured = costs_of(trace)
    return (REFERENCE, "reference") if measured is None else (measured, "measured")


def read_parameters(path: Path | None) -> Parameters:
    """Return the hybrid policy's parameters in a JSON file, alone or in the output of `vramtap tune --json`.

    Args:
        path: JSON file; None returns the built-in parameters.

    Raises:
        VramtapError: The file cannot be read, or has no valid parameters.
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
            raise UsageError(
                "--parameters", f"{path} {printable(name)}", "is not a parameter", f"known: {known}"
            )
        number = not isinstance(default, bool) and isinstance(default, float) and type(value) is int
        if not number and type(value) is not type(default):
            kind = type(default).__name__
            raise UsageError(
                "--parameters", f"{path} {name}", f"{printable(repr(value))} is not of type {kind}"
            )
    try:
        return dataclasses.replace(defaults, **inner)
    except ValueError as error:
        raise UsageError("--parameters", str(path), str(error)) from error


def _read_json(option: str, path: Path) -> dict[str, object]:
    """Return the JSON object in a small file.

    Raises:
        NotFound: There is no such file.
        KernelError: The file cannot be read.
        UsageError: The file is too long, or is not a JSON object.
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
        raise UsageError(option, str(path), f"is not JSON: {printable(str(error))}") from error
    if not isinstance(values, dict):
        raise UsageError(option, str(path), "holds no JSON object")
    return values
