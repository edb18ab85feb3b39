"""The base of every configuration section."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every configuration section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
