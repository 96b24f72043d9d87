"""AccessPolicy: which requests the web server serves, by Host, Origin and token."""

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
    Resource,
    check_host,
    check_token,
    host_name,
    new_token,
    same_origin,
)


def refusal(
    policy: AccessPolicy, host: str | None, resource: Resource = Resource.PAGE, **more: object
) -> str | None:
    return policy.refusal(resource, host=host, **more)  # type: ignore[arg-type]


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
def test_host_header_is_parsed_strictly(header: str | None, name: str | None) -> None:
    assert host_name(header) == name


@given(st.text(max_size=300))
def test_any_host_header_gives_a_plain_name_or_none(header: str) -> None:
    name = host_name(header)
    assert name is None or set(name) <= set(string.ascii_lowercase + string.digits + "_.-:")


@pytest.mark.parametrize(
    "host", ["localhost:1", "127.0.0.1:1", "127.3.2.1", "[::1]:1", "[::ffff:127.0.0.1]:1"]
)
def test_server_on_loopback_serves_loopback_names(host: str) -> None:
    assert refusal(AccessPolicy("127.0.0.1"), host) is None


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "evil.example:8080", "192.0.2.7", "localhost.evil.example"]
)
def test_other_names_are_refused_as_dns_rebinding(host: str | None) -> None:
    answer = refusal(AccessPolicy("127.0.0.1"), host)
    assert answer is not None
    assert "DNS rebinding" in answer
    assert "\n" not in answer


def test_server_on_all_addresses_serves_literals_but_no_names() -> None:
    policy = AccessPolicy("0.0.0.0")
    assert refusal(policy, "192.0.2.7:80") is None
    assert refusal(policy, "[2001:db8::7]:80") is None
    assert refusal(policy, "evil.example") is not None


def test_server_on_one_address_serves_that_address_only() -> None:
    policy = AccessPolicy("192.0.2.7")
    assert refusal(policy, "192.0.2.7:8080") is None
    assert refusal(policy, "192.0.2.8:8080") is not None


def test_allowed_hosts_are_served_in_any_case() -> None:
    policy = AccessPolicy("0.0.0.0", ["Vm.Example"])
    assert refusal(policy, "vm.example:9000") is None
    assert refusal(policy, "VM.EXAMPLE.") is None
    assert refusal(policy, "other.vm.example") is not None


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
def test_origin_must_match_host_and_port(origin: str, *, same: bool) -> None:
    assert same_origin(origin, "localhost:8080") is same


def test_other_origins_get_the_page_but_not_the_api() -> None:
    policy = AccessPolicy("127.0.0.1")
    foreign = {"origin": "http://localhost:3000", "fetch_site": "cross-site"}
    assert refusal(policy, "localhost:8080", Resource.PAGE, **foreign) is None
    answer = refusal(policy, "localhost:8080", Resource.API, **foreign)
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
def test_fetch_metadata_decides_for_requests_without_origin(fetch_site: str | None, *, served: bool) -> None:
    answer = refusal(AccessPolicy("127.0.0.1"), "localhost:8080", Resource.API, fetch_site=fetch_site)
    assert (answer is None) is served


def test_token_is_required_for_every_resource() -> None:
    token = new_token()
    policy = AccessPolicy("127.0.0.1", token=token)
    for resource in Resource:
        assert refusal(policy, "localhost", resource) is not None
        assert refusal(policy, "localhost", resource, tokens=(None, "")) is not None
        assert refusal(policy, "localhost", resource, tokens=(token[:-1],)) is not None
        assert refusal(policy, "localhost", resource, tokens=(token + "x",)) is not None
        assert refusal(policy, "localhost", resource, tokens=("x" * (MAX_TOKEN_CHARS + 1),)) is not None
        assert refusal(policy, "localhost", resource, tokens=("wrong", token)) is None


def test_wrong_host_is_refused_despite_the_right_token() -> None:
    token = new_token()
    assert refusal(AccessPolicy("0.0.0.0", token=token), "evil.example", tokens=(token,)) is not None


@given(st.text(max_size=400))
def test_no_other_text_passes_as_the_token(shown: str) -> None:
    assert refusal(AccessPolicy("127.0.0.1", token="right"), "localhost", tokens=(shown,)) is not None


def test_new_tokens_differ_and_fit_urls_and_cookies() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert set("".join(tokens)) <= set(string.ascii_letters + string.digits + "-_")
    assert min(map(len, tokens)) >= 22


@pytest.mark.parametrize(
    "token", ["", "short", "a" * (MAX_TOKEN_CHARS + 1), "with space", "ümlaut-token", "a&b=c;d/e"]
)
def test_invalid_token_is_a_usage_error(token: str) -> None:
    with pytest.raises(UsageError, match="--token"):
        check_token(token)


def test_allowed_host_may_have_a_port() -> None:
    assert check_host("Vm.Example") == "vm.example"
    assert check_host("vm.example:8080") == "vm.example"
    assert check_host("[2001:db8::7]") == "2001:db8::7"


@pytest.mark.parametrize("name", ["", "http://vm.example", "a b", "*"])
def test_invalid_allowed_host_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="--allow-host"):
        check_host(name)


def test_new_tokens_and_plain_words_are_valid_tokens() -> None:
    check_token(new_token())
    check_token("open-sesame")


def test_content_security_policy_allows_no_inline_script() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
