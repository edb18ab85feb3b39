"""The table of methods and the union of their configurations; a new method adds one line to each.

A method of another package adds none: see `raykd.methods.installed`.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, SerializeAsAny, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from raykd.config.yaml_file import explain, section_error
from raykd.errors import unknown
from raykd.methods.adversarial import Adversarial, AdversarialConfig
from raykd.methods.bank_kd import BankKd, BankKdConfig
from raykd.methods.base import Method
from raykd.methods.blind_kd import BlindKd, BlindKdConfig
from raykd.methods.dafl import Dafl, DaflConfig
from raykd.methods.installed import MethodTable
from raykd.methods.kd import Kd, KdConfig
from raykd.methods.label_smoothing import LabelSmoothing, LabelSmoothingConfig
from raykd.methods.lsgdfd import Lsgdfd, LsgdfdConfig
from raykd.methods.lsgdfd_single import LsgdfdSingle, LsgdfdSingleConfig
from raykd.methods.mosaickd import MosaicKd, MosaicKdConfig
from raykd.methods.noise import Noise, NoiseConfig
from raykd.methods.pixel_inversion import PixelInversion, PixelInversionConfig
from raykd.methods.pool_inversion import PoolInversion, PoolInversionConfig
from raykd.methods.supervised import Supervised, SupervisedConfig
from raykd.methods.tfkd_reg import TfkdReg, TfkdRegConfig
from raykd.methods.tfkd_self import TfkdSelf, TfkdSelfConfig

METHODS = MethodTable(
    {
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
        "pool_inversion": PoolInversion,
        "adversarial": Adversarial,
        "pixel_inversion": PixelInversion,
    }
)
_OF_RAYKD = frozenset(METHODS)


def _of_other_package(section: Any, of_raykd: ValidatorFunctionWrapHandler) -> Any:
    """Validate a ``method`` section by its method's own configuration where that is of another package."""
    name = section.get("name") if isinstance(section, Mapping) else getattr(section, "name", None)
    if not isinstance(name, str) or name in _OF_RAYKD:
        return of_raykd(section)
    if name not in METHODS.names():
        raise section_error(str(unknown("method", name, METHODS.names())))
    config = METHODS[name].config
    try:
        return config.model_validate(section)
    except ValidationError as error:
        raise section_error(str(explain(error, name, config, section))) from None


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
    | MosaicKdConfig
    | PoolInversionConfig
    | AdversarialConfig
    | PixelInversionConfig,
    Discriminator("name"),
    WrapValidator(_of_other_package),
    SerializeAsAny(),
]

__all__ = ["METHODS", "Method", "MethodConfig"]
