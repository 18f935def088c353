"""What every section of the settings is: frozen and strict, or a choice with options of its own."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section whose keys are all known."""

    # Strict: no number is made of a text, and no 1 sample of ``true``.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Choice(Section):
    """A section whose further keys belong to what ``name`` chooses."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The further keys."""
        return dict(self.model_extra or {})
