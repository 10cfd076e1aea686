"""What the packets of a fleet file's adapter take under a codec: measured on an adapter of its shapes, without a model."""

from __future__ import annotations

import torch

from fedfit.aggregation.contract import Context
from fedfit.aggregation.rules.fedavg import ENTRY as FEDAVG
from fedfit.codecs.table import make_codec
from fedfit.core.update import HEAD, Factors, Update, update_of
from fedfit.errors import Fault, RecipeError
from fedfit.experiment.adaptation import adapted_layer
from fedfit.experiment.transport_faults import transport_faults
from fedfit.fleet_settings import FleetFile
from fedfit.planning.packets import Packets
from fedfit.settings import TransportSettings
from fedfit.simulation.traffic import downlink_traffic, uplink_traffic

PLAIN = "plain"
_MOST_NUMBERS = 4_000_000


def packets_of(file: FleetFile, words: str) -> Packets:
    """What FedAvg's packets of the fleet's adapter take.

    Args:
        words: ``UPLINK`` or ``UPLINK/DOWNLINK``, each a codec or stages joined by commas; the downlink is ``plain`` by default.

    Raises:
        RecipeError: for no codec, or a fleet file that says the bits of a parameter itself.
    """
    if words.count("/") > 1:
        raise RecipeError(
            [Fault("--transport", words, "one slash parts UPLINK and DOWNLINK; stages are joined by commas")], "the command"
        )
    up, slash, down = words.partition("/")
    uplink, downlink = (tuple(filter(None, part.split(","))) for part in (up, down if slash else PLAIN))
    transport = TransportSettings(uplink=uplink, downlink=downlink)
    faults = [Fault("--transport", words, f"{fault.key}: {fault.remedy}") for fault in transport_faults(transport)]
    if file.adaptation.bits_per_parameter != 32:
        remedy = "--transport says how many bits a parameter takes; leave it at 32"
        faults.append(Fault("adaptation.bits_per_parameter", file.adaptation.bits_per_parameter, remedy))
    if faults:
        raise RecipeError(faults, "the command")
    adapter, rule = _adapter(file), FEDAVG.make(None, Context())
    ways = (
        uplink_traffic(rule, make_codec(uplink), adapter, 1),
        downlink_traffic(rule, make_codec(downlink), adapter, 1),
    )
    numbers = adapted_layer(file.adaptation).sums * file.adaptation.layers
    up_bits, down_bits = (way.bits_per_rank / numbers for way in ways)
    return Packets(words, up_bits, ways[0].bits_fixed, down_bits, ways[1].bits_fixed)


def _adapter(file: FleetFile) -> Update:
    """An adapter of the fleet's matrices: of zeros, since no length that a plan counts with depends on the numbers.

    At the highest rank, whose header is the widest, or at the highest of a few million numbers.
    """
    layer, adaptation = adapted_layer(file.adaptation), file.adaptation
    rank = min(adaptation.max_rank or layer.max_rank, max(1, _MOST_NUMBERS // (layer.sums * adaptation.layers)))
    pairs = {
        f"layer.{number}.{place}.{matrix.name}": Factors(torch.zeros(rank, matrix.inputs), torch.zeros(matrix.outputs, rank), 1)
        for number in range(adaptation.layers)
        for place, matrix in enumerate(layer.matrices)
    }
    head = {"weight": torch.zeros(adaptation.head_parameters)} if adaptation.head_parameters else {}
    return update_of(pairs, {HEAD: head} if head else {}, 1.0, {})
