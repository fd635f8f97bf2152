"""What a training configuration reads: the manifest, the feature spec, token counts, the stream of examples.

Token counts of all examples are made once for a tokenizer and kept in the corpus; whoever needs them first
makes them, on the engine that it has. `onetoken lengths` makes them on any.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.storage import Storage, open_storage
from jobs.console import Reporter
from pipelines.engine import Engine, SerialEngine
from schemas.corpus import Manifest
from schemas.errors import ConfigError, MismatchError, NotFoundError
from schemas.feature import FeatureSpec
from schemas.training import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from operators.batch import TrainingExample
    from operators.prompt import Prompter
    from pipelines.stream.lengths import Lengths
    from pipelines.stream.reader import FeatureReader
    from pipelines.stream.stream import FeatureStream
    from pipelines.train.checkpoint import Checkpoint
    from pipelines.train.evaluation import HeldOut
    from pipelines.train.processes import Processes


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The corpus of a run, opened."""

    storage: Storage
    manifest: Manifest
    spec: FeatureSpec

    @property
    def digest(self) -> str:
        """The short digest of the spec."""
        return self.spec.short_digest


def open_training_data(
    config: TrainConfig, checkpoint: "Checkpoint | None" = None, corpus: str | None = None
) -> TrainingData:
    """The corpus that a configuration names, or `corpus`, with the manifest that a checkpoint pins.

    Raises:
        NotFoundError: when there is no corpus, or it has no such features.
        ConfigError: when the digest's beginning fits several specs.
        MismatchError: when its features are others than those of the checkpoint, naming every field.
    """
    from pipelines.commit import load_manifest, load_pinned_manifest

    storage = open_storage(corpus or config.corpus)
    if checkpoint:
        identity = checkpoint.state.identity
        manifest = load_pinned_manifest(storage, identity.manifest_sha256)
        digest = find_trained_spec(storage, manifest, identity.spec)
    else:
        manifest = load_manifest(storage)
        digest = choose_spec(manifest, config.spec)
    return TrainingData(storage, manifest, read_spec(storage, manifest, digest))


def name_held_out(config: TrainConfig, manifest: Manifest) -> TrainConfig:
    """The configuration with the shards that `run.held_out` means under `data.exclude`.

    They are the same for the same state of a corpus, so for a run that goes on.

    Raises:
        ConfigError: no modality has two shards.
    """
    from pipelines.sweep.held_out import choose_held_out

    if config.run.held_out is None:
        return config
    names = choose_held_out(manifest.plan, config.run.held_out)
    data, run = config.data, config.run
    return config.model_copy(
        update={
            "data": data.model_copy(update={"exclude": names}),
            "run": run.model_copy(update={"held_out": None}),
        }
    )


def find_trained_spec(storage: Storage, manifest: Manifest, trained: FeatureSpec) -> str:
    """The short digest of the spec that a checkpoint was trained on, in a corpus that has its features.

    Raises:
        NotFoundError: when the corpus has no features.
        MismatchError: when it has others; the message names what differs in those that are closest.
    """
    if trained.short_digest in manifest.features:
        return trained.short_digest
    if not manifest.features:
        raise NotFoundError(f"the corpus {manifest.name!r} has no features; run `onetoken featurize` first")
    specs = [read_spec(storage, manifest, digest) for digest in manifest.features]
    differences = min((spec.list_differences(trained) for spec in specs), key=len)
    raise MismatchError(
        f"{storage.url} has other features than those trained on: {'; '.join(differences)}; run `onetoken "
        "featurize` with the recipe of the training corpus"
    )


def choose_spec(manifest: Manifest, wanted: str) -> str:
    """The short digest of the feature spec that a configuration means.

    Raises:
        NotFoundError: when the corpus has no such features.
        ConfigError: when the digest's beginning fits several.
    """
    known, latest = list(manifest.features), manifest.latest_spec
    if latest is None:
        raise NotFoundError(f"the corpus {manifest.name!r} has no features; run `onetoken featurize` first")
    if wanted == "latest":
        return latest
    fitting = [digest for digest in known if digest.startswith(wanted[:16])]
    if not fitting:
        raise NotFoundError(f"the corpus has no features of spec {wanted}; it has {', '.join(known)}")
    if len(fitting) > 1:
        raise ConfigError(f"spec {wanted} fits {', '.join(fitting)}; write more digits")
    return fitting[0]


def read_spec(storage: Storage, manifest: Manifest, digest: str) -> FeatureSpec:
    """The feature spec of this short digest."""
    from pipelines.commit import parse_stored, read_object

    entry = manifest.features[digest].spec
    return parse_stored(read_object(storage, entry), FeatureSpec, f"{storage.url}/{entry.path}")


def open_reader(config: TrainConfig, data: TrainingData) -> "FeatureReader | None":
    """What takes the place of the cache where a configuration asks for it: the encoder, or a reducer.

    Raises:
        ConfigError: the model would reduce what is reduced already.
    """
    reducer, stored = config.model.reducer, data.spec.reducer
    if stored != "none" and config.stage == 2 and reducer.name != "all":
        raise ConfigError(
            f"the features {data.digest} hold the tokens that {stored.name} left, and no patches; write "
            "`model: {reducer: all}`, or name a `spec` of all patches"
        )
    if reducer.needs_focus:
        from pipelines.stream.reducing import ReducingReader

        return ReducingReader(data.storage, data.manifest, data.digest, reducer)
    if config.live is None:
        return None
    from pipelines.stream.fresh import open_fresh_reader

    return open_fresh_reader(data.storage, data.manifest, data.spec, config.live)


def count_tokens(
    data: TrainingData, prompter: "Prompter", engine: Engine, reporter: Reporter, processes: "Processes"
) -> "Lengths":
    """The token counts of all examples; those that are missing are made, and that is said.

    Processes that train together share the files.
    """
    from pipelines.stream.lengths import count_lengths, list_uncounted

    missing = list_uncounted(data.storage, data.manifest.examples, prompter)
    if missing:
        if processes.is_first:
            num_rows = sum(entry.num_rows for entry in missing)
            reporter.say(
                f"counting the tokens of {num_rows:,} examples, once for this tokenizer and template "
                "(`onetoken lengths CONFIG --engine ray` does it on a cluster)"
            )
        mine = data.manifest.examples[processes.rank :: processes.world_size]
        count_lengths(data.storage, mine, prompter, engine, reporter)
    processes.wait()
    return count_lengths(data.storage, data.manifest.examples, prompter, SerialEngine())


def open_stream(
    config: TrainConfig,
    data: TrainingData,
    lengths: "Lengths",
    processes: "Processes | None" = None,
    reader: "FeatureReader | None" = None,
    *,
    num_epochs: int | None = None,
) -> "FeatureStream":
    """The examples that a run trains on, in its order; `reader` takes the place of the cache.

    After `num_epochs` of them the stream ends; None: never.
    """
    from pipelines.stream.stream import FeatureStream
    from pipelines.train.processes import ALONE
    from pipelines.train.shape import count_frame_tokens

    place = processes or ALONE
    stream = FeatureStream(
        data.storage,
        data.manifest,
        data.digest,
        config.data,
        seed=config.run.seed,
        rank=place.rank,
        world_size=place.world_size,
        num_nodes=place.num_nodes,
        num_epochs=num_epochs,
        lengths=lengths,
        frame_tokens=count_frame_tokens(config, data.spec),
    )
    _choose_reader(stream, config, reader)
    return stream


def _choose_reader(stream: "FeatureStream", config: TrainConfig, reader: "FeatureReader | None") -> None:
    """What is read in this process is read to where its GPU copies from."""
    from pipelines.train.precision import choose_device

    stream.reader = reader or stream.reader
    if choose_device(config.run).type == "cuda" and not config.data.workers:
        stream.reader.pin_memory()


def count_left_out(stream: "FeatureStream") -> dict[str, int]:
    """Examples that a run does not train on, by reason."""
    catalog = stream.catalog
    left_out = {
        "no_prompt": catalog.num_unwritable,
        "rejected_media": catalog.num_rejected,
        "excluded_shards": catalog.num_excluded,
    }
    return {reason: count for reason, count in left_out.items() if count}


def open_held_out(
    config: TrainConfig,
    data: TrainingData,
    lengths: "Lengths",
    processes: "Processes",
    reader: "FeatureReader | None",
) -> "FeatureStream | None":
    """The examples of the shards that training leaves out, once; None: never asked for.

    Args:
        config: of the run.
        data: its corpus.
        lengths: of the prompts.
        processes: that train together.
        reader: takes the place of the cache.

    Raises:
        ConfigError: no shard is left out, or none of their examples can be read.
    """
    if config.run.evaluate_every is None:
        return None
    if not config.data.exclude:
        raise ConfigError(
            "`run.evaluate_every` needs shards that are held out; write a share under `run.held_out`, or "
            "name some in `data.exclude`"
        )
    others = tuple(leaf.name for leaf in data.manifest.plan if leaf.name not in config.data.exclude)
    units: dict[str, object] = {"units": processes.world_size}
    if config.data.unit == "count":
        units = {"batch": config.data.micro_batch * processes.world_size}
    settings = config.data.model_copy(update={"exclude": others, "workers": 0, "tail": "short", **units})
    try:
        return open_stream(
            config.model_copy(update={"data": settings}), data, lengths, processes, reader, num_epochs=1
        )
    except ConfigError as error:
        raise ConfigError(f"of the shards under `data.exclude`, which are held out, {error}") from error


def hold_out(
    config: TrainConfig, stream: "FeatureStream | None", processes: "Processes", group: object | None
) -> "HeldOut | None":
    """Batches of held-out examples, from the beginning each time.

    Args:
        config: of the run.
        stream: of the examples, as `open_held_out` gave it.
        processes: that train together.
        group: through which they stop together.
    """
    from itertools import islice

    from pipelines.stream.together import stop_together

    if stream is None:
        return None
    start = stream.state_dict()

    def read() -> "Iterator[list[list[TrainingExample]]]":
        stream.load_state_dict(start)
        steps = islice(stream, config.run.evaluate_batches)
        yield from steps if processes.is_alone else stop_together(steps, group)

    return read
