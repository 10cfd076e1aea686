"""An adapter of a device's own, in its memory from round to round."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedfit.aggregation.resize import resize_update
from fedfit.core.update import AdapterSize, Memory, Update, grouped, named_tensors
from fedfit.errors import UpdateRefused

_SCALE = "scale "


def keep(adapter: Update, numbers: Mapping[str, int | float] | None = None) -> Memory:
    """``adapter`` as a memory, with ``numbers`` of the method's own."""
    scales = {_SCALE + name: scale for name, scale in adapter.scales.items()}
    return Memory(named_tensors(adapter), {**scales, **(numbers or {})})


def check_names(own: Memory, wanted: Collection[str]) -> None:
    """Holds the names of the tensors in ``own`` to ``wanted``.

    Raises:
        UpdateRefused: when they are those of another model, or of other layers.
    """
    names, due = own.tensors.keys(), set(wanted)
    if names != due:
        missing, unknown = sorted(due - names), sorted(names - due)
        raise UpdateRefused(f"the device's own adapter is another model's: missing {missing[:2]}, unknown {unknown[:2]}")


def recall(own: Memory, like: Update) -> Update:
    """The adapter in ``own``, at the ranks that it was kept with.

    Raises:
        UpdateRefused: when it is an adapter of other tensors than ``like``: of another model, or of other layers.
    """
    check_names(own, named_tensors(like))
    scales = {name.removeprefix(_SCALE): float(s) for name, s in own.numbers.items() if name.startswith(_SCALE)}
    return Update(grouped(own.tensors), scales, like.weight)


def recalled_at_rank_of(own: Memory, like: Update, seed: int) -> Update:
    """``recall``, at the ranks and scales of ``like``: a plan may have changed the rank since."""
    adapter = recall(own, like)
    sizes = {AdapterSize(len(pair.a), pair.scale) for pair in like.factors.values()}
    return resize_update(adapter, sizes.pop(), seed) if len(sizes) == 1 else adapter
