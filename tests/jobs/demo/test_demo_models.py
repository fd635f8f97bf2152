"""The demo's tokenizer and language model load like any other, and depend on their seed alone."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from jobs.demo.language_model import LanguageModelShape, save_language_model
from jobs.demo.tokenizer import train_tokenizer

TEXTS = ["What color is the figure?", "Red", "a red disc on a blue background"] * 50
TINY = LanguageModelShape(width=16, num_layers=1, num_heads=2, mlp_width=16)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = Path(tmp_path_factory.mktemp("tokenizer"))
    train_tokenizer(TEXTS, folder, vocabulary_size=320)
    return AutoTokenizer.from_pretrained(folder)


def save_tiny(folder: Path, seed: int) -> bytes:
    save_language_model(folder, vocabulary_size=320, bos_id=1, eos_id=2, pad_id=0, shape=TINY, seed=seed)
    return (folder / "model.safetensors").read_bytes()


def test_any_text_comes_back_unchanged(tokenizer: PreTrainedTokenizerFast):
    for text in (*TEXTS[:3], " two  spaces\n\ttab", "Grün, 赤, 🙂", "</s> <image>"):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_frequent_words_are_single_tokens(tokenizer: PreTrainedTokenizerFast):
    for word in ("Red", " color", " background"):
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1


def test_special_tokens_have_the_ids_that_the_model_is_told(tokenizer: PreTrainedTokenizerFast):
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert 256 + 3 < len(tokenizer) <= 320


def test_the_chat_template_marks_what_the_assistant_says(tokenizer: PreTrainedTokenizerFast):
    messages = [
        {"role": "user", "content": "What color is the figure?"},
        {"role": "assistant", "content": "Red"},
        {"role": "user", "content": "What color?"},
        {"role": "assistant", "content": "blue"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered == (
        "<s>USER: What color is the figure? ASSISTANT: Red</s>USER: What color? ASSISTANT: blue</s>"
    )
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert rendered.startswith(asked)
    marked = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    said = [
        token
        for token, is_said in zip(marked["input_ids"], marked["assistant_masks"], strict=True)
        if is_said
    ]
    assert tokenizer.decode(said).replace(" ", "") == "Red</s>blue</s>"


def test_the_same_text_gives_the_same_tokenizer(tmp_path: Path):
    for name in ("a", "b"):
        train_tokenizer(TEXTS, tmp_path / name, vocabulary_size=320)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_the_language_model_depends_on_its_seed_alone(tmp_path: Path):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = save_tiny(tmp_path / "a", seed=0)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(8)
    assert save_tiny(tmp_path / "b", seed=0) == first
    assert save_tiny(tmp_path / "c", seed=1) != first


def test_the_language_model_loads_and_answers_in_its_vocabulary(tmp_path: Path):
    save_tiny(tmp_path, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    logits = model(input_ids=torch.tensor([[1, 5, 9]])).logits
    assert logits.shape == (1, 3, 320)
    assert bool(torch.isfinite(logits).all())
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, 2, 0)
    assert not model.config.tie_word_embeddings
