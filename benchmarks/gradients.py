"""Before anything is timed: fedfit and the plain model have the same gradients. A wrong scale passes for a small loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.plain import load, padded, trainable
from benchmarks.split import named
from benchmarks.work import Case, Work
from fedfit.core.update import HEAD, Job, Update
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk

TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}  # a GPU adds up in another order


class GradientsDiffer(Exception):
    """The contenders do not do the same work; timing them would say nothing."""


def check_gradients(case: Case, work: Work, model: SplitModel, plain: Any, initial: Update) -> float:
    """The largest ‖g − g'‖ / ‖g'‖ over all trainable tensors, for one batch in float32 without dropout.

    Raises:
        GradientsDiffer: when it is above the tolerance, or other tensors are trained.
    """
    batch = work.batches[0][0]
    try:
        load(plain, named(initial))
    except KeyError as error:
        raise GradientsDiffer(str(error)) from error
    model.adapter.load(Job(initial))
    plain.train(not case.dropout)
    inputs = padded(work, batch, case.max_tokens, int(plain.config.pad_token_id))
    wanted = _gradients(plain(**{name: tensor.to(case.torch_device) for name, tensor in inputs.items()}).loss, trainable(plain))
    model.train_mode(True)
    states = Trunk(model, None, "float32").batch(work.samples, batch)
    labels = torch.from_numpy(work.samples.classes[batch]).to(case.torch_device)
    loss = functional.cross_entropy(model.tail(states), labels)
    parameters = {_plain_name(name): parameter for name, parameter in model.adapter.named_parameters().items()}
    found = _gradients(loss, parameters)
    errors = {name: float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted}
    worst = max(errors, key=lambda name: errors[name])
    tolerance = TOLERANCE[case.torch_device.type]
    if not errors[worst] <= tolerance:
        raise GradientsDiffer(
            f"{case.model}: the gradient of {worst} differs by {errors[worst]:.1e}, more than {tolerance:.0e}"
        )
    return errors[worst]


def _gradients(loss: Tensor, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))


def _plain_name(name: str) -> str:
    """``lora_A.<module>`` as ``<module>.lora_A``, and ``head.<name>`` as ``<name>``: as the plain loop names them."""
    group, _, rest = name.partition(".")
    return rest if group == HEAD else f"{rest}.{group}"
