"""What is shown of a host holds no credential."""

from __future__ import annotations

import pytest

from hx_gateway.wiring.masking import Mask, credentials_in, masked_diff


@pytest.mark.parametrize(
    "line",
    [
        "connecting to postgresql://u:hidden@h/d",
        "redis://:hid@den/with#odd?signs@h:1/0 failed",
        "postgresql+asyncpg://hidden@h/d",
        "the password is s3cret-hidden.",
    ],
)
def test_a_log_line_is_shown_without_credentials(line: str) -> None:
    assert "hid" not in Mask(["s3cret-hidden"]).hide(line).replace("[hidden]", "")


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgresql://u:a%2Fb@h/d", {"a%2Fb", "a/b"}),
        ("postgresql://h/d?user=u&password=a%2Fb&sslmode=require", {"a%2Fb", "a/b"}),
        ("https://h:6333?api-key=k1", {"k1"}),
        ("postgresql://h/d?sslmode=require", set()),
    ],
)
def test_what_is_secret_in_a_url_is_known_in_every_form(url: str, secrets: set[str]) -> None:
    assert set(credentials_in(url)) == secrets


def test_a_short_secret_does_not_eat_other_words() -> None:
    assert Mask(["a"]).hide("a plain line") == "a plain line"


@pytest.mark.parametrize(
    "line",
    [
        "PG_URL=postgresql://u:hide@h/d",
        "  database_url: 'hide'",
        "  database_url: >-",
        "    hide me",
        "{general_settings: {master_key: hide, database_url: hide}}",
        "password: 1234",
        "X=1  # hide",
        "-- hide",
        "++ hide",
    ],
)
def test_a_line_of_a_diff_is_shown_without_what_may_be_secret(line: str) -> None:
    shown = masked_diff("f", line, "", ours=False) + masked_diff("f", "", line, ours=False)
    assert "hide" not in shown
    assert "1234" not in shown


def test_what_is_surely_no_secret_is_shown() -> None:
    shown = masked_diff("f", "cache: false\n", "cache: true\nurl: os.environ/REDIS_URL\n", ours=False)
    assert shown.splitlines()[3:] == ["-cache: false", "+cache: true", "+url: os.environ/REDIS_URL"]
