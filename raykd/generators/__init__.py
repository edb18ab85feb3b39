"""Networks that make images."""

from raykd.generators.dcgan import Dcgan

__all__ = ["Dcgan"]
