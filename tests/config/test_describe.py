"""Fields in words."""

from typing import Annotated, Literal

from pydantic import Field

from raykd.config.base import Config
from raykd.config.describe import describe_fields


class Round(Config):
    name: Literal["round"]
    radius: float = Field(gt=0, le=9, description="of it")


class Square(Config):
    name: Literal["square"] = "square"
    side: int | None = None


class Whole(Config):
    shape: Annotated[Round | Square, Field(discriminator="name")] = Field(default=Square(side=2), description="which")
    tags: tuple[str, ...] = ("a",)
    on: bool = True


def test_fields_are_described_with_those_of_sections_in_them() -> None:
    assert [tuple(field) for field in describe_fields(Whole, "whole.")] == [
        ("whole.shape", "section round | square", '{"name": "square", "side": 2}', "which"),
        ("whole.shape.name", "round | square", "required", "which one it is"),
        ("whole.shape.radius", "number > 0 and <= 9", "required", "of it (of round)"),
        ("whole.shape.side", "whole number or null", "null", " (of square)"),
        ("whole.tags", "list of text", '["a"]', ""),
        ("whole.on", "true or false", "true", ""),
    ]
