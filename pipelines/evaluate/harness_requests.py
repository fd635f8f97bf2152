"""Requests of lmms-eval, the public benchmark harness, answered by a `Responder`.

A request's arguments are tuples whose parts stand in fixed places; what a question shows comes from a
function of the task's document: PIL pictures, or paths of clips. All of that is read here, so that the class
which the harness loads (`jobs/harness_model.py`) holds nothing that needs the harness to be tested.

Where the harness contradicts itself, its scorer is followed: the docstring of `loglikelihood` asks for a
log-probability, while its multiple choice takes the answer of the least value, the loss that its own models
give. So the mean loss is given.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, cast, runtime_checkable

from PIL import Image

from operators.sniff import sniff_format
from pipelines.evaluate.responder import Asked, AskedMedium, Responder
from schemas.errors import ConfigError
from schemas.record import MediumKind

MAX_NEW_TOKENS: Final = 1024
"""Where a task does not say; what the harness's own models take."""
Documents = Mapping[str, Mapping[str, Any]]
"""Of tasks and their splits."""


@runtime_checkable
class Request(Protocol):
    """What is used of the harness's `Instance`."""

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments, by their places."""
        ...


class Generating(NamedTuple):
    """How an answer is made."""

    max_new_tokens: int
    until: tuple[str, ...]


def answer_requests(
    responder: Responder, requests: Sequence[Request], documents: Documents, batch_size: int = 1
) -> list[str]:
    """The answers of `generate_until`, in the order of the requests.

    Raises:
        ConfigError: a task asks for sampling or beams, or shows what is no picture or clip.
        SampleError: a medium does not decode.
    """
    settings = [read_generating(request.args[1]) for request in requests]
    texts: list[str] = []
    start = 0
    while start < len(requests):
        end = start + 1
        while end < len(requests) and end - start < batch_size and settings[end] == settings[start]:
            end += 1
        asked: list[Asked] = []
        for request in requests[start:end]:
            context, _, show, number, task, split = request.args
            asked.append(ask(context, show(documents[task][split][number])))
        texts += responder.answer(asked, *settings[start], batch_size=batch_size)
        start = end
    return texts


def answer_rounds(responder: Responder, request: Request, documents: Documents) -> list[str]:
    """The answers of one request of `generate_until_multi_round`, round after round until the task ends it.

    Raises:
        ConfigError: as of `answer_requests`.
        SampleError: a medium does not decode.
    """
    context, generating, show, ask_again, number, task, split = request.args
    document = documents[task][split][number]
    settings = read_generating(generating)
    visuals, answers, info, num_rounds = show(document), list[str](), None, 0
    while True:
        answers += responder.answer([ask(context, visuals)], *settings)
        num_rounds += 1
        visuals, context, is_over, told, info = cast("Callable[..., tuple[Any, ...]]", ask_again)(
            document, previous_output=answers, round_idx=num_rounds, previous_round_info=info
        )
        answers = list(told)
        if is_over:
            return answers


def weigh_request(responder: Responder, request: Request, documents: Documents) -> tuple[float, bool]:
    """The mean loss of a continuation, and whether it is what would be said.

    Raises:
        ConfigError: as of `answer_requests`.
        SampleError: a medium does not decode.
    """
    context, target, show, number, task, split = request.args
    document = documents[task][split][number]
    text = target if isinstance(target, str) else str(target(document))
    found = responder.weigh(ask(context, show(document)), text.strip())
    return found.loss, found.is_greedy


def read_generating(settings: Mapping[str, Any]) -> Generating:
    """A task's settings.

    Raises:
        ConfigError: it wants answers that are not greedy.
    """
    samples = settings.get("do_sample") or (settings.get("temperature") or 0) > 0
    if samples and settings.get("do_sample") is not False:
        raise ConfigError("the task samples its answers; add `--gen_kwargs do_sample=False,temperature=0`")
    if (settings.get("num_beams") or 1) > 1:
        raise ConfigError("the task searches with beams; add `--gen_kwargs num_beams=1`")
    until: object = settings.get("until") or ()
    ends = (until,) if isinstance(until, str) else tuple(cast("Sequence[str]", until))
    return Generating(int(settings.get("max_new_tokens") or MAX_NEW_TOKENS), ends)


def ask(context: str, visuals: Sequence[object] | None) -> Asked:
    """A question about what a document shows.

    Raises:
        ConfigError: that is no picture, and no path of a picture or clip.
    """
    return Asked(context, tuple(map(read_visual, visuals or ())))


def read_visual(visual: object) -> AskedMedium:
    """A PIL picture, pixel by pixel as a PNG; or a file of a picture or clip.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(visual, Image.Image):
        file = io.BytesIO()
        visual.convert("RGB").save(file, "PNG")
        return AskedMedium(MediumKind.IMAGE, file.getvalue())
    if isinstance(visual, str) and Path(visual).is_file():
        data = Path(visual).read_bytes()
        found = sniff_format(data)
        if found is not None:
            return AskedMedium(found.kind, data)
    raise ConfigError(
        f"a task shows {str(visual)[:80]} ({type(visual).__name__}): no picture, no file of media"
    )
