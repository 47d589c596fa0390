"""Pickles as data: their opcodes are followed here, one by one, and none of them can call anything but what is given.

A pickle is a program for a machine with a stack and a memo (pickletools has all opcodes). The machine of the standard
library calls whatever it is told to, believes every number in the file, and recurses over what it builds. This one has
plain containers, numbers, texts and a few names; how much of them a file may ask for is bounded.
"""

import pickletools
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

MOST_OPCODES = 5_000_000  # some 40 make a tensor
MOST_OBJECTS = 1_000_000  # containers, tensors and objects
MOST_NAMES = 1_000  # of classes and functions
MOST_STEPS = 5_000_000  # that it takes to walk over all that a pickle holds, which may hold a thing many times
DEEPEST = 100  # levels of containers
LONGEST_LINE = 2**16  # bytes of a name or a number that is written as text
LARGEST = 2**512  # of whole numbers


class Placeholder:
    """In place of an object, a class or a function that is not admitted: takes whatever it is given, and keeps nothing.

    Every such name is a subclass of its own, the same one wherever it occurs in a file.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        pass


PLAIN = (str, bytes, int, float, bool, type(None), type, Placeholder)  # what keys are made of


class OpenDict(dict):
    """A dict, whose further attributes (PyTorch gives state dicts a `_metadata`) are dropped."""


class Bounded:
    """A file from which no more is read at a time than it has, so that no memory is taken for what is not there."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.left = file, size

    def read(self, n: int) -> bytes:
        if not 0 <= n <= self.left:
            raise ValueError("it ends within its pickle")
        self.left -= n
        return self.file.read(n)

    def readline(self) -> bytes:
        line = self.file.readline(LONGEST_LINE)
        self.left -= len(line)
        return line


class Reader:
    """Reads pickles, one after the other, of a file of `size` bytes.

    Args:
      names: what a pickle may call, by `module.name`; a class that does nothing stands for all others.
      stored: gives what a persistent id stands for.
    """

    def __init__(self, file: BinaryIO, size: int, names: dict[str, Callable], stored: Callable[[Any], Any]):
        self.file, self.names, self.stored = Bounded(file, size), names, stored
        self.calls = tuple(names.values())
        self.opcodes = self.objects = 0
        self.others: dict[str, type] = {}
        self.stack: list[Any] = []
        self.marks: list[list] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Return the object of the next pickle; ValueError, or any error of a damaged one, where there is none."""
        self.stack, self.marks, self.memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(self.file):
            self.opcodes += 1
            if self.opcodes > MOST_OPCODES or self.objects > MOST_OBJECTS:
                raise ValueError("its pickle makes more objects than any network has")
            if opcode.name == "STOP":
                break
            if (step := STEPS.get(opcode.name)) is None:
                raise ValueError(f"its pickle has the opcode {opcode.name}, which has no use here")
            step(self, argument)
        (found,) = self.stack
        check_walk(found)
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def made(self, value: Any) -> None:
        """Push an object that takes memory of its own."""
        self.objects += 1
        self.stack.append(value)

    def number(self, value: int) -> None:
        if not -LARGEST < value < LARGEST:
            raise ValueError("a number in its pickle has more digits than any has there")
        self.push(value)

    def old_text(self, value: str) -> None:
        """Push a text of Python 2, which pickletools takes for Latin-1."""
        self.push(value.encode("latin-1").decode("utf-8", "surrogateescape"))

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self, n: int) -> list:
        if len(self.stack) < n:
            raise ValueError("its pickle takes what is not there")
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return items

    def drop(self, _: Any) -> None:
        self.pop(1) if self.stack else self.since_mark()

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def named(self, full: str) -> Any:
        """What a name stands for."""
        if full in self.names:
            return self.names[full]
        if full not in self.others:
            if len(self.others) >= MOST_NAMES:
                raise ValueError(f"its pickle names more than {MOST_NAMES:,} classes")
            module, _, name = full.rpartition(".")
            self.others[full] = type(name, (Placeholder,), {"__module__": module})
        return self.others[full]

    def global_name(self, argument: str) -> None:
        """Push what `module name` stands for."""
        module, _, name = argument.partition(" ")
        self.push(self.named(f"{module}.{name}"))

    def stack_name(self, _: Any) -> None:
        module, name = self.pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name in its pickle is no text")
        self.push(self.named(f"{module}.{name}"))

    def call(self, function: Any, arguments: Iterable) -> None:
        """Push what a function, or a class, makes of its arguments."""
        if isinstance(function, type) and issubclass(function, Placeholder):
            return self.made(function())
        if isinstance(function, Placeholder):
            return self.push(function)
        if not any(function is known for known in self.calls):
            raise ValueError("its pickle calls what is no function")
        if not isinstance(arguments, tuple | list):
            raise ValueError("its pickle calls a function without arguments")
        self.made(function(*arguments))

    def reduce(self, _: Any) -> None:
        self.call(*self.pop(2))

    def new_with_names(self, _: Any) -> None:
        function, arguments, _names = self.pop(3)
        self.call(function, arguments)

    def instance(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.call(self.named(f"{module}.{name}"), self.since_mark())

    def instance_of(self, _: Any) -> None:
        function, *arguments = self.since_mark()
        self.call(function, arguments)

    def build(self, _: Any) -> None:
        """Give an object its state, which is dropped where there is one to drop it."""
        self.pop(1)
        self.target(Placeholder | OpenDict)

    def target(self, kinds: Any) -> Any:
        """The object on top of the stack, which is changed; ValueError unless it is of these kinds."""
        if not (self.stack and isinstance(self.stack[-1], kinds)):
            raise ValueError("its pickle changes an object that cannot be changed so")
        return self.stack[-1]

    def extend(self, items: list) -> None:
        if isinstance(target := self.target(list | Placeholder), list):
            target.extend(items)

    def set_items(self, items: list) -> None:
        if isinstance(target := self.target(dict | Placeholder), dict):
            target.update(pairs(items))

    def add_items(self, items: list) -> None:
        if isinstance(target := self.target(set | Placeholder), set):
            target.update(map(key, items))


def key(value: Any) -> Any:
    """Return a key of a dict or a member of a set; ValueError where its hash would take many steps."""
    inside = value if type(value) is tuple and len(value) <= DEEPEST else (value,)
    if not all(isinstance(item, PLAIN) for item in inside):
        raise ValueError("a key in its pickle is neither plain nor a tuple of what is")
    return value


def pairs(items: list) -> dict:
    """Return the dict of keys and values that lie one after the other."""
    return dict(zip(map(key, items[::2]), items[1::2], strict=True))


def ordered(items: Any = ()) -> OpenDict:
    """Return what OrderedDict makes of nothing, or of a list of pairs."""
    if not isinstance(items, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in items):
        raise ValueError("an OrderedDict in its pickle is made of no pairs")
    return OpenDict((key(name), value) for name, value in items)


def members(items: Any = ()) -> set:
    """Return what set makes of a list."""
    return set(map(key, sequence(items)))


def sequence(items: Any = ()) -> tuple:
    """Return a list as a tuple."""
    if not isinstance(items, list | tuple):
        raise ValueError("a sequence in its pickle is no list")
    return tuple(items)


def check_walk(value: Any) -> None:
    """ValueError where a walk over all that a value holds would be too deep, too long, or without an end."""
    steps: dict[int, int] = {}  # of a walk over each container, and the levels that it has
    levels: dict[int, int] = {}
    path: set[int] = set()
    work: list[tuple[Any, bool]] = [(value, False)]
    while work:
        item, done = work.pop()
        me = id(item)
        if not isinstance(item, list | tuple | dict | set | frozenset) or (me in steps and not done):
            continue
        inside = [*item.keys(), *item.values()] if isinstance(item, dict) else list(item)
        if not done:
            if me in path:
                raise ValueError("its pickle holds an object that holds itself")
            path.add(me)
            work.append((item, True))
            work += ((child, False) for child in inside)
            continue
        path.discard(me)
        steps[me] = len(inside) + sum(steps.get(id(child), 0) for child in inside)
        levels[me] = 1 + max((levels.get(id(child), 0) for child in inside), default=0)
        if steps[me] > MOST_STEPS:
            raise ValueError("its pickle holds the same things so often that a walk over them would not end")
        if levels[me] > DEEPEST:
            raise ValueError(f"its pickle is nested more than {DEEPEST} levels deep")


def constant(value: Any) -> Callable[[Reader, Any], None]:
    return lambda reader, _: reader.push(value)


def new(kind: Callable[[], Any]) -> Callable[[Reader, Any], None]:
    return lambda reader, _: reader.made(kind())


def tuple_of(n: int) -> Callable[[Reader, Any], None]:
    return lambda reader, _: reader.made(tuple(reader.pop(n)))


def same(reader: Reader, argument: Any) -> None:
    """Push the argument of an opcode."""
    reader.push(argument)


def nothing(reader: Reader, argument: Any) -> None:
    """Do nothing: the opcode says something of the pickle's own layout."""


STEPS: dict[str, Callable[[Reader, Any], None]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), Reader.number),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), same),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), same),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), Reader.old_text),
    **dict.fromkeys(("PROTO", "FRAME"), nothing),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Reader.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda reader, index: reader.push(reader.memo[index])),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Reader.reduce),
    "NONE": constant(None),
    "NEWTRUE": constant(True),
    "NEWFALSE": constant(False),
    "EMPTY_LIST": new(list),
    "EMPTY_DICT": new(dict),
    "EMPTY_SET": new(set),
    "EMPTY_TUPLE": constant(()),
    "TUPLE1": tuple_of(1),
    "TUPLE2": tuple_of(2),
    "TUPLE3": tuple_of(3),
    "MARK": Reader.mark,
    "TUPLE": lambda reader, _: reader.made(tuple(reader.since_mark())),
    "LIST": lambda reader, _: reader.made(reader.since_mark()),
    "DICT": lambda reader, _: reader.made(pairs(reader.since_mark())),
    "FROZENSET": lambda reader, _: reader.made(frozenset(map(key, reader.since_mark()))),
    "APPEND": lambda reader, _: reader.extend(reader.pop(1)),
    "APPENDS": lambda reader, _: reader.extend(reader.since_mark()),
    "SETITEM": lambda reader, _: reader.set_items(reader.pop(2)),
    "SETITEMS": lambda reader, _: reader.set_items(reader.since_mark()),
    "ADDITEMS": lambda reader, _: reader.add_items(reader.since_mark()),
    "POP": Reader.drop,
    "POP_MARK": lambda reader, _: reader.since_mark(),
    "DUP": lambda reader, _: reader.push(reader.stack[-1]),
    "GLOBAL": Reader.global_name,
    "STACK_GLOBAL": Reader.stack_name,
    "NEWOBJ_EX": Reader.new_with_names,
    "INST": Reader.instance,
    "OBJ": Reader.instance_of,
    "BUILD": Reader.build,
    "PERSID": lambda reader, pid: reader.push(reader.stored(pid)),
    "BINPERSID": lambda reader, _: reader.push(reader.stored(reader.pop(1)[0])),
}
