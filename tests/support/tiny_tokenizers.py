"""Tokenizers of real classes whose vocabulary is single letters or bytes."""

from typing import Any

from support import tiny_models
from support.tiny_models import LETTERS

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")


def qwen_tokenizer() -> Any:
    """One token a byte; the specials come first."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = [*SPECIALS, *bytes_to_unicode().values()]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<|image_pad|>"],
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    return BertTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=77
    )


def glm_tokenizer() -> Any:
    """As `qwen_tokenizer`, with a token before every text, as GLM's own has."""
    tokenizer = qwen_tokenizer()
    _begin_with(tokenizer, "<|im_start|>", 1)
    return tokenizer


def gemma_tokenizer() -> Any:
    """As that of `tiny_models`, with `<bos>` before every text, as in the real ones."""
    tokenizer = tiny_models.gemma_tokenizer()
    _begin_with(tokenizer, "<bos>", 2)
    return tokenizer


def _begin_with(tokenizer: Any, piece: str, number: int) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{piece} $A", special_tokens=[(piece, number)]
    )
