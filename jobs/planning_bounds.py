"""What the examples of a run hold at most, and where that is known from: the corpus, or an assumption.

A corpus that has been ingested tells pictures and frames; it tells texts, too, once their tokens were counted
(`onetoken lengths`, or a first run). What is not known is bounded from above and said to be assumed, so that
a plan never promises more than it knows.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.training_data import TrainingData
from pipelines.engine import SerialEngine
from schemas.errors import PipelineError
from schemas.recipe import VideoViews
from schemas.stream import FramesConfig
from schemas.training import TrainConfig

if TYPE_CHECKING:
    from pipelines.stream.extremes import Extremes, TextExtremes
    from pipelines.stream.lengths import Lengths
    from pipelines.train.largest import ExampleBounds


@dataclass(frozen=True, slots=True)
class Known:
    """Bounds, and what is said of them."""

    bounds: "ExampleBounds"
    counted: tuple[str, ...]
    """Read from the corpus."""
    assumed: tuple[str, ...]


class Bounder:
    """Bounds of configurations over one corpus or none, which is looked at once for each choice of frames."""

    def __init__(self, data: TrainingData | None, num_tokens: int | None = None) -> None:
        """`num_tokens` are those of a usual text, planned for instead of the longest."""
        self._data, self._num_tokens = data, num_tokens
        self._seen: dict[tuple[FramesConfig, int], Extremes] = {}

    def bound(self, config: TrainConfig) -> Known:
        """The bounds under a configuration.

        Raises:
            ConfigError: `data.sources` names one that the corpus has not.
            CorruptError: a table of the corpus is not as it was written.
        """
        from pipelines.train.largest import ExampleBounds

        said = _Said([], [])
        extremes = None if self._data is None else self._look(config, self._data)
        pictures, frames = _bound_media(config, extremes, said)
        text = self._bound_text(config, extremes, said)
        bounds = ExampleBounds(
            pictures=pictures,
            frames=frames,
            text=text.longest,
            shortest=text.shortest,
            instruction=text.instruction,
            answer=text.answer,
        )
        return Known(bounds, tuple(said.counted), tuple(said.assumed))

    def _bound_text(self, config: TrainConfig, extremes: "Extremes | None", said: "_Said") -> "TextExtremes":
        from pipelines.stream.extremes import TextExtremes
        from pipelines.train.largest import SHORTEST_TEXT

        most, usual = config.data.max_tokens, self._num_tokens
        if usual is not None:
            said.assumed.append(f"texts of {usual} tokens, as asked for, half of them learned")
            half = usual // 2
            return TextExtremes(longest=usual, shortest=usual, instruction=usual - half, answer=half)
        if extremes is not None and extremes.text is not None:
            text = extremes.text
            said.counted.append(
                f"texts of {text.shortest} to {text.longest} tokens: up to {text.instruction} of "
                f"instruction, up to {text.answer} of answer"
            )
            return text
        said.assumed.append(f"texts of up to {most} tokens, as `data.max_tokens` says, question or answer")
        shortest = min(SHORTEST_TEXT, most)
        if config.data.unit != "count":
            said.assumed.append(f"no text of fewer than {shortest} tokens")
        return TextExtremes(longest=most, shortest=shortest, instruction=most - 1, answer=most - 1)

    def _look(self, config: TrainConfig, data: TrainingData) -> "Extremes":
        from pipelines.stream.extremes import find_extremes

        choice = (config.data.frames, config.data.max_tokens)
        if choice not in self._seen:
            lengths = _find_lengths(config, data)
            self._seen[choice] = find_extremes(data.storage, data.manifest, data.spec, config.data, lengths)
        return self._seen[choice]


@dataclass(frozen=True, slots=True)
class _Said:
    counted: list[str]
    assumed: list[str]


def _bound_media(config: TrainConfig, extremes: "Extremes | None", said: _Said) -> tuple[int, int]:
    """Pictures of an example, and frames of one with clips."""
    if extremes is not None:
        # Stage 1 describes one medium at a time.
        pictures = min(extremes.pictures, 1) if config.stage == 1 else extremes.pictures
        said.counted.append(f"up to {pictures} pictures an example, or {extremes.frames} frames with clips")
        return pictures, extremes.frames
    stated = config.data.frames.uniform or config.data.frames.max
    if stated is None and config.stage == 1:
        said.assumed.append("one picture an example, no clips: no corpus yet")
        return 1, 0
    most = stated or VideoViews().max_frames
    origin = "as `data.frames` says" if stated else "as many as recipes take; `data.frames` would bound them"
    said.assumed.append(f"one picture or clip an example, clips of {most} frames, {origin}: no corpus yet")
    return 1, most


def _find_lengths(config: TrainConfig, data: TrainingData) -> "Lengths | None":
    """Token counts, where all were made for this tokenizer and template: planning counts nothing itself."""
    from pipelines.stream.lengths import count_lengths, list_uncounted
    from pipelines.train.assembly import load_prompter

    examples = data.manifest.examples
    if not data.storage.list("lengths"):
        return None
    try:
        _, prompter = load_prompter(config)
    except PipelineError:
        return None
    if list_uncounted(data.storage, examples, prompter):
        return None
    return count_lengths(data.storage, examples, prompter, SerialEngine())
