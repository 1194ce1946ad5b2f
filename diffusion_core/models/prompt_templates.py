"""What pipelines write around a prompt, whose tokens count towards the limit of the prompt."""

import importlib
from typing import Any

TURN = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"

LUMINA = (
    "You are an assistant designed to generate superior images with the superior degree of "
    "image-text alignment based on textual prompts or user prompts. <Prompt Start> "
)

TEXTS = {"BriaFibo2Pipeline": TURN, "Lumina2Pipeline": LUMINA, "ZImageOmniPipeline": TURN}
"""Class -> what it writes around a prompt. Read against diffusers 0.42.1, as is all below."""

CHATS: dict[str, dict[str, Any]] = {
    "Flux2KleinKVPipeline": {"add_generation_prompt": True, "enable_thinking": False},
    "Flux2KleinPipeline": {"add_generation_prompt": True, "enable_thinking": False},
    "Flux2Pipeline": {"add_generation_prompt": False},
    "Ideogram4Pipeline": {"add_generation_prompt": True},
    "NucleusMoEImagePipeline": {"add_generation_prompt": True},
    "ZImagePipeline": {"add_generation_prompt": True, "enable_thinking": True},
}
"""Class that makes a chat of a prompt -> the arguments of `apply_chat_template`."""

SYSTEM_MESSAGES = {
    "Flux2Pipeline": "SYSTEM_MESSAGE",
    "NucleusMoEImagePipeline": "DEFAULT_SYSTEM_PROMPT",
}
"""Class -> the name in its module of what its chats begin with."""

PARTS = ("Flux2Pipeline", "Ideogram4Pipeline", "NucleusMoEImagePipeline")
"""Classes whose chats hold lists of parts, for pictures beside the text."""


def template_tokens(pipeline_class: Any, tokenizer: Any) -> int:
    """Tokens that a pipeline adds to each prompt before it cuts it.

    Args:
        pipeline_class: its class.
        tokenizer: of transformers, or a processor that has one.

    Raises:
        ValueError: the tokenizer lacks the chat template that the class needs.
    """
    name = pipeline_class.__name__
    if name in CHATS:
        messages = _messages(pipeline_class)
        text = tokenizer.apply_chat_template(messages, tokenize=False, **CHATS[name])
    else:
        text = TEXTS.get(name, "")
    plain = getattr(tokenizer, "tokenizer", tokenizer)
    return len(plain(text, add_special_tokens=False).input_ids) if text else 0


def _messages(pipeline_class: Any) -> list[dict[str, Any]]:
    """The chat that the class makes of an empty prompt."""
    name = pipeline_class.__name__
    texts = {"user": ""}
    if name in SYSTEM_MESSAGES:
        module = importlib.import_module(pipeline_class.__module__)
        texts = {"system": getattr(module, SYSTEM_MESSAGES[name]), "user": ""}
    return [
        {"role": role, "content": [{"type": "text", "text": text}] if name in PARTS else text}
        for role, text in texts.items()
    ]
