"""An accelerator that is none: tensors that lie on another device, as far as anybody can see from Python.

They hold their values in a tensor of the CPU. What a real accelerator refuses is refused: tensors of two devices in one
operation, and reading values without a copy to the CPU.
"""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("other")
DEVICE = torch.device("other", 0)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)  # the ways between the devices
READS = (torch.ops.aten._local_scalar_dense.default,)
INDEXED = (  # whose indices may lie on the CPU
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_put.default,
)


class OtherTensor(torch.Tensor):
    """A tensor on the other device."""

    @staticmethod
    def __new__(cls, values):
        options = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, values.size(), device=DEVICE, **options)
        made.values_on_cpu = values
        return made

    def __tensor_flatten__(self):
        return ["values_on_cpu"], None

    @staticmethod
    def __tensor_unflatten__(inner, _, __, ___):
        return OtherTensor(inner["values_on_cpu"])

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        """Values; on real devices too they are copied without being asked for."""
        return self.values_on_cpu.tolist()

    def numpy(self, *, force=False):
        """An array, where it is forced."""
        if not force:
            raise TypeError(f"can't convert {DEVICE} device type tensor to numpy; use Tensor.cpu()")
        return self.values_on_cpu.detach().numpy()

    def __array__(self, *_, **__):
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """The operation on the values, its result on the device where it belongs."""
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    others = [leaf for leaf in leaves if isinstance(leaf, OtherTensor)]
    if others and func not in COPIES:
        checked = pytree.tree_leaves(args[0]) + list(args[2:3]) if func in INDEXED else leaves
        mixed = [leaf for leaf in checked if isinstance(leaf, torch.Tensor) and not isinstance(leaf, OtherTensor)]
        if any(leaf.dim() for leaf in mixed):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {DEVICE} and cpu")
    asked = kwargs.get("device")
    target = bool(others) if asked is None else torch.device(asked).type == DEVICE.type
    if func is torch.ops.aten.copy_.default:
        target = isinstance(args[0], OtherTensor)
    kwargs = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
    if func is torch.ops.aten._to_copy.default:
        kwargs.pop("non_blocking", None)
    values = pytree.tree_map_only(OtherTensor, lambda tensor: tensor.values_on_cpu, (args, kwargs))
    result = func(*values[0], **values[1])
    if not target or func in READS:
        return result
    given = {id(leaf.values_on_cpu): leaf for leaf in others}  # what was written into is given back itself
    return pytree.tree_map_only(
        torch.Tensor, lambda made: given[id(made)] if id(made) in given else OtherTensor(made), result
    )


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """`torch.tensor` makes its values beneath all operations."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return torch.tensor(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def other_device():
    """While it is on, what is made on `DEVICE`, or copied to it, is there."""
    with _Functions(), _Operations():
        yield
