"""The problem of equations 13–20 as arrays: what a rank costs each device, and what each device can spend.

Cycles and bits are affine in the rank in every model of the cost, so a problem holds their two coefficients and the solvers
know nothing of layers, heads or caches. All arrays are float64, ``(devices,)``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from fedfit.plans import Charge
from fedfit.wireless.channel import Links
from fedfit.wireless.energy import compute_energy_j, compute_time_s, transmit_energy_j, transmit_time_s
from fedfit.wireless.fleet import Fleet


@dataclass(frozen=True)
class Work:
    """What one round asks of each device at rank r: ``cycles_fixed + r·cycles_per_rank``, and the same of the bits that it
    sends and of those that it receives.
    """

    cycles_fixed: np.ndarray
    cycles_per_rank: np.ndarray
    uplink_bits_fixed: np.ndarray
    uplink_bits_per_rank: np.ndarray
    downlink_bits_fixed: np.ndarray
    downlink_bits_per_rank: np.ndarray

    def take(self, rows: np.ndarray | slice) -> Work:
        """The work of ``rows`` alone."""
        return Work(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


@dataclass(frozen=True)
class Problem:
    """Everything that the choice of rank and frequency depends on."""

    cycles_fixed: np.ndarray
    cycles_per_rank: np.ndarray
    uplink_bits_fixed: np.ndarray
    uplink_bits_per_rank: np.ndarray
    downlink_bits_fixed: np.ndarray
    downlink_bits_per_rank: np.ndarray
    uplink_bits_per_s: np.ndarray
    downlink_bits_per_s: np.ndarray
    transmit_power_w: np.ndarray
    circuit_energy_j: np.ndarray
    capacitance: np.ndarray
    max_frequency_hz: np.ndarray
    energy_budget_j: np.ndarray
    deadline_s: np.ndarray
    max_rank: np.ndarray
    """int64"""

    def __len__(self) -> int:
        return len(self.max_rank)

    def take(self, rows: np.ndarray | slice) -> Problem:
        """The problem of ``rows`` alone; a slice copies nothing."""
        return Problem(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    def with_rates(self, uplink_bits_per_s: np.ndarray, downlink_bits_per_s: np.ndarray) -> Problem:
        """The same problem over other links."""
        return replace(self, uplink_bits_per_s=uplink_bits_per_s, downlink_bits_per_s=downlink_bits_per_s)

    def cycles(self, rank: np.ndarray | int) -> np.ndarray:
        """C·|D| at ``rank``."""
        cycles: np.ndarray = self.cycles_fixed + rank * self.cycles_per_rank
        return cycles

    def uplink_bits(self, rank: np.ndarray | int) -> np.ndarray:
        """M·Q that the device sends at ``rank``."""
        bits: np.ndarray = self.uplink_bits_fixed + rank * self.uplink_bits_per_rank
        return bits

    def downlink_bits(self, rank: np.ndarray | int) -> np.ndarray:
        """M·Q that the device receives at ``rank``."""
        bits: np.ndarray = self.downlink_bits_fixed + rank * self.downlink_bits_per_rank
        return bits


def charges(problem: Problem, rank: np.ndarray | int, frequency_hz: np.ndarray) -> Charge[np.ndarray]:
    """What ``rank`` costs at ``frequency_hz``, ``(devices,)``: equations 1, 3, 4, 8, 9."""
    cycles = problem.cycles(rank)
    uplink_s = transmit_time_s(problem.uplink_bits(rank), problem.uplink_bits_per_s)
    return Charge(
        compute_s=compute_time_s(cycles, frequency_hz),
        uplink_s=uplink_s,
        downlink_s=transmit_time_s(problem.downlink_bits(rank), problem.downlink_bits_per_s),
        compute_j=compute_energy_j(problem.capacitance, cycles, frequency_hz),
        uplink_j=transmit_energy_j(problem.transmit_power_w, uplink_s),
        circuit_j=problem.circuit_energy_j.copy(),
    )


def paper_work(
    fleet: Fleet, products: np.ndarray | float, sums: np.ndarray | float, bits_per_parameter: float, bits_fixed: float
) -> Work:
    """Equations 2 and 5 (the latter as it must read: ``r·(d + k)·Â·l``); the same bits in both directions.

    Args:
        products: ``Σ d·k`` over all adapted matrices of a device, ``d·k·Â·l`` in the paper.
        sums: ``Σ (d + k)`` over the same.
        bits_fixed: sent whatever the rank: the head, and what the packets themselves take.
    """
    cycles = products * fleet.samples / fleet.operations_per_cycle
    fixed, per_rank = np.full(len(fleet), float(bits_fixed)), np.full(len(fleet), sums * bits_per_parameter)
    return Work(-cycles, 2 * cycles, fixed, per_rank, fixed, per_rank)


def make_problem(fleet: Fleet, links: Links, work: Work, deadline_s: float, max_rank: int | np.ndarray) -> Problem:
    """Puts devices, radio, work and limits together; ``max_rank`` of all, or of each."""
    return Problem(
        **{item.name: getattr(work, item.name) for item in fields(work)},
        uplink_bits_per_s=links.uplink_bits_per_s,
        downlink_bits_per_s=links.downlink_bits_per_s,
        transmit_power_w=fleet.transmit_power_w,
        circuit_energy_j=fleet.circuit_energy_j,
        capacitance=fleet.capacitance,
        max_frequency_hz=fleet.max_frequency_hz,
        energy_budget_j=fleet.energy_budget_j,
        deadline_s=np.full(len(fleet), float(deadline_s)),
        max_rank=np.full(len(fleet), max_rank, dtype=np.int64),
    )
