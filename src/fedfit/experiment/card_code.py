"""The code of a model card: how others load a saved adapter, as text."""

from __future__ import annotations

from fedfit.models.load import public_name
from fedfit.settings import Recipe
from fedfit.tasks.templates import ALPACA

_CLASSIFIER = """from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

adapter, base_model = ".", {base}
config = AutoConfig.from_pretrained(adapter)
base = AutoModelForSequenceClassification.from_pretrained(base_model, config=config)
model = PeftModel.from_pretrained(base, adapter).eval()
tokens = AutoTokenizer.from_pretrained(base_model)("a text", return_tensors="pt")
print(config.id2label[int(model(**tokens).logits.argmax())])"""

_LANGUAGE = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

adapter, base_model = ".", {base}
tokenizer = AutoTokenizer.from_pretrained(base_model)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), adapter).eval()
{prompt}
tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
answer = model.generate(**tokens, max_new_tokens={new}, do_sample=False)
print(tokenizer.decode(answer[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))"""

_CHAT_PROMPT = """messages = [{"role": "user", "content": "a text"}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"""


def classifier_code(recipe: Recipe) -> str:
    """Code that loads the adapter with its head and names the class of a text."""
    return _CLASSIFIER.format(base=repr(public_name(recipe.model.name)))


def language_code(recipe: Recipe) -> str:
    """Code that loads the adapter and answers a prompt as the recipe puts it to the model."""
    words = recipe.task.template
    prompt = _CHAT_PROMPT
    if words != "chat" or recipe.task.kind == "language_modelling":
        text = "{prompt}" if recipe.task.kind == "language_modelling" else ALPACA if words == "alpaca" else words
        prompt = f'text = (tokenizer.bos_token or "") + {text.partition("{response}")[0]!r}.replace("{{prompt}}", "a text")'
    base = repr(public_name(recipe.model.name))
    return _LANGUAGE.format(base=base, prompt=prompt, new=recipe.task.max_new_tokens)
