"""Templates: prompt and response apart give the tokens of the whole, and faults are told with their remedy."""

import pytest

from fedfit.errors import DataError
from fedfit.tasks.templates import ALPACA, make_template, template_fault
from tests.builders import chat_tokenizer

PROMPT, RESPONSE = "say {a} b", "c d"


def test_chat_gives_the_tokens_of_the_tokenizers_own_template() -> None:
    tokenizer = chat_tokenizer()
    template = make_template("chat", tokenizer)
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSE}]
    whole = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]
    (prompt,), (response,) = template.prompts([PROMPT]), template.responses([PROMPT], [RESPONSE])
    assert prompt + response == whole
    assert response[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("words", ["alpaca", "ask {prompt} answer {response}", "{prompt} {response} end"])
def test_a_text_of_ones_own_begins_and_ends_as_the_tokenizer_has_it(words: str) -> None:
    tokenizer = chat_tokenizer()
    template = make_template(words, tokenizer)
    text = (ALPACA if words == "alpaca" else words).replace("{prompt}", PROMPT).replace("{response}", RESPONSE)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    (prompt,), (response,) = template.prompts([PROMPT]), template.responses([PROMPT], [RESPONSE])
    assert prompt + response == [tokenizer.bos_token_id, *whole, tokenizer.eos_token_id]


def test_a_prompt_may_hold_braces() -> None:
    tokenizer = chat_tokenizer()
    (prompt,) = make_template("q {prompt} a {response}", tokenizer).prompts(["{response} {prompt}"])
    assert prompt[1:] == tokenizer("q {response} {prompt} a", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("plain", 'choose "chat" or "alpaca"'),
        ("only {prompt}", "once each"),
        ("{prompt} {response} {response}", "once each"),
        ("{response} {prompt}", "{prompt} must stand before {response}"),
    ],
)
def test_a_template_that_cannot_be_used_is_told_with_its_remedy(words: str, remedy: str) -> None:
    assert remedy in (template_fault(words) or "")
    with pytest.raises(DataError, match=r"task\.template = "):
        make_template(words, chat_tokenizer())


def test_a_tokenizer_without_a_chat_template() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r'has no chat template; set task.template to "alpaca"'):
        make_template("chat", tokenizer)


def test_a_tokenizer_without_first_and_last_token() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    template = make_template("{prompt} {response}", tokenizer)
    (prompt,), (response,) = template.prompts(["a"]), template.responses(["a"], ["b"])
    assert prompt + response == tokenizer("a b", add_special_tokens=False)["input_ids"]


TURNS = [("a b", "c"), ("d", "e f")]


def test_a_conversation_is_that_of_the_chat_template() -> None:
    tokenizer = chat_tokenizer()
    messages = [
        {"role": role, "content": text} for turn in TURNS for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    messages.append({"role": "user", "content": PROMPT})
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    template = make_template("chat", tokenizer)
    assert template.conversation(TURNS, PROMPT) == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert template.conversation([], PROMPT) == template.prompts([PROMPT])[0]


def test_without_a_chat_template_turns_follow_one_another_after_one_first_token() -> None:
    tokenizer = chat_tokenizer()
    found = make_template("ask {prompt} answer {response}", tokenizer).conversation(TURNS, PROMPT)
    text = f"ask a b answer c [SEP] ask d answer e f [SEP] ask {PROMPT} answer"
    assert found == [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
