"""A world of prompts and answers for a random language model: what to say depends on a letter in the prompt."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from fedfit.experiment.load import parse_recipe
from fedfit.experiment.session import Session
from tests.builders import chat_tokenizer

ANSWERS = {"a": "red", "b": "blue", "c": "red or blue"}

RECIPE = """
name = "asking"
[model]
name = "{model}"
[data]
source = "jsonl"
train = "{folder}/train.jsonl"
test = "{folder}/test.jsonl"
prompt = ["ask", "about"]
max_tokens = 60
[partition]
kind = "by_column"
column = "who"
[adapter]
rank = 2
alpha = 4
layers = "last:2"
targets = ["q_proj", "v_proj"]
[federation]
devices = 3
devices_per_round = 3
rounds = 2
[training]
batch_size = 4
learning_rate = 1e-2
"""
TASKS = {
    "instruction": '[task]\nkind = "instruction"\ngenerate_samples = 3\nmax_new_tokens = 4\n',
    "preference": '[task]\nkind = "preference"\n',
    "language_modelling": '[task]\nkind = "language_modelling"\n',
}
COLUMNS = {
    "instruction": ["data.response=say", "data.answer=answer"],
    "preference": ["data.chosen=say", "data.rejected=other"],
    "language_modelling": ['data.text=["ask","say"]'],
}
COLUMNS["language_modelling"].append("data.prompt=")


def write_rows(path: Path, count: int, seed: int) -> list[dict[str, str]]:
    """``count`` rows, of three devices in turn."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        letter, other = rng.permutation(list(ANSWERS))[:2]
        about = " ".join(rng.choice(list("xyz"), int(rng.integers(0, 4))))
        words = {"say": f"it is {ANSWERS[letter]}", "answer": ANSWERS[letter], "other": f"it is {ANSWERS[other]}"}
        rows.append({"ask": f"what is {letter}", "about": about, **words, "who": "pqr"[number % 3]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


@dataclass(frozen=True)
class Asking:
    """Rows on disk, and a random llama with the chat tokenizer."""

    folder: Path
    model: Path
    test: Sequence[Mapping[str, str]]

    @classmethod
    def make(cls, folder: Path, llama: Path) -> "Asking":
        """Rows and model under ``folder``."""
        model = folder / "model"
        AutoModelForCausalLM.from_pretrained(llama).save_pretrained(model)
        chat_tokenizer().save_pretrained(model)
        write_rows(folder / "train.jsonl", 24, seed=1)
        return cls(folder, model, write_rows(folder / "test.jsonl", 10, seed=2))

    def run(self, task: str, out: Path, *overrides: str, rounds: int | None = None) -> Path:
        """A run of ``task``, whose caller stops asking after ``rounds`` rounds."""
        text = RECIPE.format(model=self.model, folder=self.folder) + TASKS[task]
        session = Session.start(parse_recipe(text, [*COLUMNS[task], *overrides]), out)
        try:
            for result in session.results():
                if result.record.round == rounds:
                    break
        finally:
            session.folder.close()
        return out

    def prompt(self, row: Mapping[str, str]) -> str:
        """The text that stands before a row's response."""
        asked = "\n".join(part for part in (row["ask"], row["about"]) if part)
        messages = [{"role": "user", "content": asked}]
        text: str = chat_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def base(self) -> Any:
        """The model as transformers loads it."""
        return AutoModelForCausalLM.from_pretrained(self.model).eval()

    def tuned(self, run: Path) -> Any:
        """The same with the adapter of ``run``, as PEFT loads it."""
        return PeftModel.from_pretrained(self.base(), str(run / "adapter")).eval()


@torch.no_grad()
def distributions(model: Any, prompt: str, response: str) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``(tokens, vocabulary)`` where a response and its end are read, and its tokens, of one text alone."""
    tokenizer = chat_tokenizer()
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = tokenizer(f"{response} [SEP]" if prompt else response, add_special_tokens=False)["input_ids"]
    before = before or [tokenizer.bos_token_id]
    logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    return logits.log_softmax(dim=-1), torch.tensor(after)


def log_probability(model: Any, prompt: str, response: str) -> Tensor:
    """Of each token of a response and its end."""
    found, ids = distributions(model, prompt, response)
    return found.gather(1, ids[:, None])[:, 0]
