"""The demo corpus, rendered once for all of its tests."""

from pathlib import Path

import pytest

from jobs.demo.corpus import DemoCorpus, render_demo_corpus


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory: pytest.TempPathFactory) -> DemoCorpus:
    return render_demo_corpus(Path(tmp_path_factory.mktemp("demo")))
