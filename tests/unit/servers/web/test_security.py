"""Who may speak to the web server."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.errors import UsageError
from vramtap.servers.web.security import (
    HEADERS,
    MAX_TOKEN_CHARS,
    AccessPolicy,
    Kind,
    check_host,
    check_token,
    host_name,
    is_loopback,
    new_token,
    same_origin,
)


def refusal(gate: AccessPolicy, host: str | None, kind: Kind = Kind.PAGE, **more: object) -> str | None:
    return gate.refusal(kind, host=host, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:8080", "localhost"),
        ("LocalHost", "localhost"),
        ("vm.example.", "vm.example"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]:8080", "::1"),
        ("[::1]", "::1"),
        (None, None),
        ("", None),
        ("::1", None),
        ("a b", None),
        ("user@localhost", None),
        ("localhost:80:80", None),
        ("localhost:", None),
        ("localhost/evil", None),
        ("a" * 5000, None),
    ],
)
def test_host_header_is_read_strictly(header: str | None, name: str | None) -> None:
    assert host_name(header) == name


@given(st.text(max_size=300))
def test_any_host_header_is_read_or_refused(header: str) -> None:
    name = host_name(header)
    assert name is None or set(name) <= set(string.ascii_lowercase + string.digits + "_.-:")


@pytest.mark.parametrize(
    "host", ["localhost:1", "127.0.0.1:1", "127.3.2.1", "[::1]:1", "[::ffff:127.0.0.1]:1"]
)
def test_loopback_answers_to_loopback_names(host: str) -> None:
    assert refusal(AccessPolicy("127.0.0.1"), host) is None


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "evil.example:8080", "192.0.2.7", "localhost.evil.example"]
)
def test_rebound_names_are_refused(host: str | None) -> None:
    answer = refusal(AccessPolicy("127.0.0.1"), host)
    assert answer is not None
    assert "DNS rebinding" in answer
    assert "\n" not in answer


def test_listening_everywhere_answers_to_literals_but_not_to_names() -> None:
    gate = AccessPolicy("0.0.0.0")
    assert refusal(gate, "192.0.2.7:80") is None
    assert refusal(gate, "[2001:db8::7]:80") is None
    assert refusal(gate, "evil.example") is not None


def test_one_address_answers_to_itself_only() -> None:
    gate = AccessPolicy("192.0.2.7")
    assert refusal(gate, "192.0.2.7:8080") is None
    assert refusal(gate, "192.0.2.8:8080") is not None


def test_allowed_hosts_are_answered_without_regard_to_case() -> None:
    gate = AccessPolicy("0.0.0.0", ["Lab.Example"])
    assert refusal(gate, "lab.example:9000") is None
    assert refusal(gate, "LAB.EXAMPLE.") is None
    assert refusal(gate, "other.lab.example") is not None


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        ("http://localhost:8080", True),
        ("https://localhost:8080", True),
        ("HTTP://localhost:8080", False),
        ("http://LOCALHOST:8080", True),
        ("http://localhost:3000", False),
        ("http://localhost", False),
        ("http://127.0.0.1:8080", False),
        ("http://evil.example", False),
        ("null", False),
        ("", False),
        ("file://localhost:8080", False),
        ("http://localhost:8080/", False),
    ],
)
def test_origin_is_the_host_or_another(origin: str, same: bool) -> None:
    assert same_origin(origin, "localhost:8080") is same


def test_other_origins_are_kept_from_the_api_but_may_link_to_the_page() -> None:
    gate = AccessPolicy("127.0.0.1")
    foreign = {"origin": "http://localhost:3000", "fetch_site": "cross-site"}
    assert refusal(gate, "localhost:8080", Kind.PAGE, **foreign) is None
    answer = refusal(gate, "localhost:8080", Kind.API, **foreign)
    assert answer == "pages of another origin may not use this server"


@pytest.mark.parametrize(
    ("fetch_site", "served"),
    [
        (None, True),
        ("same-origin", True),
        ("none", True),
        ("same-site", False),
        ("cross-site", False),
        ("x", False),
    ],
)
def test_fetch_metadata_speaks_where_there_is_no_origin(fetch_site: str | None, served: bool) -> None:
    answer = refusal(AccessPolicy("127.0.0.1"), "localhost:8080", Kind.API, fetch_site=fetch_site)
    assert (answer is None) is served


def test_token_is_demanded_of_every_kind() -> None:
    token = new_token()
    gate = AccessPolicy("127.0.0.1", token=token)
    for kind in Kind:
        assert refusal(gate, "localhost", kind) is not None
        assert refusal(gate, "localhost", kind, tokens=(None, "")) is not None
        assert refusal(gate, "localhost", kind, tokens=(token[:-1],)) is not None
        assert refusal(gate, "localhost", kind, tokens=(token + "x",)) is not None
        assert refusal(gate, "localhost", kind, tokens=("x" * (MAX_TOKEN_CHARS + 1),)) is not None
        assert refusal(gate, "localhost", kind, tokens=("wrong", token)) is None


def test_right_token_does_not_make_up_for_a_wrong_host() -> None:
    token = new_token()
    assert refusal(AccessPolicy("0.0.0.0", token=token), "evil.example", tokens=(token,)) is not None


@given(st.text(max_size=400))
def test_no_text_is_mistaken_for_the_token(shown: str) -> None:
    assert refusal(AccessPolicy("127.0.0.1", token="right"), "localhost", tokens=(shown,)) is not None


def test_tokens_differ_and_fit_urls_and_cookies() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert set("".join(tokens)) <= set(string.ascii_letters + string.digits + "-_")
    assert min(map(len, tokens)) >= 22


@pytest.mark.parametrize(
    "token", ["", "short", "a" * (MAX_TOKEN_CHARS + 1), "with space", "ümlaut-token", "a&b=c;d/e"]
)
def test_token_that_cannot_be_one_is_a_usage_error(token: str) -> None:
    with pytest.raises(UsageError, match="--token"):
        check_token(token)


def test_host_to_allow_is_taken_with_or_without_port() -> None:
    assert check_host("Lab.Example") == "lab.example"
    assert check_host("lab.example:8080") == "lab.example"
    assert check_host("[2001:db8::7]") == "2001:db8::7"


@pytest.mark.parametrize("name", ["", "http://lab.example", "a b", "*"])
def test_what_is_no_host_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="--allow-host"):
        check_host(name)


def test_tokens_of_ours_and_plain_ones_will_do() -> None:
    check_token(new_token())
    check_token("open-sesame")


def test_loopback_is_told_from_the_rest() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("::")
    assert not is_loopback("192.0.2.1")
    assert not is_loopback("localhost")


def test_policy_lets_no_inline_script_run() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
