"""fedfit: fine-tunes one language model across many devices by federated split LoRA."""

__version__ = "0.1.0"
