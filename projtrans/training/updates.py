"""What is minimised: the loss of a batch by the model that is trained, as its settings have it. Moves nothing."""

from collections.abc import Callable

import torch
from torch import Tensor

from projtrans.model import devices
from projtrans.model.batching import Batch, PaddedBatch
from projtrans.model.loss import TokenLoss, cross_entropy, r_drop
from projtrans.training.state import TrainState


class Objective(TrainState):
    """One run being trained, and its loss."""

    def positions(self, batch: Batch) -> int:
        """The positions that the loss of a batch is over."""
        return batch.counted_BT.numel() if self.training.padding_in_loss else len(batch.real_N)

    def hidden(self, batch: PaddedBatch, network: Callable[..., Tensor] | None = None) -> Tensor:
        """The decoder's hidden states [B, T, D], bfloat16 under autocast; network: what is to compute them."""
        with devices.autocast(self.device, self.training.precision):
            network = self.model if network is None else network
            h_BTD: Tensor = network(batch.source_BS, batch.source_mask_BS, batch.target_in_BT)
            half = torch.is_autocast_enabled(self.device.type)
        return h_BTD.bfloat16() if half else h_BTD

    def passes(self, batch: Batch) -> list[Tensor]:
        """The hidden states, and under R-Drop those of a second pass, whose dropout differs."""
        return [self.hidden(batch) for _ in range(1 if self.training.r_drop is None else 2)]

    def losses(self, batch: Batch, *h_BTD: Tensor) -> list[TokenLoss]:
        """The loss at real pieces, and that at padding where padding is to be predicted too, of one pass or of two."""
        places = [batch.real_N, batch.padding_N] if self.training.padding_in_loss else [batch.real_N]
        output, smoothing, alpha = self.model.output, self.training.label_smoothing, self.training.r_drop
        target_M = batch.target_out_BT.flatten()
        found = []
        for some in places:
            common = (output.weight, output.bias, target_M[some], smoothing)
            h_ND = [h.flatten(0, 1).index_select(0, some) for h in h_BTD]
            found.append(cross_entropy(h_ND[0], *common) if alpha is None else r_drop(h_ND[0], h_ND[1], *common, alpha))
        return found
