"""The options of `vramtap demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import click
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from vramtap.cli import demo, serve
from vramtap.cli.demo import demo_url
from vramtap.targets.url import parse

if TYPE_CHECKING:
    import pytest

    from vramtap.cli.serve import ServeOptions


def served(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[list[str], ServeOptions]:
    """Return what the command would serve."""
    calls: list[tuple[list[str], ServeOptions]] = []

    async def record(targets: list[str], options: ServeOptions, note: str) -> None:
        assert note
        calls.append((targets, options))

    monkeypatch.setattr(demo, "serve", record)
    command: click.Command = demo.command
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return calls[0]


def test_default_is_the_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, options = served(monkeypatch)
    assert targets == ["demo:"]
    assert (options.vnc, options.web, options.tracker) == (None, None, "auto"), (
        "VNC and the page at their default ports"
    )


def test_options_of_the_vm_become_parameters_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, options = served(
        monkeypatch,
        *("--workload", "scroll", "--cpu", "kvm", "--log", "ring", "--seed", "7", "--hz", "0"),
        *("--mode", "640x480", "--image", "/a b&c", "--web", "127.0.0.1:0", "--view-only", "--json"),
    )
    assert targets == ["demo:?workload=scroll&cpu=kvm&log=ring&image=/a%20b%26c&seed=7&hz=0&mode=640x480"]
    assert parse(targets[0]).query["image"] == "/a b&c"
    assert (options.vnc, options.web, options.view_only, options.as_json) == (None, "127.0.0.1:0", True, True)


def test_demo_has_every_option_of_serve() -> None:
    def names(command: click.Command) -> set[str]:
        return {parameter.name or "" for parameter in command.params if isinstance(parameter, click.Option)}

    assert names(serve.command) <= names(demo.command)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40))
def test_any_path_survives_the_target_string(path: str) -> None:
    url = demo_url({"image": path, "seed": None})
    assert parse(url).query == {"image": path}
    assert unquote(url) == f"demo:?image={path}"
