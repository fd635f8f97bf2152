"""The data card has a header that the Hub's own library reads."""

import pytest
from huggingface_hub import DatasetCard

from pipelines.report.card import MARK, render_card


@pytest.fixture(scope="session")
def card(hostile):
    return render_card(hostile.report).decode()


def test_the_header_is_read(card):
    header = DatasetCard(card).data.to_dict()
    assert header == {
        "pretty_name": "hostile",
        "task_categories": ["image-text-to-text"],
        "tags": ["image", "webdataset"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "shards/*.tar"}]}],
    }


def test_nothing_that_a_stranger_wrote_stands_in_it(card):
    assert "script" not in card.replace("description", "")
    assert "onerror" not in card
    assert "xxxxx" not in card


def test_numbers_are_those_of_the_manifest(hostile, card):
    assert MARK in card
    assert "13 records read = 5 written + 8 rejected + 0 not taken." in card
    assert "| hostile | `empty_answer` | 5 |" in card
    assert hostile.report.manifest.digest in card


def test_the_code_reads_the_shards(hostile, card, capsys, monkeypatch):
    (code,) = card.split("```python\n")[1].split("```")[:1]
    monkeypatch.chdir(hostile.storage.url)
    exec(compile(code, "card", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 5
