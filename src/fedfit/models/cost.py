"""A model with its adapter, for counts, and the parameters that are trained and sent. Starts without torch, so that a fleet can
be planned without it. The operations are counted in ``models/flops.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfit.models.layers import select_layers
from fedfit.models.shape import Matrix, ModelShape
from fedfit.models.targets import resolve_all
from fedfit.settings import AdapterSettings


@dataclass(frozen=True)
class AdaptedShape:
    """A model's shape with its adapter; build it with ``adapted_shape``."""

    model: ModelShape
    adapted: tuple[int, ...]
    """The adapted layers, ascending, from 0."""
    targets: tuple[str, ...]
    """The adapted matrices of an adapted layer, by the names in ``model.matrices``."""
    head_trained: bool
    drops_input: bool
    """Whether the factors' input is dropped out in training: keys and values of the last layer are then made in full."""

    @property
    def cut(self) -> int:
        """Layers of the trunk; 0 leaves only the embeddings there."""
        return self.adapted[0]

    def targets_of(self, layer: int) -> frozenset[str]:
        """The adapted matrices of ``layer``, which may be none."""
        return frozenset(self.targets) if layer in self.adapted else frozenset()


def adapted_shape(model: ModelShape, adapter: AdapterSettings) -> AdaptedShape:
    """``model`` with ``adapter``.

    Raises:
        ValueError: for layers or targets that the model does not have.
    """
    return AdaptedShape(
        model=model,
        adapted=select_layers(adapter.layers, model.layers),
        targets=resolve_all(adapter.targets, model.matrices),
        head_trained=adapter.head == "train" and not model.language,
        drops_input=adapter.dropout > 0,
    )


def adapted_matrices(shape: AdaptedShape) -> list[Matrix]:
    """Every adapted matrix, layer by layer."""
    return [shape.model.matrices[target] for _ in shape.adapted for target in shape.targets]


def factor_parameters(shape: AdaptedShape, rank: int) -> int:
    """Parameters of all LoRA factors: ``Σ r·(d + k)``. Equation 5 prints ``(r + k)·d·Â·l``, which is not LoRA's count."""
    return rank * sum(matrix.outputs + matrix.inputs for matrix in adapted_matrices(shape))


def head_parameters(shape: AdaptedShape) -> int:
    """Parameters that are trained and sent beside the factors, biases included; 0 for a frozen head or a language model's."""
    return sum(matrix.parameters for matrix in shape.model.head) if shape.head_trained else 0
