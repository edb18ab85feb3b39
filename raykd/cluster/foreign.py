"""Files whose format another tool defines: raykd reads a few of their fields, and knows nothing of the others."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raykd.config.yaml_file import explain

LARGEST = 2**31 - 1
Count = Annotated[int, Field(ge=0, le=LARGEST)]


class ForeignConfig(BaseModel):
    """Base of the fields that raykd reads; all others are left to the tool itself, which may have new ones any day."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    @classmethod
    def read(cls, content: dict[str, Any], source: str) -> Self:
        """Read the fields from the content of a file; a key without a value counts as not given.

        Raises:
            UsageError: for a value that cannot be read, with the file ``source`` and the key.
        """
        content = without_nulls(content)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise explain(error, source, cls, content) from None


def without_nulls(node: Any) -> Any:
    """Return a part of a file without nulls: for Kubernetes a key without a value is none, and an item is empty."""
    if isinstance(node, dict):
        return {key: without_nulls(value) for key, value in node.items() if value is not None}
    if isinstance(node, list):
        return [{} if item is None else without_nulls(item) for item in node]
    return node
