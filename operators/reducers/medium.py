"""A reducer for media as they are read: with the attention weights that it may need, frame by frame."""

from dataclasses import dataclass

from operators.batch import MediumFeatures
from operators.class_attention import AttentionWeights
from operators.reducers.frames import reduce_frames
from operators.reducers.interface import Reducer


@dataclass(frozen=True, slots=True)
class MediumReducer:
    """What takes the place of a medium's patches."""

    reducer: Reducer
    weights: AttentionWeights | None = None
    """Of the features' spec, for reducers that need a focus."""

    def reduce(self, medium: MediumFeatures) -> MediumFeatures:
        """The tokens of all views of a frame as one view, zeros behind them up to the longest frame.

        Raises:
            ConfigError: the reducer cannot reduce such views.
            MismatchError: it needs class rows and weights, and one of them is missing; or the features are
                reduced already.
        """
        medium.check_whole()
        reduced = reduce_frames(self.reducer, medium.patches, medium.class_rows, self.weights)
        return MediumFeatures(reduced.tokens[:, None], counts=reduced.counts)
