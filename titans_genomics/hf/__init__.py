"""The models as Hugging Face models: importing this registers model type ``titans`` with the Auto classes of transformers.

`hf.export` makes a folder that they load of a trained model; it is imported by itself, because training comes with it.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from titans_genomics.hf.cache import TitansCache
from titans_genomics.hf.configuration import TitansPretrainedConfig
from titans_genomics.hf.modeling import TitansForCausalLM, TitansForSequenceClassification, TitansModel

__all__ = [
    "TitansCache",
    "TitansForCausalLM",
    "TitansForSequenceClassification",
    "TitansModel",
    "TitansPretrainedConfig",
]

AutoConfig.register(TitansPretrainedConfig.model_type, TitansPretrainedConfig, exist_ok=True)
AutoModel.register(TitansPretrainedConfig, TitansModel, exist_ok=True)
AutoModelForCausalLM.register(TitansPretrainedConfig, TitansForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(TitansPretrainedConfig, TitansForSequenceClassification, exist_ok=True)
