"""lmms-eval's requests: read and answered here; by its own classes where it is installed."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from small_job import QUESTION, run_onetoken

from operators.batch import IGNORED_LABEL
from operators.collate import collate_training
from pipelines.evaluate.harness_requests import (
    Generating,
    answer_requests,
    answer_rounds,
    ask,
    read_generating,
    read_visual,
    weigh_request,
)
from pipelines.evaluate.responder import Asked, AskedMedium, Responder, cut_off
from pipelines.stream.single_medium import look_at
from pipelines.train.checkpoint import open_checkpoint
from schemas.errors import ConfigError, SampleError
from schemas.record import MediumKind, Turn

TASK, SPLIT = "colors", "test"
GREEDY = {"max_new_tokens": 6, "temperature": 0, "do_sample": False}


@pytest.fixture(scope="module")
def responder(small_job, outcomes) -> Responder:
    return Responder(open_checkpoint(small_job.out(2)))


@pytest.fixture(scope="module")
def documents(small_job) -> dict[str, dict[str, list[dict[str, object]]]]:
    """Two pictures, a clip, and one without anything to see."""
    media = small_job.folder / "media"
    shown = [[Image.open(media / "0.png")], [Image.open(media / "1.png")], [str(media / "v_red.mp4")], []]
    return {TASK: {SPLIT: [{"shows": one} for one in shown]}}


def show(document):
    return document["shows"]


def request(*parts: object) -> SimpleNamespace:
    return SimpleNamespace(args=(*parts, TASK, SPLIT))


def generate(small_job, *medium: object) -> str:
    outcome = run_onetoken("generate", small_job.out(2), *medium, QUESTION, "--max-new-tokens", 6, "--json")
    assert outcome.status == 0, outcome.err
    return outcome.values["answer"]


def test_answers_are_those_of_generate(small_job, responder, documents) -> None:
    asked = [request(QUESTION, dict(GREEDY), show, number) for number in range(4)]
    one_by_one = answer_requests(responder, asked, documents)
    media = small_job.folder / "media"
    assert one_by_one[:3] == [
        generate(small_job, "--image", media / "0.png"),
        generate(small_job, "--image", media / "1.png"),
        generate(small_job, "--video", media / "v_red.mp4"),
    ]
    assert answer_requests(responder, asked, documents, batch_size=4) == one_by_one
    assert answer_requests(responder, asked[::-1], documents, batch_size=3) == one_by_one[::-1]


def test_settings_of_a_task_hold_for_its_requests(responder, documents) -> None:
    lengths = [{"max_new_tokens": number, "do_sample": False} for number in (6, 6, 1)]
    asked = [request(QUESTION, settings, show, 0) for settings in lengths]
    long, again, short = answer_requests(responder, asked, documents, batch_size=3)
    assert long == again
    assert long.startswith(short)
    (cut,) = answer_requests(
        responder, [request(QUESTION, GREEDY | {"until": long[-1:]}, show, 0)], documents
    )
    assert cut == long[: long.index(long[-1:])].strip()


def test_rounds_go_on_until_the_task_ends_them(responder, documents) -> None:
    rounds: list[tuple[int, list[str], object]] = []

    def ask_again(document, previous_output, round_idx, previous_round_info):
        rounds.append((round_idx, list(previous_output), previous_round_info))
        return show(document), f"{QUESTION} Again?", round_idx == 3, previous_output, round_idx

    found = answer_rounds(responder, request(QUESTION, dict(GREEDY), show, ask_again, 0), documents)
    first = responder.answer([ask(QUESTION, show(documents[TASK][SPLIT][0]))], 6)
    later = responder.answer([ask(f"{QUESTION} Again?", show(documents[TASK][SPLIT][0]))], 6)
    assert found == [*first, *later, *later]
    assert [number for number, _, _ in rounds] == [1, 2, 3]
    assert [outputs for _, outputs, _ in rounds] == [found[:1], found[:2], found]
    assert [info for _, _, info in rounds] == [None, 1, 2]


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_loss_is_that_of_training_without_the_end(responder, documents, number: int) -> None:
    """The summed loss of the product's own forward pass, less the token that ends the turn."""
    loss, is_greedy = weigh_request(responder, request(QUESTION, "red", show, number), documents)
    assembly = responder._assembly
    (example,) = responder._make_examples([ask(QUESTION, show(documents[TASK][SPLIT][number]))], "red")
    batch = collate_training([example], assembly.prompter)
    with torch.inference_mode():
        rows, layout = assembly.model.splice(batch)
        logits = assembly.model.llm(inputs_embeds=rows).logits[0]
        whole = assembly.model(batch)
    targets = layout.label_targets.tolist()
    steps = layout.label_rows.tolist()
    losses = [-float(logits[step].log_softmax(0)[token]) for step, token in zip(steps, targets, strict=True)]
    assert sum(losses) == pytest.approx(float(whole.total), rel=1e-4)
    assert targets[-1] in assembly.prompter.stop_ids
    assert loss == pytest.approx(sum(losses[:-1]) / (len(losses) - 1), rel=1e-4)
    best = [int(logits[step].argmax()) for step in steps[:-1]]
    assert is_greedy == (best == targets[:-1])


def test_only_what_would_be_said_is_greedy(responder, documents, monkeypatch) -> None:
    """Of a head that says one answer whatever it reads."""
    assembly = responder._assembly
    written = assembly.prompter.write_training((Turn("human", QUESTION), Turn("gpt", "red")), 0)
    wanted = [label for label in written.labels if label != IGNORED_LABEL]

    def say_it(states: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(states.shape[0], assembly.model.token_embeddings.num_embeddings)
        for row, token in zip(range(states.shape[0]), wanted, strict=False):
            logits[row, token] = 1.0
        return logits

    monkeypatch.setattr(assembly.model.head, "forward", say_it)
    for text, expected in (("red", True), ("blue", False)):
        asked = request(QUESTION, lambda _, text=text: text, show, 0)
        assert weigh_request(responder, asked, documents)[1] is expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Generating(1024, ())),
        ({"max_new_tokens": 16, "until": "\n", "temperature": 0, "top_p": 1.0}, Generating(16, ("\n",))),
        ({"until": ["a", "b"], "num_beams": 1}, Generating(1024, ("a", "b"))),
        ({"temperature": 0.7, "do_sample": False}, Generating(1024, ())),
    ],
)
def test_settings_are_read(settings, expected: Generating) -> None:
    assert read_generating(settings) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.2}, "do_sample=False"),
        ({"do_sample": True}, "samples"),
        ({"num_beams": 3}, "beams"),
    ],
)
def test_what_is_not_greedy_is_refused(settings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_generating(settings)


def test_media_are_told_by_what_they_are(small_job, tmp_path: Path) -> None:
    media = small_job.folder / "media"
    assert read_visual(Image.open(media / "0.png").convert("CMYK")).kind is MediumKind.IMAGE
    assert read_visual(str(media / "0.png")).kind is MediumKind.IMAGE
    clip = read_visual(str(media / "v_red.mp4"))
    assert (clip.kind, clip.data) == (MediumKind.VIDEO, (media / "v_red.mp4").read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    for bad in (str(tmp_path / "notes.txt"), str(tmp_path / "nothing.mp4"), 3):
        with pytest.raises(ConfigError, match="no picture"):
            read_visual(bad)


def test_media_stand_where_the_question_has_them() -> None:
    picture = read_visual(Image.new("RGB", (40, 40)))
    assert Asked("What?").prompt == "What?"
    assert Asked("What?", (picture, picture)).prompt == "<image>\n<image>\nWhat?"
    assert Asked("In <image>, what?", (picture,)).prompt == "In <image>, what?"


def test_too_many_places_are_told(responder) -> None:
    with pytest.raises(SampleError):
        responder.answer([Asked("<image> or <image>?", (read_visual(Image.new("RGB", (40, 40))),))], 1)


def test_a_medium_is_encoded_once_for_questions_in_a_row(responder, monkeypatch) -> None:
    encoded: list[bytes] = []

    def count(eyes, data, *more):
        encoded.append(data)
        return look_at(eyes, data, *more)

    monkeypatch.setattr("pipelines.evaluate.responder.look_at", count)
    first, second = (read_visual(Image.new("RGB", (40, 40), color)) for color in ("red", "blue"))
    media = [first, first, second, first]
    asked = [Asked(f"{QUESTION} {number}", (medium,)) for number, medium in enumerate(media)]
    answers = responder.answer(asked, 2)
    assert encoded == [first.data, second.data, first.data]
    assert answers == [responder.answer([one], 2)[0] for one in asked]


def test_what_does_not_decode_is_named(responder) -> None:
    with pytest.raises(SampleError, match=r": 0/9\.png: "):
        responder.answer([Asked("?", (AskedMedium(MediumKind.IMAGE, b"no picture", "0/9.png"),))], 1)


def test_an_answer_ends_where_it_is_cut() -> None:
    assert cut_off("yes\nno. maybe", (".", "\n")) == "yes"
    assert cut_off("yes", ("",)) == "yes"


class TestWithTheHarness:
    """By its registry, its base class and its instances."""

    @pytest.fixture(autouse=True)
    def harness(self) -> None:
        pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: docs/benchmarks.md")

    def test_it_is_found_made_and_asked(self, small_job, outcomes, responder, documents) -> None:
        from lmms_eval.api.instance import Instance
        from lmms_eval.models import get_model

        model = get_model("onetoken").create_from_arg_string(
            f"checkpoint={small_job.out(2)}", {"batch_size": 2, "max_batch_size": None, "device": "cpu"}
        )
        model.task_dict = documents
        metadata = {"task": TASK, "doc_id": 0, "repeats": 1}
        asked = [
            Instance("generate_until", (QUESTION, dict(GREEDY), show, number, TASK, SPLIT), 0, metadata)
            for number in range(4)
        ]
        assert model.generate_until(asked) == answer_requests(responder, asked, documents)
        choice = Instance("loglikelihood", (QUESTION, " red", show, 0, TASK, SPLIT), 0, metadata)
        assert model.loglikelihood([choice]) == [
            weigh_request(responder, request(QUESTION, "red", show, 0), documents)
        ]
        again = Instance(
            "generate_until_multi_round",
            (
                *(QUESTION, dict(GREEDY), show),
                lambda document, previous_output, **_: (None, "", True, previous_output, None),
                *(0, TASK, SPLIT),
            ),
            0,
            metadata,
        )
        assert model.generate_until_multi_round([again]) == [[model.generate_until(asked[:1])[0]]]

    def test_what_it_is_told_wrongly_is_said(self, small_job, outcomes, monkeypatch) -> None:
        from lmms_eval.models import get_model

        with pytest.raises(ConfigError, match="chekpoint_name"):
            get_model("onetoken")(str(small_job.out(2)), chekpoint_name="x")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="one process"):
            get_model("onetoken")(str(small_job.out(2)))


def test_nothing_else_needs_the_harness() -> None:
    """The module that imports it is loaded by it alone."""
    code = (
        "import sys, jobs.evaluating, pipelines.evaluate.harness_requests; print('lmms_eval' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
