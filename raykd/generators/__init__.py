"""Networks that make images."""

from raykd.generators.architecture import GeneratorConfig
from raykd.generators.bank import EVERY, GeneratorBank, activation_bytes, member_parameters
from raykd.generators.dcgan import Dcgan

__all__ = ["EVERY", "Dcgan", "GeneratorBank", "GeneratorConfig", "activation_bytes", "member_parameters"]
