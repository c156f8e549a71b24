"""What is generated: priors, decoders, the text model made of one of each; and encoders, which read it back."""

from types import MappingProxyType

from sri_pyro.models.decoders.bag_of_words import BagOfWordsDecoder
from sri_pyro.models.decoders.base import Decoder
from sri_pyro.models.decoders.recurrent import GRUDecoder, LSTMDecoder
from sri_pyro.models.encoders import Encoder, LSTMEncoder
from sri_pyro.models.priors import GaussianMixture, Prior, StandardNormal
from sri_pyro.models.sequences import Strategy, TokenSequence
from sri_pyro.models.text import LanguageModel, LatentTextModel

PRIORS: MappingProxyType[str, type[Prior]] = MappingProxyType(
    {"standard_normal": StandardNormal, "mixture": GaussianMixture}
)
DECODERS: MappingProxyType[str, type[Decoder]] = MappingProxyType(
    {"lstm": LSTMDecoder, "gru": GRUDecoder, "bag_of_words": BagOfWordsDecoder}
)
ENCODERS: MappingProxyType[str, type[Encoder]] = MappingProxyType({"lstm": LSTMEncoder})

__all__ = [
    "DECODERS",
    "ENCODERS",
    "PRIORS",
    "BagOfWordsDecoder",
    "Decoder",
    "Encoder",
    "GRUDecoder",
    "GaussianMixture",
    "LSTMDecoder",
    "LSTMEncoder",
    "LanguageModel",
    "LatentTextModel",
    "Prior",
    "StandardNormal",
    "Strategy",
    "TokenSequence",
]
