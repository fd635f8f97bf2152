"""The training stream in a worker of Ray Train: which rank it is, of how many, the context of Ray says.

For training loops of one's own under `ray.train`. A worker that replaces a lost one, or one of fewer workers,
loads the state that any of them reported and goes on with the same steps:

    def train_loop(config):
        stream = open_worker_stream("s3://corpora/first", DataConfig(batch=256, micro_batch=8), seed=0)
        checkpoint = ray.train.get_checkpoint()
        if checkpoint:
            stream.load_state_dict(read_state(checkpoint))
        for micro_batches in StoppingTogether(stream, open_cpu_group()):
            ...
            ray.train.report(metrics, checkpoint=write_state(stream.state_dict()))

The corpus must lie where every worker sees it. Machines are counted as workers by workers of this machine:
right where machines take as many each, which is what Ray Train does.
"""

from infra.ray_train import find_worker_place
from infra.storage import open_storage
from pipelines.commit import load_manifest, load_pinned_manifest
from pipelines.stream.lengths import Lengths
from pipelines.stream.stream import FeatureStream
from schemas.errors import NotFoundError
from schemas.stream import DataConfig


def open_worker_stream(
    corpus: str,
    data: DataConfig,
    *,
    seed: int,
    spec: str | None = None,
    manifest_sha256: str | None = None,
    num_epochs: int | None = None,
    lengths: Lengths | None = None,
    frame_tokens: int = 1,
) -> FeatureStream:
    """The share of this worker of the steps of a run; see `FeatureStream`.

    Args:
        corpus: folder or URL.
        data: which examples, in which units, read how.
        seed: of the order.
        spec: short digest of the feature spec; None: the latest.
        manifest_sha256: of the manifest that a state was made with; None: the one in force.
        num_epochs: after so many the stream ends; None: never.
        lengths: of the prompts; None: characters stand for tokens.
        frame_tokens: what a frame takes in the language model's sequence.

    Raises:
        ConfigError: outside of a worker of Ray Train, or when nothing is left to train on.
        NotFoundError: when there is no corpus, or it has no such features.
    """
    place, storage = find_worker_place(), open_storage(corpus)
    if manifest_sha256 is None:
        manifest = load_manifest(storage)
    else:
        manifest = load_pinned_manifest(storage, manifest_sha256)
    chosen = spec or manifest.latest_spec
    if chosen is None:
        raise NotFoundError(f"the corpus {manifest.name!r} has no features; run `onetoken featurize` first")
    return FeatureStream(
        storage,
        manifest,
        chosen,
        data,
        seed=seed,
        rank=place.rank,
        world_size=place.world_size,
        num_nodes=place.num_nodes,
        num_epochs=num_epochs,
        lengths=lengths,
        frame_tokens=frame_tokens,
    )
