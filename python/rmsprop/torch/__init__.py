"""RMSprop and Adagrad for PyTorch: change one import, and the optimizer step on the CPU is several times faster.

    from rmsprop.torch import RMSprop, Adagrad

Both are `torch.optim.Optimizer` subclasses and drop-in for `torch.optim.RMSprop` and `torch.optim.Adagrad`: the same
arguments in the same order, the same defaults, the same state under the same keys, and interchangeable state dicts.
The hyperparameters of `rmsprop.RMSprop` and `rmsprop.Adagrad` that PyTorch lacks are keyword arguments.

Parameters are dense tensors in the memory of the CPU, of float32, float64, complex64, complex128, bfloat16 or float16,
in any layout, aligned or not. They are updated in place; nothing is copied. 16-bit parameters are computed in float32,
and so is their state.

What differs from PyTorch:
- a step is all or nothing: if it raises, no parameter and no state has changed;
- the last bits: PyTorch rounds at other points, and 16-bit parameters after every operation;
- with `centered`, a variance that is negative by rounding counts as 0, where PyTorch gives NaN;
- step counts are float64 and exact, where PyTorch's float32 stops at 2**24;
- `load_state_dict` copies, where PyTorch shares the tensors, and keeps float32 state of 16-bit parameters;
- sparse gradients are an error, as is any tensor that is masked, nested, quantized, distributed (DTensor), of a
  transform (vmap), fake, or not in the memory of the CPU;
- loading the state of another kind of optimizer, or hyperparameters that would change the step, is an error;
- a parameter that is twice in a group is an error, where PyTorch warns and steps it twice;
- `clip_norm` and `nonfinite` are errors where each process has only a part of the gradients (ZeRO, FSDP).
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("rmsprop.torch needs PyTorch 2.4 or later: https://pytorch.org/get-started/locally") from error

from rmsprop.torch.backward import step_in_backward
from rmsprop.torch.optimizers import Adagrad, RMSprop

__all__ = ["Adagrad", "RMSprop", "step_in_backward"]
