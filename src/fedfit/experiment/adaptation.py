"""The adapted matrices of a fleet file: those of a model that it names, or alike ones of the sizes that it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from fedfit.errors import Fault, ModelError
from fedfit.fleet_settings import AdaptationSettings
from fedfit.models.named_shapes import named_shape
from fedfit.models.shape import Matrix
from fedfit.models.targets import resolve_all

_OWN_SIZES = ("input_dim", "output_dim", "matrices_per_layer")
_TARGETS = ("query", "value")


@dataclass(frozen=True)
class AdaptedLayer:
    """The adapted matrices of one layer; all layers are alike."""

    matrices: tuple[Matrix, ...]

    @property
    def products(self) -> int:
        """``Σ d·k``, of equation 2."""
        return sum(matrix.outputs * matrix.inputs for matrix in self.matrices)

    @property
    def sums(self) -> int:
        """``Σ (d + k)``, of equation 5 as it must read: the parameters of rank 1."""
        return sum(matrix.outputs + matrix.inputs for matrix in self.matrices)

    @property
    def outputs(self) -> int:
        """``Σ d``, of equation 5 as printed."""
        return sum(matrix.outputs for matrix in self.matrices)

    @property
    def max_rank(self) -> int:
        """The least ``min(d, k)``: no higher rank fits every matrix."""
        return min(min(matrix.size) for matrix in self.matrices)


def adapted_layer(settings: AdaptationSettings) -> AdaptedLayer:
    """The matrices of one layer, of settings without ``adaptation_faults``."""
    if settings.model is None:
        matrix = Matrix("adapted", settings.output_dim, settings.input_dim)
        return AdaptedLayer((matrix,) * settings.matrices_per_layer)
    known = named_shape(settings.model).matrices
    return AdaptedLayer(tuple(known[name] for name in resolve_all(settings.targets or _TARGETS, known)))


def adaptation_faults(settings: AdaptationSettings) -> Iterator[Fault]:
    """Faults between the keys of ``[adaptation]``."""
    faults = list(_model_faults(settings))
    yield from faults
    limit = 0 if faults else adapted_layer(settings).max_rank
    if settings.max_rank is not None and settings.max_rank > limit > 0:
        yield Fault("adaptation.max_rank", settings.max_rank, f"a matrix of {limit} rows or columns has no higher rank")


def _model_faults(settings: AdaptationSettings) -> Iterator[Fault]:
    if settings.model is None:
        if settings.targets:
            yield Fault("adaptation.targets", list(settings.targets), "they are those of adaptation.model; name it")
        return
    defaults = {item.name: item.default for item in fields(settings)}
    for name in _OWN_SIZES:
        if getattr(settings, name) != defaults[name]:
            yield Fault(f"adaptation.{name}", getattr(settings, name), "the model gives the sizes; remove one or the other")
    try:
        shape = named_shape(settings.model)
    except ModelError as error:
        yield Fault("adaptation.model", settings.model, str(error))
        return
    if settings.layers > shape.layers:
        yield Fault("adaptation.layers", settings.layers, f"{settings.model} has {shape.layers}")
    if shape.language and settings.head_parameters:
        yield Fault(
            "adaptation.head_parameters", settings.head_parameters, "the head of a language model stays frozen; set it to 0"
        )
    try:
        resolve_all(settings.targets or _TARGETS, shape.matrices)
    except ValueError:
        remedy = f"name each of {', '.join(shape.matrices)} at most once"
        yield Fault("adaptation.targets", list(settings.targets), remedy)
