"""The report of a corpus whose annotations are hostile."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile_corpus import build_hostile_corpus

from infra.storage import Storage, open_storage
from pipelines.commit import load_manifest
from pipelines.report.page import CorpusReport, gather_report, render_page


@dataclass(frozen=True)
class Hostile:
    """The corpus and its page."""

    storage: Storage
    report: CorpusReport
    page: bytes


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    storage = open_storage(build_hostile_corpus(Path(tmp_path_factory.mktemp("hostile"))))
    report = gather_report(storage, load_manifest(storage))
    return Hostile(storage, report, render_page(report))
