"""Tests of VNC authentication, with responses from OpenSSL's DES and the mirrored key."""

from __future__ import annotations

import pytest

from vramtap.errors import UsageError
from vramtap.rfb.security.vnc_auth import check_password, expected_response, new_challenge, response_matches

CHALLENGE = bytes(range(16))


@pytest.mark.parametrize(
    ("password", "response"),
    [
        ("secret", "ee22539f33a5983ec12f9c2edbc995dd"),
        ("longpassword", "5931256585fd62106d317e09fc963baf"),
        ("longpass", "5931256585fd62106d317e09fc963baf"),
    ],
)
def test_expected_response_equals_openssl(password: str, response: str) -> None:
    assert expected_response(CHALLENGE, password).hex() == response
    assert response_matches(CHALLENGE, bytes.fromhex(response), password)


def test_only_the_right_password_matches() -> None:
    assert not response_matches(CHALLENGE, expected_response(CHALLENGE, "Secret"), "secret")
    assert not response_matches(CHALLENGE, bytes(16), "secret")


def test_challenges_differ() -> None:
    challenges = {new_challenge() for _ in range(50)}
    assert len(challenges) == 50
    assert {len(challenge) for challenge in challenges} == {16}


@pytest.mark.parametrize(
    ("password", "reason"), [("", "empty"), ("pässword", "ASCII"), ("a\tb", "printable")]
)
def test_passwords_that_clients_encode_differently_raise(password: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_password(password)


def test_a_valid_password_is_returned() -> None:
    assert check_password("hunter 2") == "hunter 2"
