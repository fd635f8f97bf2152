"""Rows of the catalog to training examples: what they say joined with the features of their item."""

from collections.abc import Sequence

from operators.batch import TrainingExample
from pipelines.stream.catalog import Catalog
from pipelines.stream.columns import ExampleText
from pipelines.stream.conversations import Conversations
from pipelines.stream.reader import FeatureReader
from pipelines.stream.transport import MicroBatch
from pipelines.stream.turns import parse_turns
from pipelines.stream.units import Unit
from schemas.errors import CorruptError
from schemas.record import Modality
from schemas.stream import DataConfig


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
        return [] if unit is None else [self.load_example(int(row)) for row in unit.rows]

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
        shard = self._catalog.shards[self._catalog.shard_of(row)]
        turns = parse_turns(text)
        if shard.modality is Modality.TEXT:
            return TrainingExample(text.example_id, text.source, turns, ())
        try:
            media = self.reader.read_features(
                text.item_key, shard.name, views=self._data.views, frames=self._data.frames
            )
        except CorruptError as error:
            excluded = ", ".join([*self._data.exclude, shard.name])
            raise CorruptError(
                f"{error}\nRestore the shard or build it again, and resume. Or go on without it: start a run "
                "with another `out`, `model.start_from` naming the last checkpoint, and under `data`:\n"
                f"  exclude: [{excluded}]"
            ) from error
        return TrainingExample(text.example_id, text.source, turns, media)
