"""What gpgv says of a signature becomes a signer or a refusal; where the keys come from is said by a setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.errors import UsageError, VerificationError
from osbuilder.kernel.signature import PublicKeys, Signature
from osbuilder.kernel.tarball import Tarball
from osbuilder.step import parameters

PINNED, OTHER = "A" * 40, "B" * 40
KEYS = PublicKeys(files=(b"key",), sha256="5" * 64)
SIGNATURE = Signature(urls=("https://a.example/l.tar.sign",), signed_by=(PINNED,), keys=KEYS)


def status(*lines: str) -> str:
    return "".join(f"[GNUPG:] {line}\n" for line in ("NEWSIG", *lines))


def valid(fingerprint: str, primary: str) -> str:
    return f"VALIDSIG {fingerprint} 2026-01-11 1768140000 0 4 0 1 10 00 {primary}"


def test_a_good_signature_by_a_pinned_key_names_the_primary_key() -> None:
    verdict = status("GOODSIG 0123456789ABCDEF A <a@a.example>", valid(OTHER, PINNED))
    assert SIGNATURE.check(verdict, origin="linux.tar.xz") == PINNED


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("BADSIG 0123 A",), "bad signature: this is not what was signed (0123 A)"),
        (("EXPKEYSIG 0123 A", valid(PINNED, PINNED)), "signed by a key that has expired"),
        (("REVKEYSIG 0123 A", valid(PINNED, PINNED)), "signed by a key that was revoked"),
        (("EXPSIG 0123 A", valid(PINNED, PINNED)), "its signature has expired"),
        (("ERRSIG 0123 1 10 00 0 9 -", "NO_PUBKEY 0123"), "signed by a key that is not among the pinned ones"),
        (("GOODSIG 0123 A", valid(PINNED, PINNED), "BADSIG 0123 A"), "bad signature"),
        (("GOODSIG 0123 A", valid(PINNED, OTHER)), "its signature was not verified"),
        ((), "its signature was not verified"),
    ],
)
def test_anything_else_is_refused_with_what_it_was(lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(VerificationError) as caught:
        SIGNATURE.check(status(*lines), origin="linux.tar.xz")
    assert caught.value.message.startswith(f"linux.tar.xz: {said}")
    assert f"expected a good signature by {PINNED}" in caught.value.message


def test_who_may_sign_and_the_keys_are_part_of_what_a_source_is_and_mirrors_are_not() -> None:
    source = Tarball(urls=("https://a.example/l.tar.xz",), sha256="5" * 64, signature=SIGNATURE)
    assert parameters(source) == {
        "sha256": "5" * 64,
        "signature": {"signed_by": [PINNED], "keys": {"sha256": "5" * 64}},
    }
    assert f"check with gpgv that one of {PINNED} signed the tar" in source.describe()


def test_keys_come_from_a_file_or_from_the_key_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.asc", "a.gpg", "README"):
        (tmp_path / name).write_text(name)
    assert PublicKeys.of_path(tmp_path).files == (b"a.gpg", b"b.asc")
    assert PublicKeys.of_path(tmp_path / "README").files == (b"README",)


def test_keys_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"setting kernel_keys: cannot read .*gone: No such file"):
        PublicKeys.of_path(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"has no \.asc, \.gpg, \.pgp file"):
        PublicKeys.of_path(tmp_path)
