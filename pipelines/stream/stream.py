"""The training stream: for each optimizer step, this rank's micro-batches of examples with their features.

What comes when is planned (`pipelines.stream.order`) over the examples that have features, so the state is
(epoch, step), with the digests of what the plan was made from. The position is that of the steps handed out:
what was read ahead is read again after a resume. A run may go on with another number of ranks, threads or
worker processes and sees the same steps.

A shard that cannot be read stops the run and prints the line that leaves it out; nothing is skipped silently.
`stop_together` carries the error to ranks that would wait for the one that met it.

It is an `IterableDataset`: `DataLoader(stream, batch_size=None, num_workers=n)` hands out the same steps in
the same order, and `count_delivered` keeps the position. `workers` does this by itself, with less copying.

Costs: the catalog (17 bytes an example), the texts of two blocks, and the encoded features of the steps read
ahead, 0.65 MB a view of 576 x 1024 in int8. Worker processes are forked, share the catalog and plan for
themselves. An item that two examples of a step share is read twice.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, cast

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from infra.storage import Storage
from pipelines.stream.catalog import MODALITIES, Catalog, load_catalog
from pipelines.stream.conversations import Conversations
from pipelines.stream.lengths import Lengths
from pipelines.stream.loader import ExampleLoader
from pipelines.stream.measures import Measures
from pipelines.stream.mixture import scale_weights
from pipelines.stream.order import Order, OrderConfig
from pipelines.stream.reader import FeatureReader
from pipelines.stream.source import open_source
from pipelines.stream.transport import MicroBatch, PackedStep, pack_step, unpack_step
from pipelines.stream.units import UnitRule
from pipelines.stream.walk import PlannedStep, Position, Walk, deal
from schemas.corpus import Manifest
from schemas.digest import digest_of
from schemas.errors import ConfigError, MismatchError, PipelineError
from schemas.record import Modality
from schemas.stream import DataConfig

ORDER_VERSION: Final = 2
"""Rises with every change of the order."""
START_METHOD: Final = "fork"
"""Of worker processes, whatever started this one: they share the plan, the tables and what is open."""
STEPS_PER_WORKER: Final = 2
"""That each worker process reads ahead."""


class FeatureStream(IterableDataset[list[MicroBatch]]):
    """Steps of training examples for one rank of a run."""

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        spec: str,
        data: DataConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_nodes: int = 1,
        num_epochs: int | None = None,
        lengths: Lengths | None = None,
        frame_tokens: int = 1,
    ) -> None:
        """Look at the corpus and plan.

        Args:
            storage: the corpus.
            manifest: of the corpus; the order is planned over it.
            spec: short digest of the feature spec.
            data: which examples, in which units, read how.
            seed: of the order.
            rank: which of the ranks this is, from 0.
            world_size: number of ranks.
            num_nodes: machines that they run on.
            num_epochs: after so many the stream ends; None: never.
            lengths: of the prompts (`pipelines.stream.lengths`); None: characters stand for tokens, and no
                example is left out for what it says.
            frame_tokens: what a frame takes in the language model's sequence.

        Raises:
            ConfigError: for unknown sources or shards, when no example or no step is left, or when a block
                does not fit into the cache.
            NotFoundError: when features are missing.
        """
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is none of {world_size} ranks")
        weights = scale_weights([source.name for source in manifest.sources], data.sources)
        used = frozenset(name for name, weight in weights.items() if weight > 0)
        reader = FeatureReader(storage, manifest, spec, open_source(storage, data.cache, num_nodes))
        measures = Measures(storage, manifest, reader.spec, data, lengths, frame_tokens)
        self.catalog: Catalog = load_catalog(storage, manifest, spec, used, measures, data.exclude)
        self.order = Order(self.catalog.table, _configure_order(data, seed, tuple(weights.values())))
        self.walk = Walk(self.order, num_epochs)
        if not self.num_steps(0):
            raise ConfigError("an epoch holds no whole step; lower `data.batch`, or set `data.tail: short`")
        texts = Conversations(storage, manifest.examples, self.catalog, 2 * data.shards_per_block)
        self.loader = ExampleLoader(self.catalog, texts, reader, data)
        self._data = data
        self._rank, self._world_size = rank, world_size
        basis = [ORDER_VERSION, spec, seed, data.order_fields, lengths and lengths.digest, frame_tokens]
        self._digests = {"manifest_digest": manifest.digest, "config_digest": digest_of(basis)}
        self._position = Position()
        self._expected = (-1, -1)
        self._check_cache()

    @property
    def reader(self) -> FeatureReader:
        """Where features come from."""
        return self.loader.reader

    @reader.setter
    def reader(self, reader: FeatureReader) -> None:
        reader.share_source(self.loader.reader)
        self.loader.reader = reader

    def num_steps(self, epoch: int) -> int:
        """Steps of an epoch; with weights below 1 epochs differ by a few."""
        return self.walk.plan(epoch).num_steps

    def state_dict(self) -> dict[str, int | str]:
        """Where the next step stands, and what the order was planned from."""
        return {"epoch": self._position.epoch, "step": self._position.step, **self._digests}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a state, with any number of ranks, threads and workers.

        Raises:
            MismatchError: when the order was planned from another manifest or configuration.
        """
        differences = [
            f"{name.removesuffix('_digest')} {str(state.get(name))[:16]} there, {digest[:16]} here"
            for name, digest in self._digests.items()
            if state.get(name) != digest
        ]
        if differences:
            raise MismatchError(
                f"the stream cannot go on: {'; '.join(differences)}. Resume with the corpus manifest and the "
                "data settings (sources, units, batch, frames, exclude, seed, views, spec, tokenizer) that "
                "the run began with"
            )
        epoch, step = state.get("epoch"), state.get("step")
        if not isinstance(epoch, int) or not isinstance(step, int) or min(epoch, step) < 0:
            raise MismatchError(f"the stream cannot go on from epoch {epoch!r}, step {step!r}")
        self._position = Position(epoch, step)
        self._expected = (-1, -1)

    def count_delivered(self, num_steps: int = 1) -> None:
        """Move on by steps that a `DataLoader` of the caller's handed out."""
        for position in self.walk.positions(self._position):
            if num_steps == 0:
                return
            self._position = position.after
            num_steps -= 1

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        """Steps from the position on; every rank yields as many, of as many micro-batches.

        Raises:
            CorruptError: naming the shard, and the line that leaves it out.
        """
        worker = get_worker_info()
        if worker is not None:
            for planned in self.walk.steps(self._position, worker.id, worker.num_workers):
                yield self._load(planned)
        elif self._data.workers:
            yield from self._take_from_workers()
        else:
            yield from self._load_ahead()

    def iterate_packed(self, worker: int, num_workers: int) -> Iterator[PackedStep]:
        """The steps of one worker process; an error is the last of them."""
        for planned in self.walk.steps(self._position, worker, num_workers):
            try:
                yield pack_step(planned.position, self._load(planned))
            except PipelineError as error:
                yield PackedStep(planned.position, [], [], [], None, error)
                return

    def _load(self, planned: PlannedStep) -> list[MicroBatch]:
        self._expect_next_block(planned.position)
        return self.loader.load_units(deal(planned.units, self._rank, self._world_size))

    def _deliver(self, planned: PlannedStep) -> list[MicroBatch]:
        batches = self._load(planned)
        self._position = planned.position.after
        return batches

    def _take_from_workers(self) -> Iterator[list[MicroBatch]]:
        loader = DataLoader[PackedStep](
            _PackedSteps(self),
            batch_size=None,
            num_workers=self._data.workers,
            prefetch_factor=STEPS_PER_WORKER,
            collate_fn=_as_it_is,
            multiprocessing_context=START_METHOD,
        )
        for packed in cast(Iterator[PackedStep], loader):
            batches = unpack_step(packed, self.reader.codec)
            self._position = packed.position.after
            yield batches

    def _load_ahead(self) -> Iterator[list[MicroBatch]]:
        num_threads = self._data.threads
        if num_threads == 0:
            for planned in self.walk.steps(self._position):
                yield self._deliver(planned)
            return
        waiting: deque[tuple[Position, list[Future[MicroBatch]]]] = deque()
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="stream")
        try:
            for planned in self.walk.steps(self._position):
                self._expect_next_block(planned.position)
                units = deal(planned.units, self._rank, self._world_size)
                futures = [pool.submit(self.loader.load_unit, unit) for unit in units]
                waiting.append((planned.position, futures))
                if len(waiting) > num_threads:
                    yield self._take(waiting)
            while waiting:
                yield self._take(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _take(self, waiting: deque[tuple[Position, list[Future[MicroBatch]]]]) -> list[MicroBatch]:
        position, futures = waiting.popleft()
        batches = [future.result() for future in futures]
        self._position = position.after
        return batches

    def _expect_next_block(self, position: Position) -> None:
        """Have the shards of this block and the next one fetched, once a block."""
        plan = self.walk.plan(position.epoch)
        block = plan.block_of(position.step)
        if self._expected == (position.epoch, block):
            return
        first = block if self._expected != (position.epoch, block - 1) else block + 1
        self._expected = (position.epoch, block)
        for number in range(first, min(block + 2, len(plan.blocks))):
            self.reader.expect([self.catalog.shards[int(shard)].name for shard in plan.blocks[number]])

    def _check_cache(self) -> None:
        """See that a block fits into the cache."""
        cache = self._data.cache
        if cache is None or cache.fetch == "items":
            return
        sizes = [
            self.reader.count_bytes([self.catalog.shards[int(shard)].name for shard in block])
            for block in self.walk.plan(0).blocks
        ]
        if max(sizes) > cache.max_bytes:
            raise ConfigError(
                f"a block of {self._data.shards_per_block} shards takes up to {max(sizes)} bytes, the cache "
                f"{cache.max_bytes}; raise `data.cache.max_bytes` or lower `data.shards_per_block`"
            )


class _PackedSteps(IterableDataset[PackedStep]):
    """A stream as its worker processes see it."""

    def __init__(self, stream: FeatureStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[PackedStep]:
        worker = get_worker_info()
        index, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self._stream.iterate_packed(index, count)


def _as_it_is(step: Any) -> Any:  # noqa: ANN401 - whatever a loader is given
    return step


def _configure_order(data: DataConfig, seed: int, weights: tuple[float, ...]) -> OrderConfig:
    is_counted = data.unit == "count"
    return OrderConfig(
        seed=seed,
        unit=UnitRule(
            kind=data.unit,
            max_examples=data.micro_batch if is_counted else 1,
            max_tokens=1 if is_counted else data.unit_tokens,
        ),
        units_per_step=data.units_per_step,
        shards_per_block=data.shards_per_block,
        weights=weights,
        tail=data.tail,
        alike=data.alike,
        mergeable=_list_mergeable(data),
    )


def _list_mergeable(data: DataConfig) -> tuple[frozenset[int], ...]:
    """Modalities whose examples have features of one shape: all, unless pictures come with their crops."""
    code = {modality: number for number, modality in enumerate(MODALITIES)}
    if data.views == "whole":
        return (frozenset(code.values()),)
    return tuple(
        frozenset({number, code[Modality.TEXT]})
        for modality, number in code.items()
        if modality is not Modality.TEXT
    )
