"""`onetoken generate`: a trained checkpoint answers a question, about a picture, a clip or neither."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.console import print_result
from jobs.options import JsonOption, ReducerOption, read_reducer
from schemas.errors import ConfigError, SampleError
from schemas.record import MediumKind, Turn
from schemas.reducer import ReducerConfig

MAX_NEW_TOKENS = 128


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("generate", help="Answer a question, about a picture or clip if you give one.")(
        generate_command
    )


def generate_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder.", show_default=False)
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    image: Annotated[Path | None, typer.Option("--image", metavar="FILE", help="A picture.")] = None,
    video: Annotated[Path | None, typer.Option("--video", metavar="FILE", help="A clip.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="NAME",
            help="Where the encoder is now, if it moved since; its weights must be the same.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, max=4096)
    ] = MAX_NEW_TOKENS,
    reducer: ReducerOption = None,
    as_json: JsonOption = False,
) -> None:
    """See the help in the registration."""
    medium, chosen = choose_medium(image, video), read_reducer(reducer)
    if medium is None and encoder is not None:
        raise ConfigError("--encoder goes with --image or --video; without a medium no encoder is loaded")
    text = answer_question(checkpoint, medium, question, encoder, max_new_tokens, chosen)
    print_result([text], as_json, {"question": question, "answer": text})


def choose_medium(image: Path | None, video: Path | None) -> tuple[MediumKind, Path] | None:
    """The medium that the question is about; None where it is about none.

    Raises:
        ConfigError: when two are given, or the file is not there.
    """
    given = [(MediumKind.IMAGE, image), (MediumKind.VIDEO, video)]
    media = [(kind, path) for kind, path in given if path is not None]
    if len(media) > 1:
        raise ConfigError("give either --image FILE or --video FILE, or neither to ask about nothing seen")
    for _, path in media:
        if not path.is_file():
            raise ConfigError(f"no file {path}")
    return media[0] if media else None


def answer_question(
    checkpoint: Path,
    medium: tuple[MediumKind, Path] | None,
    question: str,
    encoder: str | None,
    max_new_tokens: int,
    reducer: ReducerConfig | None = None,
) -> str:
    """Encode the medium as the checkpoint's features were, and let the model answer.

    Without a medium no encoder is loaded, and compressor and pre-fusion are passed by.

    Raises:
        ConfigError: when nothing is asked, or more than the language model reads.
        MismatchError: when this machine would make other features.
        SampleError: when the medium does not decode, or stage 1 is asked about none.
    """
    from operators.batch import TrainingExample
    from pipelines.featurize.single import MediumEncoder
    from pipelines.stream.single_medium import look_at
    from pipelines.train.answer import answer
    from pipelines.train.assembly import restore
    from pipelines.train.checkpoint import open_checkpoint
    from pipelines.train.precision import choose_device
    from pipelines.train.untrained import with_reducer

    if not question.strip():
        raise ConfigError("the question is empty; ask something")
    opened = with_reducer(open_checkpoint(checkpoint), reducer)
    identity, run = opened.state.identity, opened.config.run
    assembly = restore(opened, to_train=False)
    assembly.model.to(choose_device(run))
    if medium is None:
        example = TrainingExample("question", "no medium", (Turn("human", question),), ())
        return answer(assembly, [example], max_new_tokens, run)[0]
    kind, path = medium
    medium_encoder = MediumEncoder(identity.spec, encoder or identity.encoder)
    try:
        features = look_at(medium_encoder, path.read_bytes(), kind, opened.config)
    except SampleError as error:
        raise SampleError(error.code, f"{path}: {error.message}") from error
    turn = Turn("human", f"{kind.placeholder}\n{question}")
    example = TrainingExample("question", str(path), (turn,), (features,))
    return answer(assembly, [example], max_new_tokens, run)[0]
