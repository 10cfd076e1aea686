"""What the packets of a fleet's adapter take under a codec, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedfit.planning.problem import Work


@dataclass(frozen=True)
class Packets:
    """Bits of a parameter of the factors, and those of a packet at any rank: the head, names and framing."""

    transport: str
    uplink_bits_per_parameter: float
    uplink_bits_fixed: float
    downlink_bits_per_parameter: float
    downlink_bits_fixed: float

    def charged(self, work: Work, sums: np.ndarray) -> Work:
        """``work`` with these packets; ``sums`` are the parameters of rank 1 by device."""
        return replace(
            work,
            uplink_bits_fixed=np.full(len(sums), self.uplink_bits_fixed),
            uplink_bits_per_rank=sums * self.uplink_bits_per_parameter,
            downlink_bits_fixed=np.full(len(sums), self.downlink_bits_fixed),
            downlink_bits_per_rank=sums * self.downlink_bits_per_parameter,
        )
