"""How a prompt is put to a language model, and where its response ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedfit.errors import DataError

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n### Response:\n{response}"
)
"""The template of Stanford Alpaca, for an instruction without a separate input."""

_MARK = "\x00response\x00"


@dataclass(frozen=True)
class Template:
    """A template over a tokenizer: token ids of prompts, and of the responses that continue them.

    Prompt and response are tokenized apart, as they are when an answer is generated.
    """

    tokenizer: Any
    frame: Callable[[str], tuple[str, str]]
    """A prompt → the text before the response, and the text after it."""
    adds_begin: bool
    """Whether the tokenizer's own first token stands before the prompt; a chat template has it in its text."""
    whole: Callable[[Sequence[tuple[str, str]], str], str] | None = None
    """Turns of a conversation and a prompt → the text before the response; ``None``: turns are framed one by one."""

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids up to the response."""
        found = self._ids([self.frame(prompt)[0] for prompt in prompts])
        begin = self.tokenizer.bos_token_id
        return [[begin, *ids] for ids in found] if self.adds_begin and begin is not None else found

    def responses(self, prompts: Sequence[str], responses: Sequence[str]) -> list[list[int]]:
        """Token ids of each response and its end: the template's, else the tokenizer's end token."""
        after = [self.frame(prompt)[1].rstrip() for prompt in prompts]
        end = self.tokenizer.eos_token_id
        found = self._ids([response + rest for response, rest in zip(responses, after, strict=True)])
        return [ids if end is None or (ids and ids[-1] == end) else [*ids, end] for ids in found]

    def conversation(self, turns: Sequence[tuple[str, str]], prompt: str) -> list[int]:
        """Token ids of a conversation, ``turns`` of prompt and response and then ``prompt``, up to the response."""
        if self.whole is not None:
            return self._ids([self.whole(turns, prompt)])[0]
        ids: list[int] = []
        for number, (asked, said) in enumerate([*turns, (prompt, "")]):
            begin = self if number == 0 else replace(self, adds_begin=False)
            ids += begin.prompts([asked])[0]
            ids += self.responses([asked], [said])[0] if number < len(turns) else []
        return ids

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids


def make_template(words: str, tokenizer: Any) -> Template:
    """The template that ``task.template`` names: ``chat``, ``alpaca``, or a text with ``{prompt}`` and ``{response}``.

    Raises:
        DataError: for a text without them, and for ``chat`` with a tokenizer that has no chat template.
    """
    if words == "chat":
        if not getattr(tokenizer, "chat_template", None):
            raise DataError(
                'task.template = "chat": the tokenizer of this model has no chat template; set task.template to "alpaca", or '
                'to a text of your own such as "Question: {prompt}\\nAnswer: {response}"'
            )
        return Template(tokenizer, _chat(tokenizer), adds_begin=False, whole=_conversation(tokenizer))
    text = ALPACA if words == "alpaca" else words
    if fault := template_fault(words):
        raise DataError(f"task.template = {words!r}: {fault}")
    before, after = text.split("{response}")
    return Template(tokenizer, lambda prompt: (before.replace("{prompt}", prompt), after), adds_begin=True)


def template_fault(words: str) -> str | None:
    """The remedy for a template that cannot be used with any tokenizer; ``None`` for one that can."""
    if words in ("chat", "alpaca"):
        return None
    if words.count("{prompt}") != 1 or words.count("{response}") != 1:
        return 'choose "chat" or "alpaca", or write a text that holds {prompt} and {response} once each'
    if words.index("{prompt}") > words.index("{response}"):
        return "{prompt} must stand before {response}"
    return None


def _chat(tokenizer: Any) -> Callable[[str], tuple[str, str]]:
    def frame(prompt: str) -> tuple[str, str]:
        asked = [{"role": "user", "content": prompt}]
        before: str = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        answered = [*asked, {"role": "assistant", "content": _MARK}]
        whole: str = tokenizer.apply_chat_template(answered, tokenize=False)
        # Some templates rewrite earlier turns; the text after the response is what counts.
        return before, whole.rpartition(_MARK)[2]

    return frame


def _conversation(tokenizer: Any) -> Callable[[Sequence[tuple[str, str]], str], str]:
    def whole(turns: Sequence[tuple[str, str]], prompt: str) -> str:
        messages = []
        for asked, said in [*turns, (prompt, "")]:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        text: str = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        return text

    return whole
