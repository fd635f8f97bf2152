"""Rows of the catalog to training examples: what they say joined with the features of their item."""

from collections.abc import Sequence

from operators.batch import MediumFeatures, TrainingExample
from operators.stored import StoredFeatures
from pipelines.stream.catalog import Catalog
from pipelines.stream.columns import ExampleText
from pipelines.stream.conversations import Conversations
from pipelines.stream.reader import FeatureReader
from pipelines.stream.transport import MicroBatch
from pipelines.stream.turns import parse_turns
from pipelines.stream.units import Unit
from schemas.errors import CorruptError
from schemas.plan import Leaf
from schemas.record import Modality
from schemas.stream import DataConfig

Media = tuple[MediumFeatures | StoredFeatures, ...]


class ExampleLoader:
    """Reads examples; safe to share between threads."""

    def __init__(
        self, catalog: Catalog, texts: Conversations, reader: FeatureReader, data: DataConfig
    ) -> None:
        self._catalog = catalog
        self._texts = texts
        self.reader = reader
        self._data = data

    def load_unit(self, unit: Unit | None) -> MicroBatch:
        """The examples of a unit; none of none.

        Raises:
            CorruptError: naming the shard, and the line that leaves it out.
        """
        rows: list[int] = [] if unit is None else unit.rows.tolist()
        texts = [self._texts.read(row) for row in rows]
        try:
            media = self._read_media(rows, texts)
        except CorruptError:  # read alone, each tells whether it is the one
            media = [self._read_alone(row, text) for row, text in zip(rows, texts, strict=True)]
        return [
            TrainingExample(text.example_id, text.source, parse_turns(text), own)
            for text, own in zip(texts, media, strict=True)
        ]

    def load_units(self, units: Sequence[Unit | None]) -> list[MicroBatch]:
        """Several units, one after the other."""
        return [self.load_unit(unit) for unit in units]

    def read_text(self, row: int) -> ExampleText:
        """What an example says, and about which item.

        Raises:
            CorruptError: when the table of examples is not as it was written.
        """
        return self._texts.read(row)

    def load_example(self, row: int) -> TrainingExample:
        """One example.

        Raises:
            CorruptError: naming the shard, and the line that leaves it out.
        """
        text = self._texts.read(row)
        return TrainingExample(text.example_id, text.source, parse_turns(text), self._read_alone(row, text))

    def _read_alone(self, row: int, text: ExampleText) -> Media:
        try:
            return self._read_media([row], [text])[0]
        except CorruptError as error:
            excluded = ", ".join([*self._data.exclude, self._find_shard(row).name])
            raise CorruptError(
                f"{error}\nRestore the shard or build it again, and resume. Or go on without it: start a run "
                "with another `out`, `model.start_from` naming the last checkpoint, and under `data`:\n"
                f"  exclude: [{excluded}]"
            ) from error

    def _read_media(self, rows: Sequence[int], texts: Sequence[ExampleText]) -> list[Media]:
        """The features of examples, neighbors in one go; none of those that are text only."""
        shards = [self._find_shard(row) for row in rows]
        wanted = [
            (shard.name, text.item_key)
            for shard, text in zip(shards, texts, strict=True)
            if shard.modality is not Modality.TEXT
        ]
        read = iter(self.reader.read_features(wanted, views=self._data.views, frames=self._data.frames))
        return [() if shard.modality is Modality.TEXT else next(read) for shard in shards]

    def _find_shard(self, row: int) -> Leaf:
        return self._catalog.shards[self._catalog.shard_of(row)]
