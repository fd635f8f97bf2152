"""The training stream: for each optimizer step, this rank's micro-batches of examples with their features.

What comes when is planned (`pipelines.stream.order`) over the examples that have features, so the state is
(epoch, step), with the digests of what the plan was made from. The position is that of the steps handed out:
what threads have read ahead is read again after a resume. A run may go on with another number of ranks or
threads and sees the same steps.

A shard that cannot be read stops the run and prints the line that leaves it out; nothing is skipped silently.

Costs: the catalog (17 bytes an example), the texts of two blocks, and the decoded features of the steps read
ahead (1.2 MB a view of 576 x 1024). Features are decoded to fp16 on the CPU, and an item that two examples
of a step share is read twice.
"""

import difflib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from infra.storage import Storage
from operators.batch import TrainingExample
from pipelines.stream.catalog import Catalog, load_catalog
from pipelines.stream.conversations import Conversations, parse_turns
from pipelines.stream.order import EpochPlan, OrderConfig, Unit
from pipelines.stream.reader import FeatureReader
from schemas.corpus import Manifest
from schemas.digest import digest_of
from schemas.errors import ConfigError, CorruptError, MismatchError
from schemas.record import Modality
from schemas.training import DataConfig

SHARDS_PER_BLOCK: Final = 32
ORDER_VERSION: Final = 1
"""Rises with every change of the order."""

MicroBatch = list[TrainingExample]
"""Empty where a step has no unit for this rank: it takes part in the step with weight 0."""


class FeatureStream:
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
        num_epochs: int | None = None,
        num_threads: int = 0,
        unwritable: Sequence[int] = (),
    ) -> None:
        """Plan the first epoch.

        Args:
            storage: the corpus.
            manifest: of the corpus; the order is planned over it.
            spec: short digest of the feature spec.
            data: sources with their weights, batch sizes, views, frames, excluded shards.
            seed: of the order.
            rank: which of the ranks this is, from 0.
            world_size: number of ranks.
            num_epochs: after so many the stream ends; None: never.
            num_threads: steps that are read ahead, one thread each; 0 reads when asked.
            unwritable: examples to be left out, as `pipelines.stream.prompts` finds them.

        Raises:
            ConfigError: for unknown sources or shards, or when no example is left.
            NotFoundError: when features are missing.
        """
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is none of {world_size} ranks")
        weights = scale_weights([source.name for source in manifest.sources], data.sources)
        used = frozenset(name for name, weight in weights.items() if weight > 0)
        self.reader = FeatureReader(storage, manifest, spec)
        self.catalog: Catalog = load_catalog(storage, manifest, spec, used, data.exclude, unwritable)
        self._order = OrderConfig(
            seed=seed,
            micro_batch=data.micro_batch,
            units_per_step=data.batch // data.micro_batch,
            shards_per_block=SHARDS_PER_BLOCK,
            weights=tuple(weights.values()),
        )
        self._texts = Conversations(storage, manifest.examples, self.catalog, 2 * SHARDS_PER_BLOCK)
        self._data = data
        self._rank, self._world_size = rank, world_size
        self._num_epochs = num_epochs
        self._num_threads = num_threads
        self._digests = {
            "manifest_digest": manifest.digest,
            "config_digest": _digest_order(spec, seed, data, unwritable),
        }
        self._epoch = self._step = 0

    def num_steps(self, epoch: int) -> int:
        """Steps of an epoch; with weights below 1 epochs differ by a few."""
        return EpochPlan(self.catalog.table, self._order, epoch).num_steps

    def state_dict(self) -> dict[str, int | str]:
        """Where the next step stands, and what the order was planned from."""
        return {"epoch": self._epoch, "step": self._step, **self._digests}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a state, with any number of ranks and threads.

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
                "data settings (sources, batch, frames, exclude, seed, views, spec) that the run began with"
            )
        epoch, step = state.get("epoch"), state.get("step")
        if not isinstance(epoch, int) or not isinstance(step, int) or min(epoch, step) < 0:
            raise MismatchError(f"the stream cannot go on from epoch {epoch!r}, step {step!r}")
        self._epoch, self._step = epoch, step

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        """Steps from the position on; every rank yields as many, of as many micro-batches.

        Raises:
            CorruptError: naming the shard, and the line that leaves it out.
        """
        planned = self._plan_steps(self._epoch, self._step)
        steps = self._load_ahead(planned) if self._num_threads else self._load_each(planned)
        for epoch, step, batches in steps:
            self._epoch, self._step = epoch, step + 1
            yield batches

    def _plan_steps(self, epoch: int, step: int) -> Iterator[tuple[int, int, list[Unit]]]:
        while self._num_epochs is None or epoch < self._num_epochs:
            plan = EpochPlan(self.catalog.table, self._order, epoch)
            for index in range(step, plan.num_steps):
                yield epoch, index, plan.step_units(index)
            epoch, step = epoch + 1, 0

    def _load_each(
        self, planned: Iterator[tuple[int, int, list[Unit]]]
    ) -> Iterator[tuple[int, int, list[MicroBatch]]]:
        for epoch, step, units in planned:
            yield epoch, step, self._load_step(units)

    def _load_ahead(
        self, planned: Iterator[tuple[int, int, list[Unit]]]
    ) -> Iterator[tuple[int, int, list[MicroBatch]]]:
        waiting: deque[tuple[int, int, Future[list[MicroBatch]]]] = deque()
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="stream")
        try:
            for epoch, step, units in planned:
                waiting.append((epoch, step, pool.submit(self._load_step, units)))
                if len(waiting) > self._num_threads:
                    yield _take(waiting)
            while waiting:
                yield _take(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load_step(self, units: list[Unit]) -> list[MicroBatch]:
        mine = units[self._rank :: self._world_size]
        batches = [[self._load_example(int(row)) for row in unit.rows] for unit in mine]
        num_rounds = -(-len(units) // self._world_size)
        return batches + [[] for _ in range(num_rounds - len(batches))]

    def _load_example(self, row: int) -> TrainingExample:
        text = self._texts.read(row)
        shard = self.catalog.shards[self.catalog.shard_of(row)]
        turns = parse_turns(text)
        if shard.modality is Modality.TEXT:
            return TrainingExample(text.example_id, text.source, turns, ())
        try:
            media = self.reader.read_item(
                text.item_key, shard=shard.name, views=self._data.views, frames=self._data.frames
            )
        except CorruptError as error:
            excluded = ", ".join([*self._data.exclude, shard.name])
            raise CorruptError(
                f"{error}\nRestore the shard or build it again, and resume. Or go on without it: start a run "
                "with another `out`, `model.start_from` naming the last checkpoint, and under `data`:\n"
                f"  exclude: [{excluded}]"
            ) from error
        return TrainingExample(text.example_id, text.source, turns, media)


def scale_weights(names: list[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Passes an epoch of every source: the largest weight is 1, sources without one are left out.

    Raises:
        ConfigError: for a weight of an unknown source.
    """
    if weights is None:
        return dict.fromkeys(names, 1.0)
    for name in weights:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"
            raise ConfigError(f"data.sources: the corpus has no source {name!r}; {hint}")
    largest = max(weights.values())
    return {name: weights.get(name, 0.0) / largest for name in names}


def _digest_order(spec: str, seed: int, data: DataConfig, unwritable: Sequence[int]) -> str:
    """Digest of all but the manifest that decides the order and what is read."""
    settings = data.model_dump(mode="json")
    return digest_of([ORDER_VERSION, SHARDS_PER_BLOCK, spec, seed, settings, sorted(unwritable)])


def _take(
    waiting: deque[tuple[int, int, Future[list[MicroBatch]]]],
) -> tuple[int, int, list[MicroBatch]]:
    epoch, step, future = waiting.popleft()
    return epoch, step, future.result()
