"""Teaching peft the names of our methods.

peft keeps its methods in a closed str-Enum and offers no public way to add to it; a plain string instead of a member
breaks transformers' adapter loading. This file is the project's only reach into another library's private parts.
"""

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method


def extend_peft_type(name: str) -> PeftType:
    """Return the PeftType member called `name` (upper case), adding it first if peft does not know it."""
    key = name.upper()
    if key in PeftType.__members__:
        return PeftType[key]
    member = str.__new__(PeftType, key)
    member._name_ = key
    member._value_ = key
    member._sort_order_ = len(PeftType.__members__)  # type: ignore[attr-defined]
    type.__setattr__(PeftType, key, member)
    PeftType._member_names_.append(key)
    PeftType._member_map_[key] = member
    PeftType._value2member_map_[key] = member
    return member


def register(name: str, config_class: type[PeftConfig], model_class: type[BaseTuner]) -> None:
    """Make `name` a peft method; doing so twice changes nothing."""
    if extend_peft_type(name) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config_class, model_cls=model_class)
