"""The networks of DRÆM's settings, those of the ablations too."""

from __future__ import annotations

from torch import nn

from training.methods.draem.config import TrainConfig
from training.networks.alone import DiscriminativeAlone, ReconstructiveAlone, start_at
from training.networks.compact import CompactDraem
from training.networks.draem import Draem


def build_network(config: TrainConfig) -> nn.Module:
    """The network that `config` asks for, with the authors' random start and `anomaly_prior`."""
    network = (CompactDraem if config.compact else Draem)(config.reconstructive_width, config.discriminative_width)
    if config.networks == "reconstructive":
        return ReconstructiveAlone(network, config.distance)
    if config.anomaly_prior:
        start_at(network.last_layer, config.anomaly_prior)
    return DiscriminativeAlone(network) if config.networks == "discriminative" else network
