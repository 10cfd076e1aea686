"""What a saved adapter says of itself: its sizes in PEFT's configuration, and a card for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from peft import LoraConfig
from peft.tuners.lora import LoraLayer


def describe_sizes(config: LoraConfig, modules: Mapping[str, LoraLayer], adapter: str) -> None:
    """Writes ranks and scales into ``config`` as PEFT reads them, scale = lora_alpha / r.

    The commonest size of all is that of the configuration; modules of another size are named in its patterns.
    """
    # 15 digits: (16 / 7) · 7 is written as 16, and the scale is still that of the model to the last bit or nearly so.
    sizes = {
        name: (module.r[adapter], float(f"{module.scaling[adapter] * module.r[adapter]:.15g}"))
        for name, module in modules.items()
    }
    rank, alpha = Counter(sizes.values()).most_common(1)[0][0]
    config.r, config.lora_alpha, config.use_rslora = rank, alpha, False
    config.rank_pattern = {name: its for name, (its, _) in sizes.items() if its != rank}
    config.alpha_pattern = {name: its for name, (_, its) in sizes.items() if its != alpha}


CARD = """# A LoRA adapter and classification head, trained by fedfit

Base model: `{base_model}`. `labels.json` names the classes, in the order of the outputs.

```python
import json
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

labels = json.load(open("labels.json"))
base = AutoModelForSequenceClassification.from_pretrained("{base_model}", num_labels=len(labels))
model = PeftModel.from_pretrained(base, ".").eval()
tokens = AutoTokenizer.from_pretrained("{base_model}")("a text", return_tensors="pt")
print(labels[model(**tokens).logits.argmax()])
```
"""
