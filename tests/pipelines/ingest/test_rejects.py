"""The quarantine in a few rows, against counting by hand."""

from collections import Counter

from infra.storage import LocalStorage
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.ingest.rejects import group_rejects
from pipelines.ingest.tables import read_quarantine


def test_groups_count_every_reject_and_show_the_first(tiny_recipe, tiny_folder, tmp_path):
    (tiny_folder / "media/pictures/5.jpg").unlink()
    storage = LocalStorage(tmp_path / "corpus")
    manifest = ingest(tiny_recipe, storage, SerialEngine()).manifest
    rejects = [reject for entry in manifest.quarantine for reject in read_quarantine(storage, entry)]
    assert rejects
    groups = group_rejects(storage, manifest)
    assert {(group.source, group.code): group.count for group in groups} == Counter(
        (reject.source, reject.code) for reject in rejects
    )
    for group in groups:
        first = next(r for r in rejects if (r.source, r.code) == (group.source, group.code))
        assert (group.record_file, group.record_row) == (first.locator.file, first.locator.row)
        assert group.message == first.message
