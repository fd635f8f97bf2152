"""LLaVA-1.5's published weights, imported and asked with fewer tokens than they were trained on.

The rival is plain: the encoder's patches through the reducer, the two published matrices, and transformers'
own Llama over the prompt's embeddings with the tokens in the medium's place.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_job import QUESTION, SmallJob, run_onetoken, write_yaml
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from infra.storage import open_storage
from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN, MediumFeatures
from operators.reducers import build_reducer, reduce_view
from operators.reducers.focus import focus_view
from operators.reducers.interface import ViewFeatures
from pipelines.commit import load_manifest, read_object
from pipelines.featurize.attention import read_attention
from pipelines.featurize.single import MediumEncoder
from pipelines.stream.reader import ALL_FRAMES
from pipelines.stream.reducing import ReducingReader
from pipelines.stream.selection import select_features
from pipelines.stream.stream import FeatureStream
from pipelines.train.assembly import restore
from pipelines.train.checkpoint import open_checkpoint
from schemas.record import MediumKind, Turn
from schemas.reducer import ReducerConfig

pytestmark = pytest.mark.usefixtures("outcomes")
REDUCERS = {
    "prumerge": ReducerConfig(name="prumerge"),
    "{name: average, tokens: 16}": ReducerConfig(name="average", tokens=16),
}
NUM_ANSWERED = 6


@pytest.fixture(scope="module")
def published(small_job: SmallJob) -> dict[str, Tensor]:
    """A tiny LLaVA-1.5 by its published names; a large head, so that what is seen decides what is said."""
    generator = torch.Generator().manual_seed(5)
    llm = LlamaForCausalLM.from_pretrained(small_job.folder / "llm")
    weights = {
        key: torch.randn(tensor.shape, generator=generator) * 0.2 if tensor.dim() == 2 else tensor.clone()
        for key, tensor in llm.state_dict().items()
    }
    weights["lm_head.weight"] *= 20
    width, encoder_width = llm.config.hidden_size, 16
    for layer, inputs in ((0, encoder_width), (2, width)):
        weights[f"model.mm_projector.{layer}.weight"] = torch.randn(width, inputs, generator=generator) * 0.2
        weights[f"model.mm_projector.{layer}.bias"] = torch.randn(width, generator=generator) * 0.2
    return weights


@pytest.fixture(scope="module")
def imported(small_job: SmallJob, published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, by the command that a user would type; pictures are held out."""
    folder = Path(tmp_path_factory.mktemp("llava"))
    half = sorted(published)[: len(published) // 2]
    tower = {"model.vision_tower.vision_tower.x": torch.zeros(2)}
    save_file({key: published[key] for key in half} | tower, folder / "model-00001.safetensors")
    rest = {key: tensor for key, tensor in published.items() if key not in half}
    save_file(rest, folder / "model-00002.safetensors")
    document: dict[str, Any] = yaml.safe_load(small_job.stage(2).read_text())
    plan = load_manifest(open_storage(str(small_job.corpus))).plan
    document["model"] = {
        "llm": str(small_job.folder / "llm"),
        "reducer": "all",
        "prefusion": {"layers": 0},
        "init_from": str(folder),
    }
    document["data"]["exclude"] = [leaf.name for leaf in plan]
    document["out"] = str(folder / "run")
    outcome = run_onetoken("import", write_yaml(folder / "llava.yaml", document), "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.values["checkpoint"] == str(folder / "run/step-000000")
    return folder / "run"


class Rival:
    """Transformers' Llama with the published matrices before it."""

    def __init__(self, job: SmallJob, checkpoint: Path, weights: dict[str, Tensor], reducer: ReducerConfig):
        self.storage = open_storage(str(job.corpus))
        self.manifest = load_manifest(self.storage)
        self.opened = open_checkpoint(checkpoint)
        self.spec = self.opened.state.identity.spec
        entry = self.manifest.features[self.spec.short_digest].attention
        self.attention = read_attention(read_object(self.storage, entry))
        self.config, self.reducer = reducer, build_reducer(reducer)
        self.weights = weights
        self.llm = LlamaForCausalLM.from_pretrained(job.folder / "llm").eval()
        self.llm.load_state_dict({key: one for key, one in weights.items() if "mm_projector" not in key})
        self.table = self.llm.get_input_embeddings()
        assembly = restore(self.opened, to_train=False)
        self.prompter, self.tokenizer = assembly.prompter, assembly.tokenizer

    def project(self, medium: MediumFeatures) -> Tensor:
        """All tokens of a medium, frame by frame."""
        first, second = (
            [self.weights[f"model.mm_projector.{layer}.{kind}"] for kind in ("weight", "bias")]
            for layer in (0, 2)
        )
        tokens = torch.cat(list(self.reduce(medium)))
        return functional.linear(functional.gelu(functional.linear(tokens, *first)), *second)

    def reduce(self, medium: MediumFeatures) -> Iterator[Tensor]:
        """Of each frame, which has one view; features that were reduced while they were read say so."""
        for number, (patches,) in enumerate(medium.patches.float()):
            if medium.counts is not None:
                yield patches[: medium.counts[number]]
                continue
            focus = None
            if medium.class_rows is not None:
                focus = focus_view(medium.class_rows[number, 0].float(), patches, self.attention)
            yield reduce_view(self.reducer, ViewFeatures(patches, focus))

    def embed(self, token_ids: Sequence[int], media: Sequence[MediumFeatures]) -> Tensor:
        """What the language model reads."""
        rest = list(media)
        pieces = [
            self.project(rest.pop(0)) if one == MEDIUM_TOKEN else self.table(torch.tensor([one]))
            for one in token_ids
        ]
        return torch.cat(pieces)[None]

    @torch.inference_mode()
    def answer(self, medium: MediumFeatures, placeholder: str) -> str:
        """Greedy, every token from the beginning."""
        prompt = self.prompter.write_question((Turn("human", f"{placeholder}\n{QUESTION}"),), 1)
        rows = self.embed(prompt.token_ids, [medium])
        said: list[int] = []
        for _ in range(NUM_ANSWERED):
            token = int(self.llm(inputs_embeds=rows).logits[0, -1].argmax())
            if token in self.prompter.stop_ids:
                break
            said.append(token)
            rows = torch.cat([rows, self.table(torch.tensor([[token]]))], dim=1)
        return self.tokenizer.decode(said).strip()

    @torch.inference_mode()
    def losses(self) -> dict[str, float]:
        """Mean over the learned tokens of each source, example by example."""
        data = self.opened.config.data.in_counts(1, 1).model_copy(update={"exclude": ()})
        digest = self.spec.short_digest
        stream = FeatureStream(self.storage, self.manifest, digest, data, seed=0, num_epochs=1)
        if self.config.needs_focus:
            stream.reader = ReducingReader(self.storage, self.manifest, digest, self.config)
        found: dict[str, list[Tensor]] = defaultdict(list)
        for (example,) in (examples for step in stream for examples in step):
            prompt = self.prompter.write_training(example.turns, len(example.media))
            media = [MediumFeatures(medium.patches, counts=medium.counts) for medium in example.media]
            rows = self.embed(prompt.token_ids, media)
            logits = self.llm(inputs_embeds=rows).logits[0]
            behind = len(logits) - len(prompt.labels)
            learned = [(at + behind, one) for at, one in enumerate(prompt.labels) if one != IGNORED_LABEL]
            for at, one in learned:
                found[example.source].append(functional.cross_entropy(logits[at - 1], torch.tensor(one)))
        return {source: float(torch.stack(losses).mean()) for source, losses in found.items()}


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize(("option", "file"), [("--image", "0.png"), ("--video", "v_red.mp4")])
def test_it_answers_as_the_published_weights_do(small_job, imported, published, name, option, file) -> None:
    """Of a picture the whole view, of a clip every frame."""
    rival = Rival(small_job, imported, published, REDUCERS[name])
    kind = MediumKind.IMAGE if option == "--image" else MediumKind.VIDEO
    path = small_job.folder / "media" / file
    whole = partial(select_features, views="whole", frames=ALL_FRAMES)
    medium = MediumEncoder(rival.spec, str(small_job.encoder)).encode(path.read_bytes(), kind, whole)
    assert (len(medium.patches) > 1) == (kind is MediumKind.VIDEO)
    options = ("--reducer", name, "--max-new-tokens", NUM_ANSWERED, "--json")
    found = run_onetoken("generate", imported, option, path, QUESTION, *options)
    assert found.status == 0, found.err
    assert found.values["answer"] == rival.answer(medium, kind.placeholder) != ""


@pytest.mark.parametrize("name", REDUCERS)
def test_its_loss_is_that_of_the_published_weights(small_job, imported, published, name) -> None:
    found = run_onetoken("evaluate", imported, "--reducer", name, "--json")
    assert found.status == 0, found.err
    losses = {source: one["loss"] for source, one in found.values["sources"].items()}
    assert losses == pytest.approx(Rival(small_job, imported, published, REDUCERS[name]).losses(), rel=1e-4)
    plain = run_onetoken("evaluate", imported, "--json").values["sources"]
    assert losses["pictures"] != plain["pictures"]["loss"]


def test_nothing_is_imported_twice_or_from_nowhere(small_job, imported, tmp_path) -> None:
    document = yaml.safe_load((imported.parent / "llava.yaml").read_text())
    again = run_onetoken("import", imported.parent / "llava.yaml")
    assert again.status == 1
    assert "choose another `out`" in again.said
    document["out"] = str(tmp_path / "run")
    del document["model"]["init_from"]
    bare = run_onetoken("import", write_yaml(tmp_path / "bare.yaml", document))
    assert bare.status == 2
    assert "model.init_from" in bare.said
    assert not (tmp_path / "run").exists()
