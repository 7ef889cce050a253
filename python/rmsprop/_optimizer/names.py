"""Names of parameters in any containers, and gradients in the same containers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np

Tree = int | dict[str, Any] | list[Any]
"""The index of a parameter, or a container of trees."""


class Names:
    """The names of the parameters of all groups, in order. Replaced when a group is added, never changed.

    The array of an optimizer without a container has the key 0, arrays in a list have their indices, those in a dict
    its names, and those in containers within containers the paths to them, such as "layers.0.weight".
    """

    def __init__(self) -> None:
        self.is_nested = False
        self.keys: list[Any] = []
        self.index_of: dict[Any, int] = {}
        self._tree: Tree | None = None

    def extended(self, roots: list[Any]) -> tuple["Names", list[list[Any]]]:
        """Return names for these and more parameters, and the arrays of each new group.

        Args:
            roots: the `params` of each new group.

        Raises:
            TypeError: a root is not a container of arrays, or differs from the others in kind.
            ValueError: a group has no arrays, or two parameters have one name.
        """
        containers = [_container(root) for root in roots]
        names = Names()
        names.is_nested = self.is_nested or any(map(_has_branches, containers))
        trees: list[Tree] = [{} if isinstance(container, Mapping) else [] for container in containers]
        if self._tree is not None:
            trees.append(_copy_of(self._tree))
            names.keys, names.index_of = [*self.keys], {**self.index_of}
        names._tree = trees[-1]
        if len({type(tree) for tree in trees}) > 1:
            raise TypeError("params: either every group has a dict of named parameters, or none has")
        if names.is_nested and self.keys and isinstance(self.keys[0], int):
            raise TypeError("params: got containers within a list, but the groups before have arrays only")
        arrays = [names._add(container, names._tree, None, set()) for container in containers]
        if not all(arrays):
            raise ValueError("params: got a group without arrays, wanted at least one in each group")
        return names, arrays

    def by_name(self, grads: Any) -> dict[str, Any]:
        """Return by name gradients that come in the containers of the parameters; None skips a whole container, too.

        Raises:
            TypeError: a container is of another kind than the parameters' one.
            ValueError: it has other names, or another number of items.
        """
        found: dict[str, Any] = dict.fromkeys(self.keys)
        self._find(grads, self._tree, None, found)
        return found

    def _add(self, container: Any, tree: Any, path: str | None, outer: set[int]) -> list[Any]:
        """Name the items of a container, put them into the tree, and return the arrays."""
        if id(container) in outer:
            raise ValueError(f"params{_place(path)}: this container is inside of itself")
        outer.add(id(container))
        arrays = []
        for name, item in _items(container, len(tree), path):
            key = _joined(path, name) if self.is_nested else name
            known = tree.get(name) if isinstance(tree, dict) else None
            if not _is_branch(item):
                child: Tree = len(self.keys)
                if known is not None or self.index_of.setdefault(key, len(self.keys)) != child:
                    raise ValueError(f"params: {key!r} names two parameters")
                self.keys.append(key)
                arrays.append(item)
            else:
                child = {} if isinstance(item, Mapping) else []
                if isinstance(known, dict) and isinstance(child, dict):  # of another group, with other names
                    child = known
                elif known is not None:
                    raise ValueError(f"params: {key!r} names two parameters")
                arrays += self._add(item, child, key, outer)
            if isinstance(tree, dict):
                tree[name] = child
            else:
                tree.append(child)
        outer.remove(id(container))
        return arrays

    def _find(self, grads: Any, tree: Any, path: str | None, found: dict[str, Any]) -> None:
        """Put the gradients of a container into `found`, by name."""
        if isinstance(tree, dict):
            if not isinstance(grads, Mapping):
                _raise_unlike(grads, path, "a dict with the names of the parameters")
            if missing := [name for name in tree if name not in grads]:
                raise ValueError(f"grads: nothing for {_joined(path, missing[0])!r} (None would skip it)")
            if unknown := [name for name in grads if name not in tree]:
                raise ValueError(f"grads: {_joined(path, unknown[0])!r} is not among the parameters")
            children = [(name, grads[name], child) for name, child in tree.items()]
        else:
            if not isinstance(grads, Sequence) or isinstance(grads, (str, bytes)):
                _raise_unlike(grads, path, f"a sequence of {len(tree)}")
            if len(grads) != len(tree):
                raise ValueError(f"grads{_place(path)}: got {len(grads)} items, wanted {len(tree)}, as in params")
            children = [*zip(range(len(tree)), grads, tree, strict=True)]
        for name, item, child in children:
            if isinstance(child, int):
                found[self.keys[child]] = item
            elif item is not None:
                self._find(item, child, _joined(path, name), found)


def _container(params: Any) -> Any:
    """Return the parameters of a group as a dict or list."""
    if isinstance(params, np.ndarray):
        return [params]
    if isinstance(params, Mapping):
        return params
    if isinstance(params, (str, bytes)) or not isinstance(params, Iterable):
        found = type(params).__name__
        raise TypeError(f"params: got {found}, wanted an array, a sequence of arrays, or a dict of them")
    return list(params)


def _has_branches(container: Any) -> bool:
    return any(map(_is_branch, container.values() if isinstance(container, Mapping) else container))


def _is_branch(value: Any) -> bool:
    """Return whether a value contains parameters. A list of numbers does not: it is an error, given for an array."""
    if isinstance(value, (list, tuple)):
        return not value or not all(isinstance(item, Number) for item in value)
    return isinstance(value, Mapping)


def _items(container: Any, first: int, path: str | None) -> Iterator[tuple[Any, Any]]:
    if not isinstance(container, Mapping):
        yield from enumerate(container, first)
        return
    for name, item in container.items():
        if not isinstance(name, str):
            raise TypeError(f"params{_place(path)}: got {name!r} as a name, wanted a str")
        yield str.__str__(name), item  # a plain str, also of a subclass that shows itself as another


def _copy_of(tree: Tree) -> Tree:
    if isinstance(tree, dict):
        return {name: _copy_of(child) for name, child in tree.items()}
    return [_copy_of(child) for child in tree] if isinstance(tree, list) else tree


def _joined(path: str | None, name: Any) -> str:
    return str(name) if path is None else f"{path}.{name}"


def _place(path: str | None) -> str:
    return "" if path is None else f"[{path!r}]"


def _raise_unlike(grads: Any, path: str | None, wanted: str) -> None:
    found = type(grads)
    name = found.__name__ if found.__module__ == "builtins" else f"{found.__module__}.{found.__name__}"
    raise TypeError(f"grads{_place(path)}: got {name}, wanted {wanted}, as in params")
