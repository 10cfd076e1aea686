"""Small sets of prompts and responses, and the token ids that a chat makes of them."""

from typing import Any

from fedfit.data.corpus import TextSet
from tests.builders import chat_tokenizer

PROMPTS = ["ab cd", "", "e", "f g h i j k l m n o p q r s t u v w x y z", "a a"]
RESPONSES = ["ef", "g", " ", "z", "b c d e f g h i j k l m n o p"]


def instructions(**columns: list[str]) -> TextSet:
    """Five rows: a plain one, one without prompt, one without response, one with a long prompt, one with a long response."""
    return TextSet({"prompt": PROMPTS, "response": RESPONSES, **columns})


def ids_of(text: str, tokenizer: Any = None) -> list[int]:
    """Token ids of a text, special tokens by their names in it."""
    found: list[int] = (tokenizer or chat_tokenizer())(text, add_special_tokens=False)["input_ids"]
    return found


def asked(prompt: str) -> list[int]:
    """The ids of a prompt as the chat template frames it."""
    return ids_of(f"[CLS] user {prompt} [SEP] [CLS] assistant")


def said(response: str) -> list[int]:
    """The ids of a response and its end."""
    return ids_of(f"{response} [SEP]")
