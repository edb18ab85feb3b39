"""Networks that make images."""

from raykd.generators.architecture import GeneratorConfig
from raykd.generators.bank import EVERY, GeneratorBank, activation_bytes, member_parameters
from raykd.generators.dcgan import Dcgan
from raykd.generators.mosaic import MosaicGenerator
from raykd.generators.patch_discriminator import Patch, PatchDiscriminator

__all__ = [
    "EVERY",
    "Dcgan",
    "GeneratorBank",
    "GeneratorConfig",
    "MosaicGenerator",
    "Patch",
    "PatchDiscriminator",
    "activation_bytes",
    "member_parameters",
]
