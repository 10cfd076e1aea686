"""What ``fedfit plan`` does: from a fleet file to a plan in plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fedfit.errors import Fault, RecipeError, choose
from fedfit.experiment.adaptation import adapted_layer
from fedfit.experiment.fleet_file import fleet_of
from fedfit.fleet_settings import FleetFile
from fedfit.planning.bandwidth import over_bands, servable, share_band
from fedfit.planning.layers import choose_layers
from fedfit.planning.least import least, least_for_some, why_infeasible
from fedfit.planning.packets import Packets
from fedfit.planning.planner import Solution, solve, solve_at
from fedfit.planning.problem import Problem, make_problem, paper_work
from fedfit.planning.solvers import as_printed, at_frequency, exact, exhaustive, random_frequencies
from fedfit.planning.words import device_words
from fedfit.randomness import derive_seed
from fedfit.wireless.channel import Links, draw_links, mean_links
from fedfit.wireless.fleet import Fleet
from fedfit.wireless.magnitudes import magnitude_warnings

SOLVERS = ("exact", "exhaustive", "as_printed", "random_frequency")
POLICIES = ("common", "per_device")
FREQUENCIES = ("least_energy", "fastest")


@dataclass(frozen=True)
class PlanOptions:
    """How to plan. ``share_band_hz`` shares that band among the devices in place of their own sub-bands; ``for_rank`` asks
    for the least deadline and the least energy with which that rank can be done; ``round`` draws the fading of that round,
    0 plans at the mean gains; ``transport`` names codecs, ``UPLINK`` or ``UPLINK/DOWNLINK``, in the place of
    ``adaptation.bits_per_parameter``.
    """

    solver: str = "exact"
    policy: str = "common"
    frequency: str = "least_energy"
    drop_infeasible: bool = False
    share_band_hz: float | None = None
    for_rank: int | None = None
    choose_layers: bool = False
    random_frequency_low: float = 0.1
    round: int = 0
    transport: str | None = None

    def check(self) -> None:
        """Holds the options to the known words and ranges.

        Raises:
            RecipeError: with every fault found.
        """
        faults = []
        words = (
            ("--solver", self.solver, SOLVERS),
            ("--policy", self.policy, POLICIES),
            ("--frequency", self.frequency, FREQUENCIES),
        )
        for name, value, choices in words:
            if value not in choices:
                faults.append(Fault(name, value, choose(value, choices)))
        if self.share_band_hz is not None and not 0 < self.share_band_hz < np.inf:
            faults.append(Fault("--share-band-hz", self.share_band_hz, "must be a band above 0"))
        if self.for_rank is not None and self.for_rank < 1:
            faults.append(Fault("--for-rank", self.for_rank, "must be at least 1"))
        if self.round < 0:
            faults.append(Fault("--round", self.round, "must be at least 0"))
        if self.choose_layers and self.policy == "common":
            faults.append(Fault("--policy", self.policy, "--choose-layers gives each device its own; add --policy per_device"))
        if self.choose_layers and self.solver != "exact":
            faults.append(Fault("--solver", self.solver, "--choose-layers is solved exactly; leave --solver out"))
        if self.share_band_hz is not None and (self.policy, self.solver) != ("common", "exact"):
            faults.append(Fault("--share-band-hz", self.share_band_hz, "it is for --policy common and --solver exact"))
        if self.transport is not None and self.solver == "as_printed":
            faults.append(Fault("--transport", self.transport, "the algorithm as printed knows one Q; leave --solver out"))
        if faults:
            raise RecipeError(faults, "the command")


def plan_fleet(file: FleetFile, options: PlanOptions) -> dict[str, Any]:
    """The plan as JSON holds it; ``docs/plans.md`` says how to read it.

    ``feasible`` is false, ``rank`` null and ``devices`` empty when a device cannot do rank 1 and is not to be dropped.
    """
    highest = _highest_rank(file)
    if options.for_rank is not None and options.for_rank > highest:
        raise RecipeError(
            [Fault("--for-rank", options.for_rank, f"the highest rank of this fleet is {highest}")], "the command"
        )
    fleet = fleet_of(file)
    seed = file.fleet.seed or 0
    links = draw_links(fleet, file.channel, seed, options.round) if options.round else mean_links(fleet)
    layers = np.where(fleet.layers > 0, fleet.layers, file.adaptation.layers)
    packets = _packets(file, options)
    up, down = _bits_of_rank_1(file, packets)
    plan: dict[str, Any] = {
        "rank": None,
        "policy": options.policy,
        "solver": options.solver,
        "frequency": options.frequency,
        "deadline_s": file.round.deadline_s,
        "devices": [],
        "infeasible": [],
        "remedy": None,
        "warnings": magnitude_warnings(fleet, links, up, down),
    }
    if packets is not None:
        plan["transport"] = asdict(packets)
    if options.choose_layers:
        most = file.adaptation.layers
        depth = choose_layers(lambda count: _problem(file, fleet, links, np.full(len(fleet), float(count)), packets), most)
        layers = np.where(depth.layers > 0, depth.layers, layers)
        plan["total_layers"] = most
    problem = _problem(file, fleet, links, layers, packets)
    if options.share_band_hz is not None:
        band_hz, certain = _shared(problem, fleet, links, options)
        problem = over_bands(problem, fleet, links, band_hz)
        plan |= {"band_hz": options.share_band_hz, "certain": certain}
    own_rank, frequency_hz = _own_ranks(file, problem, layers, options, seed)
    there = own_rank > 0
    plan["infeasible"] = _infeasible(fleet, problem, there, frequency_hz)
    if not there.any():
        plan["remedy"] = least_for_some(problem, frequency_hz)
    if options.for_rank is not None:
        plan["for_rank"] = _for_rank(fleet, problem, options.for_rank)
    if not there.all() and not options.drop_infeasible:
        return plan
    rows = np.flatnonzero(there)
    part, kept = problem.take(rows), fleet.take(rows)
    solution = _solve(part, own_rank[rows], None if frequency_hz is None else frequency_hz[rows], options)
    plan["rank"] = solution.common_rank
    extra: dict[str, Any] = {}
    if options.choose_layers:
        extra["layers"] = layers[rows].astype(int)
    if options.share_band_hz is not None:
        extra["band_hz"] = band_hz[rows]
    plan["devices"] = device_words(part, kept, links.take(rows), solution, extra)
    return plan


def _shared(problem: Problem, fleet: Fleet, links: Links, options: PlanOptions) -> tuple[np.ndarray, bool]:
    """The sub-bands, and whether their common rank is certainly the highest. Whoever is dropped gets none of the band; its
    entry is an equal share, under which it could not do rank 1 either.
    """
    total_hz = options.share_band_hz or 0.0
    bands = np.full(len(fleet), total_hz / len(fleet))
    everyone = np.ones(len(fleet), dtype=bool)
    rows = np.flatnonzero(servable(problem, fleet, links, total_hz) if options.drop_infeasible else everyone)
    share = share_band(problem.take(rows), fleet.take(rows), links.take(rows), total_hz)
    bands[rows] = share.band_hz
    return bands, share.certain


def own_ranks_at(file: FleetFile, options: PlanOptions, deadlines_s: np.ndarray) -> np.ndarray:
    """The exact highest rank of each device at each deadline, ``(deadlines, devices)``; 0 where rank 1 is too much."""
    fleet, packets = fleet_of(file), _packets(file, options)
    links = draw_links(fleet, file.channel, file.fleet.seed or 0, options.round) if options.round else mean_links(fleet)
    layers = np.where(fleet.layers > 0, fleet.layers, file.adaptation.layers)
    problem = _problem(file, fleet, links, layers, packets)
    return np.stack([exact(replace(problem, deadline_s=np.full(len(fleet), deadline))) for deadline in deadlines_s])


def _packets(file: FleetFile, options: PlanOptions) -> Packets | None:
    """The packets of ``options.transport``; a plan without one needs no torch."""
    if options.transport is None:
        return None
    from fedfit.experiment.fleet_packets import packets_of

    return packets_of(file, options.transport)


def _bits_of_rank_1(file: FleetFile, packets: Packets | None) -> tuple[float, float]:
    """Sent and received at rank 1."""
    a, numbers = file.adaptation, adapted_layer(file.adaptation).sums * file.adaptation.layers
    if packets is None:
        bits = (numbers + a.head_parameters) * a.bits_per_parameter
        return bits, bits
    up = packets.uplink_bits_fixed + numbers * packets.uplink_bits_per_parameter
    return up, packets.downlink_bits_fixed + numbers * packets.downlink_bits_per_parameter


def _problem(file: FleetFile, fleet: Fleet, links: Links, layers: np.ndarray, packets: Packets | None) -> Problem:
    a, layer = file.adaptation, adapted_layer(file.adaptation)
    work = paper_work(
        fleet,
        products=layer.products * layers,
        sums=layer.sums * layers,
        bits_per_parameter=a.bits_per_parameter,
        bits_fixed=a.head_parameters * a.bits_per_parameter,
    )
    if packets is not None:
        work = packets.charged(work, layer.sums * layers)
    return make_problem(fleet, links, work, file.round.deadline_s, _highest_rank(file))


def _highest_rank(file: FleetFile) -> int:
    return file.adaptation.max_rank or adapted_layer(file.adaptation).max_rank


def _own_ranks(
    file: FleetFile, problem: Problem, layers: np.ndarray, options: PlanOptions, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Each device's highest rank by the solver, and its frequency where that is drawn."""
    if options.solver == "random_frequency":
        drawn = random_frequencies(
            problem.max_frequency_hz, options.random_frequency_low, derive_seed(seed, "frequency", options.round)
        )
        return at_frequency(problem, drawn), drawn
    if options.solver == "as_printed":
        layer, bits = adapted_layer(file.adaptation), file.adaptation.bits_per_parameter

        def printed_bits(rank: float) -> np.ndarray:
            return (rank * layer.outputs + layer.products) * layers * bits  # Σ (r + k)·d

        return as_printed(problem, printed_bits), None
    return (exact if options.solver == "exact" else exhaustive)(problem), None


def _solve(problem: Problem, own_rank: np.ndarray, frequency_hz: np.ndarray | None, options: PlanOptions) -> Solution:
    common = options.policy == "common"
    if frequency_hz is not None:
        return solve_at(problem, frequency_hz, common=common)
    return solve(problem, own_rank, common=common, frequency=options.frequency)


def _infeasible(fleet: Fleet, problem: Problem, there: np.ndarray, frequency_hz: np.ndarray | None) -> list[dict[str, str]]:
    rows = np.flatnonzero(~there)
    reasons = why_infeasible(problem.take(rows), None if frequency_hz is None else frequency_hz[rows])
    return [{"id": fleet.id_of(int(row)), "reason": reason} for row, reason in zip(rows, reasons, strict=True)]


def _for_rank(fleet: Fleet, problem: Problem, rank: int) -> dict[str, Any]:
    """The least limits with which every device can do ``rank``; null where no such limit can be enough."""
    limits = least(problem, rank)
    devices = [
        {"id": fleet.id_of(row), "deadline_s": _finite(limits.deadline_s[row]), "energy_j": _finite(limits.energy_j[row])}
        for row in range(len(fleet))
    ]
    whole = {"deadline_s": _finite(limits.deadline_s.max()), "energy_j": _finite(limits.energy_j.max())}
    return {"rank": rank, **whole, "devices": devices}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
