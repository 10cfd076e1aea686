"""Keys that a recipe had before, by their old name, and the remedy that names the new place."""

from __future__ import annotations

_ONE_RULE = "one key chooses the rule now; "

MOVED = {
    "federation.robust": f"{_ONE_RULE}set federation.rule to median, trimmed_mean, krum or norm_bound, or remove it",
    "federation.trim": "it is federation.trimmed_mean.trim now",
    "federation.suspected": "it is federation.krum.byzantine now",
    "federation.norm_bound": "norm_bound is a rule now, and this number is federation.norm_bound.bound",
    "federation.sketch": "it is federation.fslora.sketch now",
    "federation.sketch_ratios": "it is federation.rank_shares now, for every rule of mixed ranks",
    "federation.pruning": f"{_ONE_RULE}set federation.rule to hetlora_pruning and this as federation.hetlora_pruning.gamma, "
    "or remove it where it is 1",
    "federation.pruning_penalty": "it is federation.hetlora_pruning.penalty now",
    "federation.download_density": "it is federation.flasc.download_density now",
    "federation.upload_density": "it is federation.flasc.upload_density now",
    "federation.sparse_rounds": "it is federation.slora.sparse_rounds now",
    "federation.sparse_density": "it is federation.slora.density now",
    "training.scaffold": f"{_ONE_RULE}set federation.rule to scaffold, or remove it where it is false",
}
