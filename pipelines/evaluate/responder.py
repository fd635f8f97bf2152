"""A checkpoint that answers questions about media that are in no cache: one at a time, or in small batches.

What benchmarks need of a model: greedy answers, and how likely a given answer is. Media are encoded as the
checkpoint's features were, so that an answer is that of `onetoken generate`. Features of the last batch are
kept: questions that follow each other about one medium encode it once. Leaves out sampling and beams.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import torch
from torch import Tensor

from operators.batch import MediumFeatures, TrainingExample
from operators.collate import collate_training
from operators.prompt import count_placeholders
from pipelines.featurize.single import MediumEncoder
from pipelines.stream.single_medium import look_at
from pipelines.train.answer import answer
from pipelines.train.assembly import restore
from pipelines.train.checkpoint import Checkpoint
from pipelines.train.context import check_room
from pipelines.train.precision import choose_device, computing, dtype_of
from schemas.errors import SampleError
from schemas.record import MediumKind, Turn


@dataclass(frozen=True, slots=True)
class AskedMedium:
    """A picture or clip by its encoded bytes."""

    kind: MediumKind
    data: bytes = field(repr=False)
    name: str = field(default="", compare=False)
    """What an error calls it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and what it is about; its media stand first where the text has no place for them."""

    text: str
    media: tuple[AskedMedium, ...] = ()

    @property
    def prompt(self) -> str:
        """The text, with a place for each medium."""
        if not self.media or count_placeholders([Turn("human", self.text)]):
            return self.text
        places = "\n".join(medium.kind.placeholder for medium in self.media)
        return f"{places}\n{self.text}"


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How a model takes an answer that it is told."""

    loss: float
    """Mean over the answer's tokens, the one that ends a turn left out."""
    is_greedy: bool
    """Whether it would have said just this."""


class Responder:
    """A restored checkpoint with its encoder."""

    def __init__(self, checkpoint: Checkpoint, encoder: str | None = None) -> None:
        """Open both; `encoder` says where it is now, if it moved.

        Raises:
            MismatchError: this machine would make other features than the checkpoint was trained on.
            NotFoundError: there is no encoder.
        """
        identity, self._config = checkpoint.state.identity, checkpoint.config
        self._eyes = MediumEncoder(identity.spec, encoder or identity.encoder)
        self._assembly = restore(checkpoint, to_train=False)
        self._assembly.model.to(choose_device(self._config.run)).eval()
        self._seen: dict[AskedMedium, MediumFeatures] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._assembly.model.token_embeddings.weight.device

    def answer(
        self, asked: Sequence[Asked], max_new_tokens: int, until: Sequence[str] = (), batch_size: int = 1
    ) -> list[str]:
        """The greedy answers, each up to the first of the texts that end it.

        Raises:
            SampleError: a medium does not decode, or a question's places are not those of its media.
            ConfigError: a question and its answer are longer than what the language model reads.
        """
        texts: list[str] = []
        for start in range(0, len(asked), batch_size):
            examples = self._make_examples(asked[start : start + batch_size])
            for _, alike in groupby(examples, key=_count_views):
                found = answer(self._assembly, list(alike), max_new_tokens, self._config.run)
                texts += [cut_off(text, until) for text in found]
        return texts

    def weigh(self, asked: Asked, text: str) -> Likelihood:
        """How likely an answer is.

        Raises:
            SampleError, ConfigError: as of `answer`.
        """
        model, prompter = self._assembly.model, self._assembly.prompter
        batch = collate_training(self._make_examples([asked], text), prompter).to(self.device)
        check_room(model, batch)
        with torch.inference_mode(), computing(self.device, dtype_of(self._config.run)):
            rows, layout = model.splice(batch)
            states: Tensor = model.llm.base_model(inputs_embeds=rows, use_cache=False).last_hidden_state
            logits = cast(Tensor, model.head(states.flatten(0, 1)[layout.label_rows])).float()
        targets = layout.label_targets
        is_text = ~torch.isin(targets, torch.tensor(sorted(prompter.stop_ids), device=targets.device))
        targets, logits = targets[is_text], logits[is_text]
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return Likelihood(float(losses.mean()), bool((logits.argmax(dim=1) == targets).all()))

    def _make_examples(self, asked: Sequence[Asked], text: str | None = None) -> list[TrainingExample]:
        """Of one batch, each with the same answer."""
        wanted = dict.fromkeys(medium for one in asked for medium in one.media)
        self._seen = {medium: self._seen.get(medium) or self._look_at(medium) for medium in wanted}
        answers = () if text is None else (Turn("gpt", text),)
        return [
            TrainingExample(
                "question",
                "asked",
                (Turn("human", one.prompt), *answers),
                tuple(self._seen[medium] for medium in one.media),
            )
            for one in asked
        ]

    def _look_at(self, medium: AskedMedium) -> MediumFeatures:
        try:
            return look_at(self._eyes, medium.data, medium.kind, self._config)
        except SampleError as error:
            if not medium.name:
                raise
            raise SampleError(error.code, f"{medium.name}: {error.message}") from error


def cut_off(text: str, until: Sequence[str]) -> str:
    """A text up to the first of others in it."""
    ends = [text.index(end) for end in until if end and end in text]
    return text[: min(ends)].strip() if ends else text


def _count_views(example: TrainingExample) -> int:
    """Of a frame; 0 without media: what may not differ within a batch."""
    return example.media[0].patches.shape[1] if example.media else 0
