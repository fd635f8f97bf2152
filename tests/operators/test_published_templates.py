"""The published templates, token by token: Llama 3, Llama 3.1, LLaVA's `plain` and Vicuna v1.

The text of the Llama 3 family is written down here as Meta's model card gives it, not rendered by a template:
begin_of_text, then for each message its header, two newlines, the content, eot_id.
"""

import pytest
from test_prompt import gpt, human
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from operators.batch import IGNORED_LABEL, MEDIUM_TOKEN
from operators.chat_prompt import ChatPrompter, build_prompter
from operators.prompt import Prompt
from operators.tokenizer import Tokenizer
from schemas.errors import ConfigError
from schemas.record import Turn

BEGIN, START, END, EOT, EOM, PYTHON = (
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
)
SPECIALS = [BEGIN, "<|end_of_text|>", START, END, EOT, EOM, PYTHON]
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""As published with Meta-Llama-3-8B-Instruct."""
EARLY_LLAMA_3 = LLAMA_3.replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")
"""The first release: it always ends with the header of an answer."""
LLAMA_3_1 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{- 'Cutting Knowledge Date: December 2023\n' }}{{- 'Today Date: ' + date_string + '\n\n' }}"
    "{{- system_message }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
"""Llama 3.1's, without its tools."""
TURNS = [human("What is it?\n<image>"), gpt(" A cat. "), human(" Why? "), gpt("So.")]


def build_llama(template: str) -> Tokenizer:
    """One token a byte, and Llama's special tokens."""
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BEGIN, eos_token="<|end_of_text|>")
    fast.chat_template = template
    return Tokenizer(fast)


def spell(tokenizer: Tokenizer, *pieces: str) -> list[int]:
    """Ids of special tokens by their names, of anything else byte by byte; ● is a medium."""
    ids: list[int] = []
    for piece in pieces:
        if piece in SPECIALS:
            ids.append(tokenizer.backend.convert_tokens_to_ids(piece))
        else:
            ids += [MEDIUM_TOKEN] if piece == "●" else tokenizer.encode(piece)
    return ids


def header(role: str) -> list[str]:
    return [START, role, END, "\n\n"]


def learned(prompt: Prompt) -> list[int]:
    return [label for label in prompt.labels if label != IGNORED_LABEL]


def opening(template: str) -> list[str]:
    if template is not LLAMA_3_1:
        return [BEGIN]
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    return [BEGIN, START, "system", END, "\n\n" + dates, EOT]


@pytest.mark.parametrize(
    "template", [LLAMA_3, EARLY_LLAMA_3, LLAMA_3_1], ids=["llama 3", "first release", "llama 3.1"]
)
def test_llama_token_by_token(template: str) -> None:
    tokenizer = build_llama(template)
    prompter = build_prompter(tokenizer, 2, "own", 1000)
    start = opening(template)
    first = [*header("user"), "●", "\nWhat is it?", EOT, *header("assistant")]
    second = [*header("user"), "Why?", EOT, *header("assistant")]
    prompt = prompter.write_training(TURNS, 1)
    assert list(prompt.token_ids) == spell(tokenizer, *start, *first, "A cat.", EOT, *second, "So.", EOT)
    assert learned(prompt) == spell(tokenizer, "A cat.", EOT, "So.", EOT)
    fused = [token for token, is_fused in zip(prompt.token_ids, prompt.fuse_mask, strict=True) if is_fused]
    assert fused == spell(tokenizer, *start, *(piece for piece in first if piece != "●"), *second)
    asked = prompter.write_question(TURNS[:1], 1)
    assert list(asked.token_ids) == spell(tokenizer, *start, *first)
    assert prompter.stop_ids == set(spell(tokenizer, EOT, "<|end_of_text|>"))
    assert list(prompt.token_ids).count(spell(tokenizer, BEGIN)[0]) == 1


LLAVA_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)


@pytest.mark.parametrize("own", [LLAMA_3, EARLY_LLAMA_3, LLAMA_3_1], ids=["3", "first release", "3.1"])
def test_llava_for_llama_token_by_token(own: str) -> None:
    """LLaVA's `llama_3` and `llama_3_1`, whatever template the tokenizer brings: system prompt, no dates.

    Masked are BOS, the system message with its end, questions with theirs, and headers; learned are answers
    and their ends. The published code counts four tokens of a header too many with the stock template of
    Llama 3.1, and so masks all of them.
    """
    tokenizer = build_llama(own)
    prompter = build_prompter(tokenizer, 2, "llava_llama_3", 1000)
    start = [BEGIN, *header("system"), LLAVA_SYSTEM, EOT]
    first = [*header("user"), "●", "\nWhat is it?", EOT, *header("assistant")]
    second = [*header("user"), "Why?", EOT, *header("assistant")]
    prompt = prompter.write_training(TURNS, 1)
    assert list(prompt.token_ids) == spell(tokenizer, *start, *first, "A cat.", EOT, *second, "So.", EOT)
    assert learned(prompt) == spell(tokenizer, "A cat.", EOT, "So.", EOT)
    fused = [token for token, is_fused in zip(prompt.token_ids, prompt.fuse_mask, strict=True) if is_fused]
    assert fused == spell(tokenizer, *start, *(piece for piece in first if piece != "●"), *second)
    assert list(prompter.write_question(TURNS[:1], 1).token_ids) == spell(tokenizer, *start, *first)
    assert prompter.stop_ids == set(spell(tokenizer, EOT, "<|end_of_text|>"))


@pytest.mark.parametrize("own", [LLAMA_3, EARLY_LLAMA_3], ids=["3", "first release"])
def test_llava_for_llama_as_the_published_code_renders_it(own: str) -> None:
    """That code sends its system prompt as a message through the tokenizer's template."""
    tokenizer = build_llama(own)
    turns = [human("the color"), gpt("is red"), human("and now"), gpt("blue.")]
    messages = [{"role": "system", "content": LLAVA_SYSTEM}] + [
        {"role": "user" if turn.role == "human" else "assistant", "content": turn.text} for turn in turns
    ]
    rendered = tokenizer.backend.apply_chat_template(messages, tokenize=True, return_dict=False)
    if own is EARLY_LLAMA_3:
        rendered = rendered[: -len(spell(tokenizer, *header("assistant")))]
    ours = build_prompter(tokenizer, 2, "llava_llama_3", 1000).write_training(turns, 0)
    assert list(ours.token_ids) == rendered


def test_llava_for_llama_needs_its_special_tokens() -> None:
    tokenizer = build_llama(LLAMA_3)
    backend = tokenizer.backend
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Backend(models.BPE(vocab=backend.get_vocab(), merges=[])),
        eos_token="<|end_of_text|>",
    )
    with pytest.raises(ConfigError, match="no special token to stop at"):
        build_prompter(Tokenizer(plain), 2, "llava_llama_3", 1000)


@pytest.mark.parametrize("template", [LLAMA_3, LLAMA_3_1], ids=["llama 3", "llama 3.1"])
def test_llama_as_the_tokenizer_renders_it(template: str) -> None:
    tokenizer = build_llama(template)
    turns = [human("the color"), gpt("is red"), human("and now"), gpt("blue.")]
    messages = [
        {"role": "user" if turn.role == "human" else "assistant", "content": turn.text} for turn in turns
    ]
    expected = tokenizer.backend.apply_chat_template(
        messages, tokenize=True, return_dict=False, date_string="26 Jul 2024"
    )
    assert list(ChatPrompter(tokenizer, 1000).write_training(turns, 0).token_ids) == expected


def test_no_answer_is_masked_for_its_length() -> None:
    """Published code counts the tokens of a header that may not be there; nothing is counted here."""
    tokenizer = build_llama(LLAMA_3_1)
    prompter = ChatPrompter(tokenizer, 1000)
    for number in range(1, 30):
        turns = [human("Q" * number), gpt("A" * number)] * 3
        assert learned(prompter.write_training(turns, 0)) == 3 * spell(tokenizer, "A" * number, EOT)


@pytest.mark.parametrize("said", ["A</s>B", "x ASSISTANT: y", "USER: no", f"a{EOT}b{BEGIN}", "  padded\n"])
def test_what_an_answer_spells_splits_nothing(said: str) -> None:
    """Published code splits the rendered text at these, and masks the sample when it finds too many parts."""
    tokenizer = build_llama(LLAMA_3)
    prompt = ChatPrompter(tokenizer, 1000).write_training([human("Q"), gpt(said)], 0)
    assert learned(prompt) == [*tokenizer.encode(said.strip()), *spell(tokenizer, EOT)]


@pytest.mark.parametrize(
    "text",
    [
        "<image>\nName it.",
        "Name it.\n<image>",
        "<video>\nName it.",
        "  Name it.  <video> ",
        "<image>Name it.",
    ],
)
def test_a_placeholder_leads_wherever_it_stood(text: str) -> None:
    tokenizer = build_llama(LLAMA_3)
    prompt = ChatPrompter(tokenizer, 1000).write_question([human(text)], 1)
    start = spell(tokenizer, BEGIN, *header("user"), "●", "\nName it.", EOT, *header("assistant"))
    assert list(prompt.token_ids) == start


@pytest.mark.parametrize(
    "asked", ["Render it.\n<image>", "<image>", "<image>\nDescribe the picture in short."]
)
def test_plain_drops_what_was_asked(asked: str) -> None:
    """BOS, picture, caption, newline; the caption and its newline are learned, no EOS follows."""
    tokenizer = build_llama(LLAMA_3)
    turns = [human(asked), Turn("gpt", "a black bmw")]
    prompt = build_prompter(tokenizer, 1, "own", 1000).write_training(turns, 1)
    assert list(prompt.token_ids) == spell(tokenizer, BEGIN, "●", "a black bmw\n")
    assert learned(prompt) == spell(tokenizer, "a black bmw\n")
    assert not any(prompt.fuse_mask)
