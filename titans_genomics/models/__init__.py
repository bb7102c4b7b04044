"""Models: token ids in, logits and a state of fixed size out."""

from titans_genomics.config import TitansConfig
from titans_genomics.models.memory import NeuralMemory
from titans_genomics.models.titans import LanguageModel, State, Titans, Transformer, map_tensors

__all__ = ["LanguageModel", "NeuralMemory", "State", "Titans", "TitansConfig", "Transformer", "map_tensors"]
