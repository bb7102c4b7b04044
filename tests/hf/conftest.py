"""Small models of every variant as models of transformers."""

import pytest
import torch

VARIANTS = ["lmm", "mac", "mag", "mal", "transformer", "gated_deltanet", "diagonal"]
SMALL = {
    "vocab_size": 20, "d_model": 16, "n_layers": 2, "n_heads": 2, "chunk": 4, "segment": 8, "window": 6, "persistent": 3, "conv": 3,
    "pad_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
LENGTHS = [23, 18, 12, 3]


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def build():
    """A function from a variant and options of the config to a TitansForCausalLM."""
    from titans_genomics.hf import TitansForCausalLM, TitansPretrainedConfig

    def make(variant, kind=TitansForCausalLM, **options):
        torch.manual_seed(0)
        model = kind(TitansPretrainedConfig(variant=variant, **{**SMALL, **options})).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "to_gates" in name:  # away from where they begin, so that what is written and forgotten matters
                    parameter.add_(torch.randn_like(parameter))
                if "lm_head" in name:
                    parameter.mul_(20)
        return model

    return make


@pytest.fixture
def prompts():
    """Rows of different lengths, padded on the left: tokens and mask (4, 23)."""
    tokens = torch.randint(2, 20, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(max(LENGTHS)) >= max(LENGTHS) - torch.tensor(LENGTHS)[:, None]
    return tokens * mask, mask.long()
