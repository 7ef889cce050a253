"""What type checkers must accept: all of it runs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import rmsprop
from rmsprop.functional import adagrad_, rmsprop_

# ---- Parameters in any container -------------------------------------------------------------------------------------

w, b = np.ones(3), np.zeros(2, np.float32)
rmsprop.RMSprop(w).step(2 * w)
rmsprop.RMSprop([np.ones(3), b]).step([w, None])
rmsprop.RMSprop(np.ones(3) for _ in range(2)).step((w, w))
rmsprop.RMSprop({"w": np.ones(3), "b": np.ones(2, np.float32)}).step({"w": w, "b": b})

layers = [{"w": np.ones(3), "b": np.ones(2)} for _ in range(2)]
nested = {"layers": layers, "out": np.ones(3)}
opt = rmsprop.RMSprop(nested, lr=0.1)
opt.step({"layers": [{"w": w, "b": None}, None], "out": None})
pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = [(np.ones(3), np.ones(2))]
rmsprop.Adagrad(pairs).step([(w, None)])
deep: dict[str, dict[str, list[NDArray[np.float32]]]] = {"a": {"b": [np.ones(2, np.float32)]}}
rmsprop.Adagrad(deep).step({"a": {"b": [b]}})
anything: Any = {"a": [np.ones(2)]}
rmsprop.Adagrad(anything).step(anything and {"a": [np.ones(2)]})

# ---- Groups ----------------------------------------------------------------------------------------------------------

rmsprop.RMSprop([{"params": np.ones(3), "lr": 0.1}, {"params": [np.ones(2)], "name": "rest"}])
groups = [{"params": [np.ones(3)], "lr": 0.1, "centered": True}, {"params": [np.ones(2)], "lr": 0.2}]
rmsprop.RMSprop(groups, lr=1e-3)
plain: list[dict[str, Any]] = [{"params": np.ones(3)}]
opt = rmsprop.RMSprop(plain)
opt.add_param_group({"params": [np.ones(4)], "weight_decay": 0.1, **rmsprop.presets.keras})
opt.param_groups[0]["lr"] = 0.5

# ---- Presets, schedules and options ----------------------------------------------------------------------------------

rmsprop.RMSprop(w, **rmsprop.presets.torch | {"lr": 3e-4})
rmsprop.RMSprop(w, **rmsprop.presets.torch | {"lr": 3e-4, "centered": True})
rmsprop.RMSprop(w, **{"lr": 3e-4} | rmsprop.presets.optax)
rmsprop.RMSprop(w, lr=0.1, momentum=0.9, **rmsprop.presets.tf1)
rmsprop.Adagrad(w, **rmsprop.presets.adagrad.torch)
rate: float = rmsprop.presets.torch["lr"]
opt = rmsprop.RMSprop(w, lr=rmsprop.schedules.exponential(0.1, gamma=0.5), nonfinite="skip", num_threads=1)
opt.lr = lambda step: 0.1 / (1 + step)
opt.lr = 0.1
opt.nonfinite = "raise"
opt.state[0]["square_avg"][:] = 0
count: int = opt.state[0]["step"]
saved: dict[str, Any] = opt.state_dict()
opt.load_state_dict(saved)
rmsprop.convert.from_keras({"iteration": [1], "accumulator": [w]}, rmsprop.Adagrad([w]).state_dict())

# ---- Arrays of other libraries ---------------------------------------------------------------------------------------


class LikeJax:
    """An array as JAX has them."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None) -> Any:
        return self.array.__dlpack__(stream=None, max_version=max_version)

    def __dlpack_device__(self) -> tuple[Any, int]:
        return self.array.__dlpack_device__()


rmsprop.RMSprop(np.ones(3)).step(LikeJax(w))
rmsprop.RMSprop({"a": [np.ones(3)]}).step({"a": [LikeJax(w)]})
grads = {"a": LikeJax(w), "b": LikeJax(w)}
rmsprop.RMSprop({"a": np.ones(3), "b": np.ones(3)}).step(grads)
rmsprop_(np.ones(3), LikeJax(w), np.zeros(3), lr=0.1)
rmsprop_([np.ones(3)], [LikeJax(w)], [np.zeros(3)], lr=0.1, momentum=0.9, momentum_buffer=[np.zeros(3)])
adagrad_([np.ones(3), np.ones(3)], [None, w], [np.zeros(3), np.zeros(3)], lr=0.1, num_threads=None)
