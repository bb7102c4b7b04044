"""Low-rank additions (LoRA, arXiv 2106.09685) to the linear layers of a model, through `peft`.

Imported where it is needed only: `peft` brings a library of models with it.
"""

from __future__ import annotations

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from torch import Tensor, nn

from titans_genomics.ops.linear import linear


class LowRankLinear(lora.Linear):
    """A linear layer whose weight is W + alpha / rank B A, in its own call and wherever parts of its weight are used.

    The mixers project keys alone or queries alone with rows of a layer's weight, and `peft` as it comes would leave the
    addition out there.
    """

    @property
    def weight(self) -> Tensor:
        """The weight with its addition, (out, in)."""
        return self.base_layer.weight + self.get_delta_weight("default")

    def forward(self, x: Tensor) -> Tensor:
        y = linear(x, self.weight)
        return y if self.bias is None else y + self.bias


def add_low_rank(model: nn.Module, rank: int, alpha: float) -> None:
    """Add A (rank, in), random, and B (out, rank), zero, to every linear layer of a model; nothing else is trained from now on."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names)
    config._register_custom_module({nn.Linear: LowRankLinear})
    inject_adapter_in_model(config, model)
