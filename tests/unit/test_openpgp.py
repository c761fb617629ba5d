"""Of a clear-signed text only what is signed counts, whatever stands around it."""

from __future__ import annotations

import pytest

from osbuilder.openpgp import signed_text
from tests.openpgp import Key

SIGNED = Key.of_seed(1).clearsign("Suite: stable\nDate: today\n")
TEXT = "Suite: stable\nDate: today\n"


@pytest.mark.parametrize(
    "text",
    [
        SIGNED,
        SIGNED.replace("Hash: SHA256\n", "Hash: SHA256\nDate: tomorrow\n"),
        SIGNED.replace("Hash: SHA256\n", "Date: tomorrow\nHash: SHA256 \t\n"),
        SIGNED.replace("SHA256\n", "SHA256\x0b\x0bDate: tomorrow\n"),
        SIGNED.replace("SHA256\n", "SHA256\n\xa0\nDate: tomorrow\n"),
        f"Date: tomorrow\n\n{SIGNED}",
        f"{SIGNED}Date: tomorrow\n",
        SIGNED.replace("\n", "\r\n"),
    ],
    ids=["as signed", "header", "first header", "split header", "odd blank", "before", "behind", "CR LF"],
)
def test_only_what_is_signed_is_read(text: str) -> None:
    assert signed_text(text) == TEXT


def test_a_line_that_began_with_a_dash_has_it_again() -> None:
    assert signed_text("-----BEGIN PGP SIGNED MESSAGE-----\n\n- -a\nb\n-----BEGIN PGP SIGNATURE-----\n") == "-a\nb\n"


def test_a_text_without_a_signature_is_itself() -> None:
    assert signed_text(TEXT) == TEXT


@pytest.mark.parametrize(
    "text", ["-----BEGIN PGP SIGNED MESSAGE-----\nDate: x", "-----BEGIN PGP SIGNED MESSAGE-----\n\n"]
)
def test_of_a_text_that_ends_in_its_header_nothing_is_signed(text: str) -> None:
    assert "Date" not in signed_text(text)
