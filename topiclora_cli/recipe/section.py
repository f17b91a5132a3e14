"""What all sections of a recipe have in common."""

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    """Base of all recipe sections: immutable, strict about keys, with finite numbers alone.

    What stands in quotes below a key is its description, for `topiclora recipes keys`, editors and the documentation.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic makes 1 of true, which YAML makes of yes and on.
        if isinstance(value, bool) and bool not in _kinds(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("true and false are no value of this key")
        return value


def _as_numpy_has_it(seed: int) -> int:
    if seed >= 2**32:
        raise ValueError("a seed is below 4294967296")
    return seed


Seed = Annotated[int, Field(ge=0), AfterValidator(_as_numpy_has_it)]


def _kinds(annotation: Any) -> set[Any]:
    return {annotation}.union(*map(_kinds, get_args(annotation)))
