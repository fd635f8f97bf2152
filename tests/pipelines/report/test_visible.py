"""What strangers wrote can be seen, all of it or as much as is told."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipelines.report.visible import make_bytes_visible, make_visible


def test_plain_text_stays_as_it_is():
    text = "What is this?\n\tA café, 猫, مرحبا, 👩‍🚀 & <image>"
    assert make_visible(text) == text


def test_marks_that_turn_text_around_are_spelled():
    assert make_visible("a\u202eb\u2066c\u2069\u200f") == "a⟨U+202E⟩b⟨U+2066⟩c⟨U+2069⟩⟨U+200F⟩"


def test_controls_are_spelled():
    assert make_visible("a\x00b\x1b[31m\x7f\u2028") == "a⟨U+0000⟩b⟨U+001B⟩[31m⟨U+007F⟩⟨U+2028⟩"


def test_long_text_is_cut_and_says_so():
    assert make_visible("x" * 1_000_000, 10) == "x" * 10 + " ... and 999,990 characters more"
    assert make_visible("x" * 10, 10) == "x" * 10


@given(st.text())
def test_nothing_that_is_shown_hides_anything(text):
    shown = make_visible(text, limit=len(text) + 1)
    hidden = [one for one in shown if unicodedata.category(one) in {"Cc", "Cf", "Cn", "Co", "Zl", "Zp"}]
    assert set(hidden) <= set("\n\t\u200c\u200d")


def test_bytes_that_are_no_text_are_shown_with_what_is_left_out():
    assert make_bytes_visible(b"\xff\xfeab", 4) == "\ufffd\ufffdab"
    assert make_bytes_visible(b"ab", 100) == "ab ... of 100 bytes"
    assert make_bytes_visible("é".encode()[:1], 2) == "\ufffd ... of 2 bytes"
    assert make_bytes_visible(b"x" * 4096, 1_000_000, 10) == "x" * 10 + " ... of 1,000,000 bytes"
