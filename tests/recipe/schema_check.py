"""As much of JSON schema as a recipe's schema uses, for tests; a keyword that it does not know fails them."""

import re
from typing import Any

NOTES = {"$schema", "$defs", "title", "description", "default", "deprecated"}
_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def complaints(value: Any, schema: Any, root: dict[str, Any], at: str = "") -> list[str]:
    """What a schema has against a value, each with the dotted place."""
    if schema is True:
        return []
    found: list[str] = []
    for keyword, rule in schema.items():
        found += _RULES[keyword](value, rule, schema, root, at) if keyword not in NOTES else []
    return found


def _says(failed: bool, at: str, text: str) -> list[str]:
    return [f"{at or 'recipe'}: {text}"] if failed else []


def _type(value, rule, schema, root, at):
    kinds = [rule] if isinstance(rule, str) else rule
    fits = any(isinstance(value, _TYPES[kind]) and isinstance(value, bool) <= (kind == "boolean") for kind in kinds)
    return _says(not fits, at, f"{value!r} is no {' or '.join(kinds)}")


def _properties(value, rule, schema, root, at):
    held = value if isinstance(value, dict) else {}
    return [text for key in rule.keys() & held for text in complaints(held[key], rule[key], root, f"{at}.{key}")]


def _additional(value, rule, schema, root, at):
    patterns = schema.get("patternProperties", {})
    known = schema.get("properties", {})
    others = [] if not isinstance(value, dict) else [key for key in value if key not in known]
    others = [key for key in others if not any(re.search(pattern, key) for pattern in patterns)]
    if rule is False:
        return [f"{at}.{key}: unknown key" for key in others]
    return [text for key in others for text in complaints(value[key], rule, root, f"{at}.{key}")]


def _patterns(value, rule, schema, root, at):
    held = value.items() if isinstance(value, dict) else ()
    return [
        text
        for pattern, inner in rule.items()
        for key, item in held
        if re.search(pattern, key)
        for text in complaints(item, inner, root, f"{at}.{key}")
    ]


def _items(value, rule, schema, root, at):
    items = value if isinstance(value, list) else []
    return [text for n, item in enumerate(items) for text in complaints(item, rule, root, f"{at}.{n}")]


def _any(value, rule, schema, root, at):
    tried = [complaints(value, inner, root, at) for inner in rule]
    return [] if [] in tried else min(tried, key=len)


def _one(value, rule, schema, root, at):
    tried = [complaints(value, inner, root, at) for inner in rule]
    fitting = tried.count([])
    return (
        []
        if fitting == 1
        else _says(fitting > 1, at, f"{fitting} kinds at once")
        or min(tried, key=lambda texts: (_of_another(texts, at), len(texts)))
    )


def _of_another(texts, at):
    """Whether what was tried is the kind of other methods."""
    return any(text.startswith(f"{at}.method:") for text in texts)


def _number(fits):
    def check(value, rule, schema, root, at):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return _says(is_number and not fits(value, rule), at, f"{value!r} is out of bounds ({rule})")

    return check


_RULES = {
    "$ref": lambda value, rule, schema, root, at: complaints(value, root["$defs"][rule.split("/")[-1]], root, at),
    "type": _type,
    "enum": lambda value, rule, schema, root, at: _says(value not in rule, at, f"{value!r} is none of {rule}"),
    "const": lambda value, rule, schema, root, at: _says(value != rule, at, f"{value!r} is not {rule!r}"),
    "required": lambda value, rule, schema, root, at: _says(
        isinstance(value, dict) and not set(rule) <= set(value), at, f"one of {rule} is missing"
    ),
    "properties": _properties,
    "additionalProperties": _additional,
    "patternProperties": _patterns,
    "items": _items,
    "anyOf": _any,
    "oneOf": _one,
    "minimum": _number(lambda value, bound: value >= bound),
    "maximum": _number(lambda value, bound: value <= bound),
    "exclusiveMinimum": _number(lambda value, bound: value > bound),
    "exclusiveMaximum": _number(lambda value, bound: value < bound),
    "minItems": lambda value, rule, schema, root, at: _says(
        isinstance(value, list) and len(value) < rule, at, f"fewer than {rule}"
    ),
    "pattern": lambda value, rule, schema, root, at: _says(
        isinstance(value, str) and not re.search(rule, value), at, f"{value!r} does not match {rule}"
    ),
}
