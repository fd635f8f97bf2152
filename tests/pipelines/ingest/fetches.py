"""What ingest reads of media in folders."""

from pipelines.ingest.media.folder import MediaFolder
from pipelines.ingest.media.root import Fetched


def watch_fetches(monkeypatch, told):
    """Give each medium whose bytes were read to `told`, and what that returns to ingest."""
    real = MediaFolder.fetch

    def fetch(self, asked, known):
        for fetched in real(self, asked, known):
            is_read = isinstance(fetched, Fetched) and fetched.data is not None
            yield told(fetched) if is_read else fetched

    monkeypatch.setattr(MediaFolder, "fetch", fetch)
