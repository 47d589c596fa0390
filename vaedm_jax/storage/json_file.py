"""JSON that may come from anywhere: of bounded size and depth, of one meaning, and of the form that is asked for.

A form is one of

    str, bool, dict, list    a value of that type
    int, float               a number, which is no bool; a whole number is a float too
    None                     null
    object                   anything
    (FORM, FORM)             one or the other
    [FORM]                   a list of such values
    {str: FORM}              an object with any names and such values
    {"NAME": FORM}           an object that has these names at least; "NAME?" may be missing
"""

import json
import math
import os
from typing import Any

from vaedm_jax.storage.damage import read_bytes, reading

WHAT = "JSON"
MOST = 2**24  # bytes of a file, which can take some twenty times of it in memory
DEEPEST = 32  # levels: what walks a value afterwards may do so by recursion
LARGEST = 2**63  # of whole numbers: what NumPy takes
WORDS = {str: "a text", bool: "true or false", dict: "an object", list: "a list", int: "a whole number"}
WORDS |= {float: "a number", None: "null"}


def read_json(path: str | os.PathLike, form: Any = object, most: int = MOST, nan: bool = False) -> Any:
    """Return the value in a file; `Damaged` where it cannot be read or has another form.

    Args:
      form: see above. most: the largest number of bytes. nan: NaN and Infinity are numbers too, as Python writes them.
    """
    data = read_bytes(path, WHAT, most)
    with reading(path, WHAT):
        return parse_json(data, form, nan)


def parse_json(data: bytes | str, form: Any = object, nan: bool = False) -> Any:
    """Return the value in a text; ValueError where it is not JSON or has another form."""
    numbers = {} if nan else {"parse_float": finite, "parse_constant": finite}
    text = data.decode() if isinstance(data, bytes) else data
    try:
        value = json.loads(text, object_pairs_hook=once, parse_int=whole, **numbers)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    check_depth(value)
    check_form(value, form, "")
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; ValueError where a name stands in it twice, since readers differ in which they take."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"'{name[:60]}' stands in it twice")
        found[name] = value
    return found


def whole(text: str) -> int:
    number = int(text) if len(text) < 20 else LARGEST
    if not -LARGEST <= number < LARGEST:
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def check_depth(value: Any) -> None:
    """ValueError where a value has more than DEEPEST levels."""
    level = [value]
    for _ in range(DEEPEST):
        inside = [item for item in level if isinstance(item, dict | list)]
        level = [v for item in inside for v in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def check_form(value: Any, form: Any, where: str) -> None:
    """ValueError names the first place where a value is of another form."""
    match form:
        case tuple():
            if not any(has_form(value, one) for one in form):
                raise ValueError(f"{where or 'it'} should be {' or '.join(map(words, form))}")
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
            if not is_plain(value, form):
                raise ValueError(f"{where or 'it'} should be {WORDS[form]}")


def has_form(value: Any, form: Any) -> bool:
    try:
        check_form(value, form, "")
    except ValueError:
        return False
    return True


def is_plain(value: Any, form: Any) -> bool:
    if form is object or form is None:
        return form is object or value is None
    if form in (int, float):
        return isinstance(value, int if form is int else int | float) and not isinstance(value, bool)
    return isinstance(value, form)


def words(form: Any) -> str:
    return WORDS.get(form, "something else") if form is None or isinstance(form, type) else WORDS[type(form)]
