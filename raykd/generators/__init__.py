"""Networks that make images."""

from raykd.generators.architecture import GeneratorConfig
from raykd.generators.bank import EVERY, GeneratorBank, activation_bytes, member_parameters
from raykd.generators.dcgan import Dcgan
from raykd.generators.output import STANDARDISED, Kind, Output, OutputRange, choose_output, outside_share
from raykd.generators.patch_discriminator import Patch, PatchDiscriminator
from raykd.generators.unit import UnitGenerator, initialise

__all__ = [
    "EVERY",
    "STANDARDISED",
    "Dcgan",
    "GeneratorBank",
    "GeneratorConfig",
    "Kind",
    "Output",
    "OutputRange",
    "Patch",
    "PatchDiscriminator",
    "UnitGenerator",
    "activation_bytes",
    "choose_output",
    "initialise",
    "member_parameters",
    "outside_share",
]
