"""A reader for JSON of unknown origin: it limits size and depth, rejects duplicate names, and checks the form.

A form is one of

    str, bool, dict, list    a value of that type
    int, float               a number, not a bool; a whole number is also a float
    None                     null
    object                   anything
    (FORM, FORM)             one or the other
    [FORM]                   a list of values of this form
    {str: FORM}              an object with any names and values of this form
    {"NAME": FORM}           an object with at least these names; "NAME?" may be missing
"""

import json
import math
import os
from typing import Any

from vaedm_jax.storage.damage import read_bytes, reading

WHAT = "JSON file"
MOST = 2**24  # bytes of a file; the parsed value may take about 20 times as much memory
DEEPEST = 32  # levels, so that other code can safely walk a value by recursion
LARGEST = 2**63  # whole numbers must lie in [-LARGEST, LARGEST), so that they fit into int64
WORDS = {str: "a string", bool: "true or false", dict: "an object", list: "a list", int: "a whole number"}
WORDS |= {float: "a number", None: "null"}


def read_json(path: str | os.PathLike, form: Any = object, most: int = MOST, nan: bool = False) -> Any:
    """Return the value in a JSON file.

    Args:
      path: the file.
      form: the form that the value must have, as described above.
      most: the largest size of the file in bytes.
      nan: accept NaN and Infinity as numbers, as Python writes them.

    Raises:
      Damaged: the file cannot be read or has another form.
    """
    data = read_bytes(path, WHAT, most)
    with reading(path, WHAT):
        return parse_json(data, form, nan)


def parse_json(data: bytes | str, form: Any = object, nan: bool = False) -> Any:
    """Return the value of a JSON text; raise ValueError if it is not valid or has another form. See `read_json`."""
    numbers = {} if nan else {"parse_float": parse_float, "parse_constant": parse_float}
    text = data.decode() if isinstance(data, bytes) else data
    try:
        value = json.loads(text, object_pairs_hook=unique_names, parse_int=parse_int, **numbers)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    check_depth(value)
    check_form(value, form, "")
    return value


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the dict of an object's pairs; raise ValueError if a name occurs twice.

    JSON parsers differ in which of the two values they use.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name '{name[:60]}' occurs twice in an object")
        found[name] = value
    return found


def parse_int(text: str) -> int:
    """Return a whole number; raise ValueError if it does not fit into int64."""
    number = int(text) if len(text) <= 20 else LARGEST  # the sign and 19 digits
    if not -LARGEST <= number < LARGEST:
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def parse_float(text: str) -> float:
    """Return a number; raise ValueError if it is not finite."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def check_depth(value: Any) -> None:
    """Raise ValueError if a value has more than DEEPEST levels of lists and objects."""
    level = [value]
    for _ in range(DEEPEST):
        inside = [item for item in level if isinstance(item, dict | list)]
        level = [v for item in inside for v in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def check_form(value: Any, form: Any, where: str) -> None:
    """Raise ValueError, which names the first place, if a value has another form.

    Args:
      value: a parsed JSON value.
      form: the form, as described above.
      where: the place of `value` in the whole, such as `inside.x[3]`; "" for the whole.
    """
    match form:
        case tuple():
            if not any(has_form(value, one) for one in form):
                raise ValueError(f"{where or 'it'} should be {' or '.join(map(describe_form, form))}")
        case [inner]:
            check_form(value, list, where)
            for i, item in enumerate(value):
                check_form(item, inner, f"{where}[{i}]")
        case dict():
            check_form(value, dict, where)
            inner = dict.fromkeys(value, form[str]) if str in form else form
            for key, one in inner.items():
                name = key if str in form else key.removesuffix("?")
                place = f"{where}.{name[:60]}".removeprefix(".")
                if name in value:
                    check_form(value[name], one, place)
                elif name == key:
                    raise ValueError(f"{place} is missing")
        case _:
            if not has_type(value, form):
                raise ValueError(f"{where or 'it'} should be {WORDS[form]}")


def has_form(value: Any, form: Any) -> bool:
    """Return whether a value has a form."""
    try:
        check_form(value, form, "")
    except ValueError:
        return False
    return True


def has_type(value: Any, form: Any) -> bool:
    """Return whether a value has a form that is a type, `object` or None."""
    if form is object or form is None:
        return form is object or value is None
    if form in (int, float):
        return isinstance(value, int if form is int else int | float) and not isinstance(value, bool)
    return isinstance(value, form)


def describe_form(form: Any) -> str:
    """Return the words for a form in a message."""
    return WORDS.get(form, "something else") if form is None or isinstance(form, type) else WORDS[type(form)]
