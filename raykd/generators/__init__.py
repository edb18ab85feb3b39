"""Networks that make images."""

from raykd.generators.architecture import GeneratorConfig
from raykd.generators.bank import EVERY, GeneratorBank, activation_bytes, member_parameters
from raykd.generators.dcgan import Dcgan
from raykd.generators.mosaic import MosaicGenerator

__all__ = [
    "EVERY",
    "Dcgan",
    "GeneratorBank",
    "GeneratorConfig",
    "MosaicGenerator",
    "activation_bytes",
    "member_parameters",
]
