"""VNC authentication against what OpenSSL's DES makes of the mirrored key."""

from __future__ import annotations

import pytest

from vramtap.errors import UsageError
from vramtap.rfb.security.vnc_auth import check_password, is_right, new_challenge, response_to

CHALLENGE = bytes(range(16))


@pytest.mark.parametrize(
    ("password", "response"),
    [
        ("secret", "ee22539f33a5983ec12f9c2edbc995dd"),
        ("longpassword", "5931256585fd62106d317e09fc963baf"),
        ("longpass", "5931256585fd62106d317e09fc963baf"),
    ],
)
def test_responses_are_those_of_des(password: str, response: str) -> None:
    assert response_to(CHALLENGE, password).hex() == response
    assert is_right(CHALLENGE, bytes.fromhex(response), password)


def test_only_the_right_password_is_right() -> None:
    assert not is_right(CHALLENGE, response_to(CHALLENGE, "Secret"), "secret")
    assert not is_right(CHALLENGE, bytes(16), "secret")


def test_challenges_are_not_repeated() -> None:
    challenges = {new_challenge() for _ in range(50)}
    assert len(challenges) == 50
    assert {len(challenge) for challenge in challenges} == {16}


@pytest.mark.parametrize(
    ("password", "reason"), [("", "empty"), ("pässword", "ASCII"), ("a\tb", "printable")]
)
def test_passwords_that_clients_disagree_on_are_refused(password: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_password(password)


def test_a_password_that_will_do_is_given_back() -> None:
    assert check_password("hunter 2") == "hunter 2"
