"""Says what a saved adapter lacks of any device's own model."""

from __future__ import annotations

from fedfit.aggregation.table import rule_entry, rule_keys
from fedfit.personalization.table import make_method
from fedfit.settings import Recipe


def shared_part(recipe: Recipe) -> str | None:
    """One line where a rule or a method keeps parts on the devices; ``None`` where the saved adapter is all that is shared."""
    rule = recipe.federation.rule
    traits = rule_entry(rule).traits(rule_keys(recipe))
    if not traits.shares:
        return f"{rule} shares nothing: the saved adapter is the untrained start, not the model of any device"
    if traits.private:
        private = ", ".join(sorted(traits.private))
        return f"{rule} keeps {private} on the devices: the saved adapter is the shared part, not the model of any device"
    method = make_method(recipe)
    if method is not None and method.private:
        name, private = recipe.personalization.method, ", ".join(sorted(method.private))
        return f"{name} keeps {private} on the devices: the saved adapter is the shared part, not the model of any device"
    return None
