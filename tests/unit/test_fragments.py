"""Fragments: what is read, what is refused with which words, and how requests are merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from osbuilder.errors import FragmentError
from osbuilder.kernel import fragments

# --- one fragment


def test_every_kind_of_line_is_read_with_its_place() -> None:
    text = '# why\nCONFIG_A=y\n\nCONFIG_B=n\n# CONFIG_C is not set\nCONFIG_D="a \\"b\\""\nCONFIG_E=64\nCONFIG_F=0x10\n'
    assert [(r.symbol, r.value, r.where) for r in fragments.parse(text, "f.conf")] == [
        ("A", "y", "f.conf:2"),
        ("B", "n", "f.conf:4"),
        ("C", "n", "f.conf:5"),
        ("D", '"a \\"b\\""', "f.conf:6"),
        ("E", "64", "f.conf:7"),
        ("F", "0x10", "f.conf:8"),
    ]


def test_a_last_line_without_newline_is_a_line() -> None:
    assert [str(request) for request in fragments.parse("CONFIG_A=y\nCONFIG_B=m", "f.conf")] == ["A=y", "B=m"]


def test_blanks_at_the_end_of_a_line_do_not_become_part_of_the_value() -> None:
    assert fragments.parse("CONFIG_A=y \r\n", "f.conf")[0].value == "y"


def test_a_comment_may_name_an_option() -> None:
    assert fragments.parse("# CONFIG_FOO=y would be wrong here\n", "f.conf") == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("CONFIG_A=yes", "f.conf:2: CONFIG_A: expected y, m, n, a number or a text in double quotes, got 'yes'"),
        ("CONFIG_A=", "expected y, m, n, a number"),
        ("CONFIG_A=y # because", "A comment needs a line of its own."),
        ('CONFIG_A="open', "expected y, m, n, a number"),
        ("CONFIG_A=012", "expected y, m, n, a number"),
        ("CONFIG_A", "f.conf:2: expected CONFIG_NAME=value or a # comment, got 'CONFIG_A'"),
        ("FUSE_FS=y", "Write the name with CONFIG_"),
        ("CONFIG_A = y", "expected CONFIG_NAME=value"),
        (" CONFIG_A=y", "Start it in the first column."),
        ("#CONFIG_A is not set", "expected `# CONFIG_X is not set` to the letter"),
        ("# CONFIG_A is not set.", "to the letter"),
    ],
)
def test_a_malformed_line_is_refused_with_its_place(line: str, words: str) -> None:
    with pytest.raises(FragmentError) as refused:
        fragments.parse(f"CONFIG_OK=y\n{line}\n", "f.conf")
    assert words in str(refused.value)
    assert "f.conf:2" in str(refused.value)


def test_all_malformed_lines_of_a_fragment_are_told_at_once() -> None:
    text = "CONFIG_A=yes\n CONFIG_B=y\n# CONFIG_C is not Set\nCONFIG_D=y\nCONFIG_E=maybe\n"
    with pytest.raises(FragmentError) as caught:
        fragments.parse(text, "mine.conf")
    assert [line.split(": ")[0] for line in caught.value.message.splitlines()] == [
        "mine.conf:1",
        "mine.conf:2",
        "mine.conf:3",
        "mine.conf:5",
    ]
    assert "Start it in the first column." in caught.value.hint
    assert "Write CONFIG_X=n" in caught.value.hint


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_bytes(b'CONFIG_A="\xff"\n')
    with pytest.raises(FragmentError, match=r"a\.conf: expected UTF-8 text, got the byte 0xff"):
        fragments.load_fragment(tmp_path / "a.conf", "a.conf")


# --- merging


def test_the_same_request_twice_is_a_duplicate_that_names_both_lines() -> None:
    requests = fragments.parse("CONFIG_A=y\n", "a.conf") + fragments.parse("\nCONFIG_A=y\n", "b.conf")
    with pytest.raises(FragmentError) as refused:
        fragments.merge(requests)
    assert refused.value.message == "duplicate: CONFIG_A=y in a.conf:1 and again in b.conf:2"


def test_different_requests_for_a_symbol_are_a_contradiction_that_names_both_lines() -> None:
    requests = fragments.parse("CONFIG_A=y\nCONFIG_B=1\n", "a.conf") + fragments.parse(
        "# CONFIG_A is not set\nCONFIG_B=2\n", "b.conf"
    )
    with pytest.raises(FragmentError) as refused:
        fragments.merge(requests)
    assert refused.value.message.splitlines() == [
        "contradiction: CONFIG_A=y in a.conf:1, but CONFIG_A=n in b.conf:1",
        "contradiction: CONFIG_B=1 in a.conf:2, but CONFIG_B=2 in b.conf:2",
    ]


def test_a_merge_is_sorted_whatever_the_order_of_the_fragments() -> None:
    one, two = fragments.parse("CONFIG_B=y\n", "a.conf"), fragments.parse('CONFIG_A="x"\n', "b.conf")
    assert fragments.render(fragments.merge(one + two)) == fragments.render(fragments.merge(two + one))
    assert fragments.render(fragments.merge(one + two)) == 'CONFIG_A="x"\nCONFIG_B=y\n'


def test_what_a_user_asks_for_besides_is_added_and_what_is_asked_for_already_is_no_news() -> None:
    ours = fragments.merge(fragments.parse("CONFIG_B=y\nCONFIG_C=y\n", "ours.conf"))
    mine = fragments.parse("CONFIG_C=y\nCONFIG_A=1\n", "mine.conf")
    assert [(str(each), each.where) for each in fragments.extend(ours, mine)] == [
        ("A=1", "mine.conf:2"),
        ("B=y", "ours.conf:1"),
        ("C=y", "ours.conf:2"),
    ]


def test_what_a_user_asks_for_otherwise_or_twice_is_refused_with_both_lines() -> None:
    ours = fragments.parse("CONFIG_A=y\nCONFIG_B=y\n", "ours.conf")
    with pytest.raises(FragmentError, match="drops") as refused:
        fragments.extend(ours, fragments.parse("CONFIG_B=n\n", "mine.conf"))
    assert refused.value.message == "contradiction: CONFIG_B=y in ours.conf:2, but CONFIG_B=n in mine.conf:1"
    with pytest.raises(FragmentError, match=r"duplicate: CONFIG_N=y in mine\.conf:1 and again in mine\.conf:2"):
        fragments.extend(ours, fragments.parse("CONFIG_N=y\nCONFIG_N=y\n", "mine.conf"))
