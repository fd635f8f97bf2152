"""The page is whole, asks for nothing, and shows hostile annotations as text."""

import re

import pytest
from page_reading import read_page

from pipelines.report.facts import sum_sources
from pipelines.report.page import format_size, render_page
from schemas.errors import CorruptError

MAX_BYTES = 20 * 10**6
SHOWN_TAGS = {
    *("html", "head", "meta", "link", "title", "style", "body", "a", "header", "h1", "h2", "h3", "p", "code"),
    *("nav", "ul", "li", "main", "dl", "div", "dt", "dd", "section", "table", "caption", "thead", "tbody"),
    *("tr", "th", "td", "details", "summary", "strong", "bdi", "pre", "img", "span", "br", "svg", "rect"),
}


@pytest.fixture(scope="session")
def page(hostile):
    return read_page(hostile.page)


def test_no_text_becomes_markup(page):
    assert {tag for tag, _ in page.elements} <= SHOWN_TAGS
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert {attributes["href"] for attributes in page.find("a")} <= {
        f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes
    }


def test_hostile_text_is_shown(page):
    assert page.text.count("<script>document.title='taken'</script>") >= 3
    assert "\"><img src=x onerror=\"document.title='taken'\"><a href='javascript:1'>" in page.text
    assert "</dd></dl></details></body></html><!-- {{ 7 * 7 }} {% raw %}" in page.text


def test_marks_that_turn_text_around_are_spelled(hostile, page):
    assert "safe ⟨U+202E⟩gnp.exe⟨U+202C⟩ ⟨U+2066⟩x⟨U+2069⟩" in page.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", hostile.page.decode())


def test_huge_texts_are_cut(hostile, page):
    assert "characters more" in page.text
    assert re.search("x ... of 200,[0-9]{3} bytes", page.text)
    assert "x" * 1000 not in page.text
    assert len(hostile.page) < MAX_BYTES / 40


def test_the_page_asks_for_nothing(page):
    sources = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "data", "action", "poster"}
    ]
    assert len(sources) > 20
    assert all(value.startswith(("data:", "#")) for value in sources)
    (policy,) = [attributes["content"] for attributes in page.find("meta") if attributes.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


def test_totals_balance(hostile, page):
    totals = sum_sources(hostile.report.manifest)
    assert (totals.read, totals.written, totals.rejected, totals.not_taken) == (13, 5, 8, 0)
    assert "13 read = 5 written + 8 rejected + 0 not taken." in page.text


def test_rejects_are_shown_by_code_with_records(hostile, page):
    counts = {group.code: group.count for group in hostile.report.rejects}
    assert counts == hostile.report.manifest.sources[0].rejects
    for code, count in counts.items():
        assert f"{count} {code} of hostile" in page.text
    (empty,) = [group for group in hostile.report.rejects if group.code == "empty_answer"]
    assert (empty.count, len(empty.samples)) == (5, 3)
    assert "And 2 more." in page.text


def test_every_item_shows_its_five_views_and_what_is_said(hostile, page):
    assert len(hostile.report.items) == 5
    for item in hostile.report.items:
        (medium,) = item.media
        assert [view.label for view in medium.views] == [
            *("top left", "top right", "bottom left", "bottom right", "whole picture")
        ]
        assert len(item.conversations) == 1
    assert len(page.find("img")) == 5 * 6
    assert all(attributes["alt"] for attributes in page.find("img"))


def test_totals_that_do_not_balance_are_an_error(hostile):
    manifest = hostile.report.manifest
    wrong = [
        source.model_copy(update={"read": source.read + 1, "taken": source.taken + 1})
        for source in manifest.sources
    ]
    with pytest.raises(CorruptError, match="14 records were read, and 5 written, 8 rejected"):
        sum_sources(manifest.model_copy(update={"sources": wrong}))


def test_the_same_corpus_gives_the_same_page(hostile):
    assert render_page(hostile.report) == hostile.page


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (2**20, "1 MiB"),
        (5 * 2**40, "5 TiB"),
        (3000 * 2**40, "3,000 TiB"),
    ],
)
def test_sizes_for_people(num_bytes, text):
    assert format_size(num_bytes) == text
