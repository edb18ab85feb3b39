"""The table of methods and the union of their configurations; a new method adds one line to each."""

from typing import Annotated, Any

from pydantic import Field

from raykd.methods.bank_kd import BankKd, BankKdConfig
from raykd.methods.base import Method
from raykd.methods.blind_kd import BlindKd, BlindKdConfig
from raykd.methods.dafl import Dafl, DaflConfig
from raykd.methods.kd import Kd, KdConfig
from raykd.methods.label_smoothing import LabelSmoothing, LabelSmoothingConfig
from raykd.methods.lsgdfd import Lsgdfd, LsgdfdConfig
from raykd.methods.lsgdfd_single import LsgdfdSingle, LsgdfdSingleConfig
from raykd.methods.mosaickd import MosaicKd, MosaicKdConfig
from raykd.methods.noise import Noise, NoiseConfig
from raykd.methods.supervised import Supervised, SupervisedConfig
from raykd.methods.tfkd_reg import TfkdReg, TfkdRegConfig
from raykd.methods.tfkd_self import TfkdSelf, TfkdSelfConfig

METHODS: dict[str, Any] = {
    "supervised": Supervised,
    "label_smoothing": LabelSmoothing,
    "kd": Kd,
    "tfkd_self": TfkdSelf,
    "tfkd_reg": TfkdReg,
    "blind_kd": BlindKd,
    "noise": Noise,
    "dafl": Dafl,
    "lsgdfd": Lsgdfd,
    "lsgdfd_single": LsgdfdSingle,
    "bank_kd": BankKd,
    "mosaickd": MosaicKd,
}

MethodConfig = Annotated[
    SupervisedConfig
    | LabelSmoothingConfig
    | KdConfig
    | TfkdSelfConfig
    | TfkdRegConfig
    | BlindKdConfig
    | NoiseConfig
    | DaflConfig
    | LsgdfdConfig
    | LsgdfdSingleConfig
    | BankKdConfig
    | MosaicKdConfig,
    Field(discriminator="name"),
]

__all__ = ["METHODS", "Method", "MethodConfig"]
