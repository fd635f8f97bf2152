"""Greedy answers to the last questions of examples, as text."""

from collections.abc import Sequence

from operators.batch import TrainingExample
from operators.collate import collate_questions
from pipelines.train.assembly import Assembly
from pipelines.train.context import check_room
from pipelines.train.generation import generate_tokens
from pipelines.train.precision import computing, dtype_of
from schemas.training import RunConfig


def answer(
    assembly: Assembly, examples: Sequence[TrainingExample], max_new_tokens: int, run: RunConfig
) -> list[str]:
    """The answer to each example's last question, in one batch; an answer that follows it is not shown.

    Examples of one batch must have the same number of views; what is in a batch does not change an answer's
    text but for rounding.

    Raises:
        SampleError: an example cannot be written.
        MismatchError: features of the examples differ in shape.
        ConfigError: an example and its answer are longer than what the language model reads.
    """
    model = assembly.model
    device = model.token_embeddings.weight.device
    batch = collate_questions(examples, assembly.prompter).to(device, frames_stay=True)
    check_room(model, batch, max_new_tokens)
    with computing(device, dtype_of(run)):
        answers = generate_tokens(model, batch, max_new_tokens, assembly.prompter.stop_ids)
    return [assembly.tokenizer.decode(tokens).strip() for tokens in answers]
