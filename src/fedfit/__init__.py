"""fedfit: fine-tunes one language model across many devices by federated split LoRA."""

import os

__version__ = "0.1.0"

# OpenMP's threads spin while they wait for one another, so two runs on one machine take each other's cores. Sleeping threads do
# not. torch reads the policy when it is imported: the earliest place is here. A choice of the user's stands.
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
