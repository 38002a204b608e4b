"""A class whose instances the garbage collector does not look at."""

from __future__ import annotations

import ctypes
from typing import Any, Final, TypeVar

T = TypeVar("T", bound=type)

_BASETYPE: Final = 1 << 10
# What belongs to the first making of the class and is made anew with the second.
_OF_THE_TYPE: Final = {"__dict__", "__weakref__", "__slots__"}


class _Slot(ctypes.Structure):
    _fields_ = (("slot", ctypes.c_int), ("function", ctypes.c_void_p))


class _Specification(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("basicsize", ctypes.c_int),
        ("itemsize", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("slots", ctypes.POINTER(_Slot)),
    )


def untracked(cls: T) -> T:
    """Make the class again, as one whose instances are not tracked; decorates the class.

    For a class without slots of its own, over one built-in base that is not tracked either: its
    instances refer to nothing, so there is nothing to find. CPython tracks them all the same,
    because a ``class`` statement always asks for it; a type that is made from a specification
    (PEP 384, `PyType_FromSpecWithBases`) says for itself. One full collection over 100,000 tracked
    strings stops all threads for 10 to 17 ms, and making them takes twice as long.

    Zero-argument ``super()`` does not work inside, as it would find the first class. Elsewhere than
    on CPython the class is returned as it is.
    """
    prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object)
    try:
        made = prototype(("PyType_FromSpecWithBases", ctypes.pythonapi))
    except AttributeError:  # pragma: no cover - not CPython
        return cls
    name = f"{cls.__module__}.{cls.__qualname__}".encode()
    specification = _Specification(name, 0, 0, _BASETYPE, (_Slot * 1)())
    again: Any = made(ctypes.addressof(specification), cls.__bases__)
    for attribute, value in vars(cls).items():
        if attribute not in _OF_THE_TYPE:
            setattr(again, attribute, value)
    again.__slots__ = ()
    return again  # type: ignore[no-any-return]  # as much a T as the class that it repeats
