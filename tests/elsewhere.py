"""A device that is not the CPU, on a machine that has no other: for the tests of where tensors lie.

Tensors sent to `DEVICE` say that they lie there and keep their values in main memory, so that trainings and evaluations
run to their end, backward passes and `.item()` included. What a GPU refuses is refused: an operation on tensors of both
places, a draw there from a generator of here, a look at the values by NumPy. What it allows is allowed: numbers and
tensors of no dimension, an index that lies on the CPU, and copies between the two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")  # the one other device that autograd knows everywhere
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
COPIES = {"copy_", "_to_copy"}


class Elsewhere(torch.Tensor):
    """Says that it lies on `DEVICE`; its values are in `held`."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=held.requires_grad,
        )  # fmt: skip

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self) -> str:
        return f"Elsewhere({self.held})"

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.dim() == 0 else self.held, spec)

    def numpy(self, *, force: bool = False) -> None:
        raise TypeError("can't convert a tensor of another device to numpy; use Tensor.cpu() first")

    def __array__(self, dtype: object = None) -> None:
        self.numpy()

    def tolist(self) -> list:
        return self.held.detach().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args: tuple, kwargs: dict):
    """One operation: refused where its tensors do not lie together, else done in main memory."""
    name = func.overloadpacket.__name__
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, Elsewhere)]
    here = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim() > 0]
    asked = kwargs.get("device")
    if name in INDEXING and isinstance(args[0], Elsewhere):
        values = [x for x in args[2:] if isinstance(x, torch.Tensor)]
        here = [x for x in here if any(x is v for v in values)]
    if there and here and name not in COPIES:
        raise RuntimeError(f"{name}: expected all tensors on one device, found {DEVICE} and {here[0].device}")
    drawn = kwargs.get("generator")
    if drawn is not None and (bool(there) or asked == DEVICE) not in _Generator.seeded.get(drawn.initial_seed(), ()):
        raise RuntimeError(f"{name}: the generator is of another device than the tensor")
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = func(*tree_map_only(Elsewhere, _held, args), **tree_map_only(Elsewhere, _held, kwargs))
    if name == "_local_scalar_dense" or (asked is not None and torch.device(asked) != DEVICE):
        return result
    if there or asked is not None:
        if name == "copy_":
            return args[0]
        result = tree_map_only(torch.Tensor, lambda x: x if isinstance(x, Elsewhere) else Elsewhere(x), result)
        return return_and_correct_aliasing(func, args, kwargs, result) if there else result
    return result


def _held(x: Elsewhere) -> torch.Tensor:
    return x.held


def _moved(x: torch.Tensor, device: str | torch.device | None) -> torch.Tensor:
    return x if device is None else x.to(device)


class _Factories(TorchDispatchMode):
    """Tensors made on `DEVICE` out of nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Generator(torch.Generator):
    """Draws here whatever its device; `seeded` has for each seed whether generators elsewhere, or here, began with it.

    (An operation is given another object for the same generator, so that a mark on this one would not arrive.)
    """

    seeded: ClassVar[dict[int, set[bool]]] = {}

    def __new__(cls, device: str | torch.device = "cpu"):
        made = super().__new__(cls, device="cpu")
        made.elsewhere = torch.device(device) == DEVICE
        return made

    def manual_seed(self, seed: int) -> torch.Generator:
        self.seeded.setdefault(seed, set()).add(self.elsewhere)
        return super().manual_seed(seed)


@contextlib.contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Inside the block `DEVICE` computes. Autocast, off in what is tested, and fused optimisers know no such device."""
    _Generator.seeded.clear()
    adam, tensor, as_tensor = torch.optim.Adam, torch.tensor, torch.as_tensor

    def moved(make):  # these copy to a device below the level at which operations can be met
        return lambda values, *, device=None, **more: _moved(make(values, **more), device)

    with (
        patch("torch.tensor", moved(tensor)),
        patch("torch.as_tensor", moved(as_tensor)),
        patch("torch.optim.Adam", lambda *arguments, **more: adam(*arguments, **more | {"fused": False})),
        patch("torch.Generator", _Generator),
        patch("torch.autocast", lambda *arguments, **more: contextlib.nullcontext()),
        _Factories(),
    ):
        yield DEVICE
