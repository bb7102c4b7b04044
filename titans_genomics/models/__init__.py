"""Models: token ids in, logits and a state of fixed size out."""

from titans_genomics.config import TitansConfig
from titans_genomics.models.memory import NeuralMemory
from titans_genomics.models.state import State, load_state, save_state
from titans_genomics.models.titans import LanguageModel, Titans, Transformer, with_parameters

__all__ = [
    "LanguageModel",
    "NeuralMemory",
    "State",
    "Titans",
    "TitansConfig",
    "Transformer",
    "load_state",
    "save_state",
    "with_parameters",
]
