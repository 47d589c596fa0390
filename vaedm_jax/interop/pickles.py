"""A safe reader of pickles: it can call only the functions that it is given.

A pickle is a program for a machine with a stack and a memo; `pickletools` describes all opcodes. The machine of the
standard library calls any function that a file names. It trusts every number in the file, and recurses over the objects
that it builds. The machine here knows plain containers, numbers, strings and a few names. It limits the memory and the
time that a file can take.
"""

import pickletools
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

MOST_OPCODES = 5_000_000  # a tensor takes about 40
MOST_OBJECTS = 1_000_000  # containers, tensors and objects
MOST_NAMES = 1_000  # different classes and functions that are not given
MOST_STEPS = 5_000_000  # of a walk over the loaded object, which visits a shared object once for each reference
DEEPEST = 100  # levels of nested containers
LONGEST_LINE = 2**16  # bytes of a name, or of a number written as text
LARGEST = 2**512  # bound of whole numbers


class Placeholder:
    """A class that stands for a class, a function or an object that may not be used. It drops all that it is given.

    Each such name in a file becomes one subclass.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        """Accept and drop any arguments."""
        pass


PLAIN = (str, bytes, int, float, bool, type(None), type, Placeholder)  # types of keys


class OpenDict(dict):
    """A dict that a pickle may give attributes, which are dropped. PyTorch gives state dicts a `_metadata`."""


class Bounded:
    """A file that refuses to read more bytes than it has, before memory is allocated for them."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.left = file, size

    def read(self, n: int) -> bytes:
        """Return the next n bytes; ValueError if the file has fewer."""
        if not 0 <= n <= self.left:
            raise ValueError("the file ends inside its pickle")
        self.left -= n
        return self.file.read(n)

    def readline(self) -> bytes:
        """Return the next line, or its first LONGEST_LINE bytes."""
        line = self.file.readline(LONGEST_LINE)
        self.left -= len(line)
        return line


class Reader:
    """A reader of the pickles in a file, one after the other.

    The methods after `load` are the operations of the machine. `STEPS` assigns them to opcodes.

    Args:
      size: the size of the file in bytes.
      names: the functions that a pickle may call, by `module.name`. A Placeholder stands for every other name.
      stored: persistent id -> the object that it stands for.
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
        """Return the object in the next pickle.

        Raises:
          ValueError: the pickle is refused. A damaged pickle may raise any other error.
        """
        self.stack, self.marks, self.memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(self.file):
            self.opcodes += 1
            if self.opcodes > MOST_OPCODES or self.objects > MOST_OBJECTS:
                raise ValueError("its pickle has more opcodes or objects than any network needs")
            if opcode.name == "STOP":
                break
            if (step := STEPS.get(opcode.name)) is None:
                raise ValueError(f"its pickle has the opcode {opcode.name}, which is not supported")
            step(self, argument)
        (found,) = self.stack
        check_walk(found)
        return found

    def push(self, value: Any) -> None:
        """Push an object."""
        self.stack.append(value)

    def push_new(self, value: Any) -> None:
        """Push a new object and count it."""
        self.objects += 1
        self.stack.append(value)

    def number(self, value: int) -> None:
        """Push a whole number; ValueError if it is too large."""
        if not -LARGEST < value < LARGEST:
            raise ValueError("a number in its pickle has too many digits")
        self.push(value)

    def old_text(self, value: str) -> None:
        """Push a string of Python 2, which pickletools decodes as Latin-1."""
        self.push(value.encode("latin-1").decode("utf-8", "surrogateescape"))

    def mark(self, _: Any) -> None:
        """Put a mark on the stack."""
        self.marks.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list:
        """Remove the objects above the last mark from the stack, with the mark, and return them."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self, n: int) -> list:
        """Remove the last n objects from the stack and return them; ValueError if there are fewer."""
        if len(self.stack) < n:
            raise ValueError("its pickle takes more objects from the stack than it has")
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return items

    def drop(self, _: Any) -> None:
        """Remove the last object, or the mark if no object is above it."""
        self.pop(1) if self.stack else self.pop_to_mark()

    def remember(self, index: int | None) -> None:
        """Put the last object into the memo; without an index, at the next free one."""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def find(self, full: str) -> Any:
        """Return the given function of this name, or else the subclass of Placeholder for it."""
        if full in self.names:
            return self.names[full]
        if full not in self.others:
            if len(self.others) >= MOST_NAMES:
                raise ValueError(f"its pickle names more than {MOST_NAMES:,} classes and functions")
            module, _, name = full.rpartition(".")
            self.others[full] = type(name, (Placeholder,), {"__module__": module})
        return self.others[full]

    def global_name(self, argument: str) -> None:
        """Push the function or class with the name `module name`."""
        module, _, name = argument.partition(" ")
        self.push(self.find(f"{module}.{name}"))

    def stack_name(self, _: Any) -> None:
        """Push the function or class whose module and name are the last two objects."""
        module, name = self.pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name in its pickle is not a string")
        self.push(self.find(f"{module}.{name}"))

    def call(self, function: Any, arguments: Iterable) -> None:
        """Push the result of a function or a class for some arguments.

        A Placeholder drops the arguments.

        Raises:
          ValueError: the function is not one of those given, or the arguments are not a sequence.
        """
        if isinstance(function, type) and issubclass(function, Placeholder):
            return self.push_new(function())
        if isinstance(function, Placeholder):
            return self.push(function)
        if not any(function is known for known in self.calls):
            raise ValueError("its pickle calls an object that is not a function")
        if not isinstance(arguments, tuple | list):
            raise ValueError("its pickle calls a function without a tuple of arguments")
        self.push_new(function(*arguments))

    def reduce(self, _: Any) -> None:
        """Call a function with a tuple of arguments; both are on the stack."""
        self.call(*self.pop(2))

    def new_with_names(self, _: Any) -> None:
        """Call a class with positional arguments; keyword arguments are dropped."""
        function, arguments, _names = self.pop(3)
        self.call(function, arguments)

    def instance(self, argument: str) -> None:
        """Call the class with the name `module name`; the objects above the mark are its arguments."""
        module, _, name = argument.partition(" ")
        self.call(self.find(f"{module}.{name}"), self.pop_to_mark())

    def instance_of(self, _: Any) -> None:
        """Call a class; it and its arguments are the objects above the mark."""
        function, *arguments = self.pop_to_mark()
        self.call(function, arguments)

    def build(self, _: Any) -> None:
        """Drop the state of an object; ValueError unless it is a Placeholder or an OpenDict."""
        self.pop(1)
        self.target(Placeholder | OpenDict)

    def target(self, kinds: Any) -> Any:
        """Return the last object, which an opcode changes; ValueError unless it is of these kinds."""
        if not (self.stack and isinstance(self.stack[-1], kinds)):
            raise ValueError("its pickle changes an object that does not allow this change")
        return self.stack[-1]

    def extend(self, items: list) -> None:
        """Append items to a list."""
        if isinstance(target := self.target(list | Placeholder), list):
            target.extend(items)

    def set_items(self, items: list) -> None:
        """Put keys and values, which alternate in `items`, into a dict."""
        if isinstance(target := self.target(dict | Placeholder), dict):
            target.update(pairs(items))

    def add_items(self, items: list) -> None:
        """Add items to a set."""
        if isinstance(target := self.target(set | Placeholder), set):
            target.update(map(check_key, items))


def check_key(value: Any) -> Any:
    """Return a key of a dict or a member of a set unchanged; ValueError if its hash could take many steps."""
    inside = value if type(value) is tuple and len(value) <= DEEPEST else (value,)
    if not all(isinstance(item, PLAIN) for item in inside):
        raise ValueError("a key in its pickle is neither a plain value nor a short tuple of plain values")
    return value


def pairs(items: list) -> dict:
    """Return the dict of keys and values that alternate in a list."""
    return dict(zip(map(check_key, items[::2]), items[1::2], strict=True))


def make_ordered_dict(items: Any = ()) -> OpenDict:
    """Return the dict of a list of pairs, in place of an OrderedDict."""
    if not isinstance(items, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in items):
        raise ValueError("an OrderedDict in its pickle is not made of pairs")
    return OpenDict((check_key(name), value) for name, value in items)


def make_set(items: Any = ()) -> set:
    """Return the set of the members of a list."""
    return set(map(check_key, make_tuple(items)))


def make_tuple(items: Any = ()) -> tuple:
    """Return a list or tuple as a tuple."""
    if not isinstance(items, list | tuple):
        raise ValueError("a sequence in its pickle is neither a list nor a tuple")
    return tuple(items)


def check_walk(value: Any) -> None:
    """Check that a walk over a value and all that it contains is short and not deep.

    Raises:
      ValueError: the walk would have more than MOST_STEPS steps or DEEPEST levels, or no end.
    """
    steps: dict[int, int] = {}  # of a walk over each container
    levels: dict[int, int] = {}  # of each container
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
                raise ValueError("its pickle has an object that contains itself")
            path.add(me)
            work.append((item, True))
            work += ((child, False) for child in inside)
            continue
        path.discard(me)
        steps[me] = len(inside) + sum(steps.get(id(child), 0) for child in inside)
        levels[me] = 1 + max((levels.get(id(child), 0) for child in inside), default=0)
        if steps[me] > MOST_STEPS:
            raise ValueError("its pickle has too many references to the same objects")
        if levels[me] > DEEPEST:
            raise ValueError(f"its pickle is nested more than {DEEPEST} levels deep")


def constant(value: Any) -> Callable[[Reader, Any], None]:
    """Return the step that pushes a constant."""
    return lambda reader, _: reader.push(value)


def new(kind: Callable[[], Any]) -> Callable[[Reader, Any], None]:
    """Return the step that pushes a new, empty container."""
    return lambda reader, _: reader.push_new(kind())


def tuple_of(n: int) -> Callable[[Reader, Any], None]:
    """Return the step that replaces the last n objects by their tuple."""
    return lambda reader, _: reader.push_new(tuple(reader.pop(n)))


def push_argument(reader: Reader, argument: Any) -> None:
    """Push the argument of an opcode."""
    reader.push(argument)


def ignore(reader: Reader, argument: Any) -> None:
    """Do nothing, since the opcode only describes the layout of the pickle."""


STEPS: dict[str, Callable[[Reader, Any], None]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), Reader.number),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), push_argument),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), push_argument),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), Reader.old_text),
    **dict.fromkeys(("PROTO", "FRAME"), ignore),
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
    "TUPLE": lambda reader, _: reader.push_new(tuple(reader.pop_to_mark())),
    "LIST": lambda reader, _: reader.push_new(reader.pop_to_mark()),
    "DICT": lambda reader, _: reader.push_new(pairs(reader.pop_to_mark())),
    "FROZENSET": lambda reader, _: reader.push_new(frozenset(map(check_key, reader.pop_to_mark()))),
    "APPEND": lambda reader, _: reader.extend(reader.pop(1)),
    "APPENDS": lambda reader, _: reader.extend(reader.pop_to_mark()),
    "SETITEM": lambda reader, _: reader.set_items(reader.pop(2)),
    "SETITEMS": lambda reader, _: reader.set_items(reader.pop_to_mark()),
    "ADDITEMS": lambda reader, _: reader.add_items(reader.pop_to_mark()),
    "POP": Reader.drop,
    "POP_MARK": lambda reader, _: reader.pop_to_mark(),
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
