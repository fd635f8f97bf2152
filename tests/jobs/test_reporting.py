"""`onetoken report` on a small corpus: the page, the card, what it refuses, and what it leaves alone."""

import json
import shutil

import pytest
from page_reading import read_page
from small_job import run_onetoken

from pipelines.report.card import MARK


@pytest.fixture(scope="module")
def reported(small_job, outcomes, tmp_path_factory):
    """A corpus with features, an audit and a page."""
    corpus = tmp_path_factory.mktemp("reported") / "corpus"
    shutil.copytree(small_job.corpus, corpus)
    audited = run_onetoken("audit", "--corpus", corpus, "--views", 2, "--json")
    assert audited.status == 0, audited.err
    card = corpus / "README.md"
    outcome = run_onetoken(
        "report", "--corpus", corpus, "--card", card, "--tokenizer", small_job.folder / "llm", "--json"
    )
    assert outcome.status == 0, outcome.err
    return corpus, outcome


@pytest.fixture(scope="module")
def page(reported):
    return read_page((reported[0] / "report.html").read_bytes())


def test_the_result_tells_where_and_what(reported):
    corpus, outcome = reported
    assert outcome.values == {
        "page": f"{corpus}/report.html",
        "card": f"{corpus}/README.md",
        "page_bytes": (corpus / "report.html").stat().st_size,
        "read": 10,
        "written": 8,
        "rejected": 2,
        "not_taken": 0,
        "rejects": [
            {"source": "pictures", "code": "empty_answer", "count": 1},
            {"source": "pictures", "code": "missing_file", "count": 1},
        ],
        "items": 8,
        "sweeps": 0,
    }


def test_views_and_the_norms_of_their_features_are_shown(page):
    pictures = page.find("img")
    views = [one for one in pictures if one["alt"].startswith("View: ")]
    heats = [one for one in pictures if one["alt"].startswith("Map of token norms")]
    assert len(views) == len(heats) == 6 * 5 + 2 * 3
    assert len([one for one in views if one["alt"].startswith("View: at ")]) == 2 * 3
    assert len(pictures) == len(views) + len(heats) + 6


def test_cache_audit_and_tokens_are_told(reported, page):
    (spec,) = [path.name for path in (reported[0] / "features").iterdir()]
    assert f"Spec {spec}" in page.text
    assert "36 views of 8 items" in page.text
    assert "Audit of 2 recomputed views on cpu: above the floor" in page.text
    assert "Tokens of a conversation 8 counted" in page.text
    assert (
        "every prompt that can be written, as training counted them for the tokenizer and template"
        in page.text
    )
    assert "source items size of it shared pictures 6" in page.text


def test_a_second_run_replaces_page_and_card(reported):
    corpus, _ = reported
    again = run_onetoken("report", "--corpus", corpus, "--card", corpus / "README.md")
    assert again.status == 0
    assert again.out.splitlines()[0].startswith(f"report: {corpus}/report.html, 0.")
    assert again.out.splitlines()[1:] == ["read 10 = written 8 + rejected 2", f"card: {corpus}/README.md"]


def test_page_and_card_are_nobodys_garbage(reported):
    corpus, _ = reported
    verified = run_onetoken("verify", "--corpus", corpus, "--json")
    assert verified.status == 0
    collected = run_onetoken("gc", "--corpus", corpus, "--json")
    assert collected.status == 0
    assert {"report.html", "README.md"} <= {path.name for path in corpus.iterdir()}
    assert "report.html" not in json.dumps(collected.values)


def test_a_card_that_somebody_took_over_stays(reported, tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# mine")
    refused = run_onetoken("report", "--corpus", reported[0], "--card", card)
    assert (refused.status, refused.out) == (2, "")
    assert "was not written by this command" in refused.said
    assert card.read_text() == "# mine"
    card.write_text(f"# ours\n{MARK}\n")
    assert (
        run_onetoken("report", "--corpus", reported[0], "--card", card, "--out", tmp_path / "p/r.html").status
        == 0
    )
    assert (tmp_path / "p/r.html").read_bytes().startswith(b"<!doctype html>")


def test_a_place_without_a_corpus_is_named(tmp_path):
    refused = run_onetoken("report", "--corpus", tmp_path / "none")
    assert (refused.status, refused.out) == (1, "")
    assert "holds no corpus" in refused.said
