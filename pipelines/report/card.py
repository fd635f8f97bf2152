"""The data card of a corpus: a README.md with the header that the Hub reads.

The header says what is known (size, modalities, where the shards are); licenses and languages are not, so
they are left to whoever publishes. Everything else comes from the manifest, where names are checked, so
nothing that a stranger wrote stands in the card.
"""

from typing import Final

import yaml

from pipelines.report.page import CorpusReport, open_environment
from schemas.record import Modality

TEMPLATE: Final = "card.md.j2"
MARK: Final = "Written by `onetoken report --card`; it writes over a card that keeps this line."
_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_MORE_SIZES: Final = ((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))
_TASKS: Final = {
    Modality.IMAGE: "image-text-to-text",
    Modality.MULTI: "image-text-to-text",
    Modality.VIDEO: "video-text-to-text",
    Modality.TEXT: "text-generation",
}
_MODALITIES: Final = {
    Modality.IMAGE: "image",
    Modality.MULTI: "image",
    Modality.VIDEO: "video",
    Modality.TEXT: "text",
}


def render_card(report: CorpusReport) -> bytes:
    """The card, in UTF-8."""
    manifest = report.manifest
    environment = open_environment()
    shards = manifest.shards
    text = environment.get_template(TEMPLATE).render(
        header=yaml.safe_dump(_describe_header(report), sort_keys=False),
        mark=MARK,
        manifest=manifest,
        totals=report.totals,
        codes=report.rejects,
        caches=report.caches,
        num_shard_bytes=sum(shard.tar.num_bytes for shard in shards),
        example_shard=shards[0].tar.path.removeprefix("shards/") if shards else "NAME.tar",
    )
    return text.encode()


def _describe_header(report: CorpusReport) -> dict[str, object]:
    manifest = report.manifest
    modalities = [
        modality for modality in Modality if any(leaf.modality is modality for leaf in manifest.plan)
    ]
    return {
        "pretty_name": manifest.name,
        "task_categories": _without_repeats([_TASKS[modality] for modality in modalities]),
        "tags": [*_without_repeats([_MODALITIES[modality] for modality in modalities]), "webdataset"],
        "size_categories": [_size_of(report.totals.written)],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "shards/*.tar"}]},
        ],
    }


def _size_of(num_examples: int) -> str:
    return next((name for bound, name in (*_SIZES, *_MORE_SIZES) if num_examples < bound), "n>1B")


def _without_repeats(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))
