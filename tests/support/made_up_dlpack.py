"""Arrays of a made-up library that share memory through DLPack, and say of it whatever a test wants them to."""

import ctypes

CODES = {"i": 0, "u": 4, "f": 2, "c": 5, "b": 6}
"""DLPack's type codes by NumPy's kinds. NumPy has no bfloat16: here it is what is in arrays of uint16."""

READ_ONLY, COPIED = 1, 2


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", Deleter))
    name = b"dltensor"


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )
    name = b"dltensor_versioned"


lent = {}
"""What has been given away and not been returned yet, by its address: the structure, and the memory it tells of."""

give_back = Deleter(lambda address: lent.pop(address))  # an address that is not there is a KeyError on stderr
no_deleter = Deleter()

api = ctypes.pythonapi
api.PyCapsule_New.restype = ctypes.py_object
api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

# A capsule that ends is looked at while nobody owns it, so it is passed as a mere address.
name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(("PyCapsule_GetName", api))
pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", api))


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def end_of_capsule(capsule):
    """Take back what nobody has taken over."""
    name = name_of(capsule)
    if not name.startswith(b"used_"):
        lent.pop(pointer_in(capsule, name), None)


class ForeignArray:
    """An array of NumPy as another library would share it.

    `says` replaces fields of the structures, such as `ndim=-1`, or the `name` of the capsule; `shape` and `strides` are
    lists, or None for a null pointer.
    """

    def __init__(self, array, kind=Versioned, **says):
        self.array, self.kind, self.says = array, kind, says

    def __dlpack__(self, **_):
        return self.capsule()

    def capsule(self):
        array, says = self.array, dict(self.says)
        if any(stride % array.itemsize for stride in array.strides):
            raise BufferError("strides that are no whole elements")
        strides = [stride // array.itemsize for stride in array.strides]
        lists = {"shape": says.pop("shape", list(array.shape)), "strides": says.pop("strides", strides)}
        lists = {
            name: None if value is None else (ctypes.c_int64 * len(value))(*value) for name, value in lists.items()
        }
        name = says.pop("name", self.kind.name)
        tensor = Tensor(array.ctypes.data, 1, 0, array.ndim, CODES.get(array.dtype.kind, 3), 8 * array.itemsize, 1)
        for field, numbers in lists.items():
            setattr(tensor, field, numbers and ctypes.cast(numbers, ctypes.POINTER(ctypes.c_int64)))
        managed = self.kind(tensor=tensor, deleter=give_back)
        if self.kind is Versioned:
            managed.major, managed.minor, managed.flags = 1, 1, 0 if array.flags.writeable else READ_ONLY
        for field, value in says.items():
            setattr(managed if hasattr(managed, field) else managed.tensor, field, value)
        address = ctypes.addressof(managed)
        memory = (managed, array, *lists.values())
        if managed.deleter:
            lent[address] = memory
        else:
            self.kept = (*getattr(self, "kept", ()), memory)  # nobody tells when they are done with it
        return api.PyCapsule_New(address, name, ctypes.cast(end_of_capsule, ctypes.c_void_p))


class LentTwice(ForeignArray):
    """Offers the same capsule each time."""

    def __dlpack__(self, **_):
        if not hasattr(self, "only"):
            self.only = self.capsule()
        return self.only


class Answering(ForeignArray):
    """Answers with something else than its array: an object, or an error that is raised."""

    def __init__(self, array, answer):
        super().__init__(array)
        self.answer = answer

    def __dlpack__(self, **_):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class OldLibrary(ForeignArray):
    """One of before DLPack 1.0."""

    def __init__(self, array, **says):
        super().__init__(array, Managed, **says)

    def __dlpack__(self):
        return self.capsule()
