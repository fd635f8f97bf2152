"""The demo's tokenizer: byte-level BPE trained on the demo's own text, a few hundred tokens.

Byte-level, so that nothing is unknown. Saved with its chat template, so that `AutoTokenizer` loads it like
any other; the template marks what the assistant says with `generation`, as newer templates do. About 0.1 s.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE: Final = 512
MAX_LENGTH: Final = 2048

BEGIN, END, PAD = "<s>", "</s>", "<pad>"
_SPECIAL: Final = (PAD, BEGIN, END)
_CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "ASSISTANT: {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'user' %}USER: {{ message['content'] }} "
    "{% else %}{{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def train_tokenizer(
    texts: Iterable[str], folder: Path, vocabulary_size: int = VOCABULARY_SIZE
) -> PreTrainedTokenizerFast:
    """A tokenizer trained on `texts`, saved under `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[AddedToken(token, special=True) for token in _SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
    return wrapped
