"""The count of live bytes: every storage once, under the right kind, from its making to its end."""

import torch

from megatron_nmm.dry_run.memory import Memory
from megatron_nmm.dry_run.watch import Watch

KILO = 256
"""fp32 values of a KiB."""


def test_a_storage_counts_once_and_until_it_is_gone() -> None:
    memory = Memory("cpu")
    tensor = torch.empty(KILO)
    for view in (tensor, tensor[1:], tensor.view(2, -1).t()):
        memory.add(view)
    del view
    assert memory.total == memory.live["temporary"] == 1024
    view = tensor[:1]
    del tensor
    assert memory.total == 1024, "a view keeps all of it"
    del view
    assert memory.total == 0
    assert memory.peak_total == 1024


def test_the_peak_is_the_moment_of_the_largest_sum() -> None:
    memory = Memory("cpu")
    first = torch.empty(KILO)
    memory.mark(first, "weights")
    second = torch.empty(2 * KILO)
    memory.mark(second, "activations")
    del second
    third = torch.empty(KILO)
    memory.add(third)
    assert memory.peak_total == 3072
    assert memory.peak == {"weights": 1024, "gradients": 0, "optimizer": 0, "activations": 2048, "temporary": 0}
    memory.start_over()
    assert memory.peak_total == memory.total == 2048


def test_what_autograd_keeps_of_a_weight_stays_a_weight() -> None:
    memory = Memory("cpu")
    weight, batch = torch.empty(KILO), torch.empty(KILO)
    memory.mark(weight, "weights")
    memory.add(batch)
    for tensor in (weight, batch):
        memory.mark(tensor, "activations")
    assert (memory.live["weights"], memory.live["activations"]) == (1024, 1024)
    memory.mark(batch, "gradients")
    assert (memory.live["gradients"], memory.live["activations"]) == (1024, 0)


def test_what_a_kernel_makes_and_drops_is_never_in_memory() -> None:
    memory = Memory("cpu")
    with memory.one_kernel():
        inner = torch.empty(KILO)
        memory.add(inner)
        out = torch.empty(2 * KILO)
        memory.add(out)
        del inner
    assert memory.peak_total == memory.total == 2048


def test_tensors_of_other_devices_do_not_count() -> None:
    memory = Memory("meta")
    host = torch.empty(KILO)
    memory.mark(host, "weights")
    assert memory.total == 0


def test_the_mode_counts_what_operations_make_backwards_too() -> None:
    memory = Memory("cpu")
    x = torch.ones(KILO, requires_grad=True)
    with Watch(memory, torch.device("cpu")):
        y = x * 2
        assert memory.total == 1024
        y.sum().backward()
    assert memory.total == 2 * 1024, "y and the gradient of x; the sum is gone"
    del y
    x.grad = None
    assert memory.total == 0
