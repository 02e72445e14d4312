"""A pickle machine that can only build plain data.

It interprets the opcodes itself instead of restricting Python's unpickler: nothing is imported, no object of
the pickle's choosing is made and no method of one is called, because there is no code here that could. A
global becomes whatever the reader's own table says, and calling one calls the table's entry.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

__all__ = ["Builder", "interpret_pickle"]

# Some 11,000 tensors. An opcode makes at most one small object, so this bounds memory as well.
_MAX_OPCODES = 500_000
# PyTorch's magic number has 80 bits; nothing else in a checkpoint is longer.
_MAX_INT_BITS = 80


@dataclass(frozen=True)
class Builder:
    """What a pickle gets for a global it may call: a stand-in whose call runs ``build`` and nothing else."""

    name: str
    build: Callable[..., object]


def interpret_pickle(
    file: BinaryIO,
    find_global: Callable[[str], object],
    load_persistent: Callable[[object], object],
) -> object:
    """Interpret the pickle at ``file``'s position, leaving the position just behind it.

    ``find_global`` maps "module.name" to a value or a ``Builder``; ``load_persistent`` maps a persistent id
    to a value. Both raise ``ValueError`` for what they do not know. Containers come back as ``dict``,
    ``list`` and ``tuple``; they may share parts and contain themselves.

    Raises ``ValueError``, and whatever ``pickletools`` and the two callables raise, on anything that is not
    a pickle as PyTorch writes it.
    """
    machine = _Machine(find_global, load_persistent)
    for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
        if count >= _MAX_OPCODES:
            raise ValueError(f"expected a pickle of at most {_MAX_OPCODES} opcodes, found more")
        if opcode.name == "STOP":
            break
        handler = _HANDLERS.get(opcode.name)
        if handler is None:
            raise ValueError(f"expected only opcodes that state dicts need, found {opcode.name} at {position}")
        handler(machine, argument)
    return machine.result()


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, find_global: Callable[[str], object], load_persistent: Callable[[object], object]) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.find_global = find_global
        self.load_persistent = load_persistent

    def result(self) -> object:
        value = self.pop()
        if self.stack or self.marks:
            raise ValueError("expected one value when the pickle ends, found more")
        return value

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("expected a value on the pickle's stack, found none")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise ValueError(f"expected a {kind.__name__} on the pickle's stack, found something else")
        return self.stack[-1]

    def mark(self, _: object) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("expected a mark on the pickle's stack, found none")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push_literal(self, value: object) -> None:
        if isinstance(value, str):
            value.encode()  # raises on lone surrogates, which nothing downstream could print
        elif isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            raise ValueError(f"expected integers of at most {_MAX_INT_BITS} bits, found {value.bit_length()}")
        self.stack.append(value)

    def push_python2_str(self, value: str) -> None:
        if not value.isascii():
            raise ValueError(f"expected Python 2 strings to be ASCII, found {value!r:.80}")
        self.stack.append(value)

    def put(self, index: int | None) -> None:
        index = len(self.memo) if index is None else index
        if index > _MAX_OPCODES:
            raise ValueError(f"expected memo indices up to {_MAX_OPCODES}, found {index}")
        if not self.stack:
            raise ValueError("expected a value to remember, found none")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"expected a memo index that was set, found {index}")
        self.stack.append(self.memo[index])

    def make_tuple(self, size: int) -> None:
        items = [self.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def make_marked_tuple(self, _: object) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def append(self, _: object) -> None:
        item = self.pop()
        self.top(list).append(item)

    def appends(self, _: object) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def set_item(self, _: object) -> None:
        value, key = self.pop(), self.pop()
        _set_item(self.top(dict), key, value)

    def set_items(self, _: object) -> None:
        items = self.pop_mark()
        target = self.top(dict)
        if len(items) % 2:
            raise ValueError(f"expected pairs of keys and values, found {len(items)} items")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set_item(target, key, value)

    def push_global(self, names: str | None) -> None:
        if names is None:
            name, module = self.pop(), self.pop()
        else:
            module, _, name = names.partition(" ")
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("expected a global's module and name to be strings, found something else")
        self.stack.append(self.find_global(f"{module}.{name}"))

    def reduce(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Builder) or not isinstance(arguments, tuple):
            found = f"a {type(function).__name__} and a {type(arguments).__name__}"
            raise ValueError(f"expected a function to call and a tuple of its arguments, found {found}")
        self.stack.append(function.build(*arguments))

    def build(self, _: object) -> None:
        """Drop the attributes of an ``OrderedDict`` (a module's version numbers); refuse any other state."""
        if not isinstance(self.pop(), dict):
            raise ValueError("expected attributes as a dict, found something else")
        self.top(dict)

    def persistent(self, _: object) -> None:
        self.stack.append(self.load_persistent(self.pop()))


def _set_item(target: dict[Any, Any], key: object, value: object) -> None:
    # Only these hash in constant time: a deep tuple's hash is exponential, a huge integer's collides at will.
    if not isinstance(key, str) and not (isinstance(key, int) and key.bit_length() < 64):
        raise ValueError(f"expected dict keys to be strings or 64-bit integers, found a {type(key).__name__}")
    if key in target:
        raise ValueError(f"expected every dict key once, found {key!r:.200} twice")
    target[key] = value


_Handler = Callable[[_Machine, Any], None]


def _constant(value: object) -> _Handler:
    return lambda machine, _: machine.stack.append(value)


def _fresh(kind: type) -> _Handler:
    return lambda machine, _: machine.stack.append(kind())


def _tuple_of(size: int) -> _Handler:
    return lambda machine, _: machine.make_tuple(size)


_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")

_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(_LITERALS, _Machine.push_literal),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), _Machine.push_python2_str),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.push_global),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": _fresh(list),
    "EMPTY_DICT": _fresh(dict),
    "MARK": _Machine.mark,
    "TUPLE": _Machine.make_marked_tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
