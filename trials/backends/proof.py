"""The proof that a frozen base model is what was loaded, after a trial has used it."""

import functools
import gc
import hashlib
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import torch

from trials.models.frozen_base import BaseNotClean

MEMORY_SLACK = 64 * 2**20
"""Bytes: cuBLAS takes its workspaces only when they are needed. Leaks add up, so they are found."""

MOST_RISES = 2
"""Checks in a row at which more memory was held than at the one before; one more is a leak."""

_HOOKS = [
    name
    for name, value in torch.nn.Module().__dict__.items()
    if "hooks" in name and isinstance(value, dict)
]


class Proof:
    """Remembers a base model as it was loaded, and the device memory held at the first check.

    The first is to follow a pass with an adapter (`trials.backends.first_pass`): kernels keep
    buffers of their own from then on.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._content = content_hash(model)
        self._modules = _modules(model)
        self._memory: int | None = None
        self._latest_memory = self._n_rises = 0
        # What is there now stays, so no collection after a trial need go through it: 0.3 s each.
        gc.collect()
        gc.freeze()

    def check(self, model: torch.nn.Module) -> None:
        """Compare `model` with what was loaded.

        Raises:
            BaseNotClean: A module, hook, trainable parameter, gradient, changed weight or held
                memory is left.
        """
        self._check_modules(_modules(model))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                raise BaseNotClean(f"a parameter is still trainable: {name}")
            if parameter.grad is not None:
                raise BaseNotClean(f"a parameter still has a gradient: {name}")
        if content_hash(model) != self._content:
            raise BaseNotClean("frozen weights have changed")
        self._check_memory(_allocated_bytes())

    def _check_memory(self, held: int) -> None:
        if self._memory is None:
            self._memory = self._latest_memory = held
        more = (held - self._memory) / 2**20
        if held - self._memory > MEMORY_SLACK:
            raise BaseNotClean(f"{more:.0f} MiB more of device memory held than before the trials")
        self._n_rises = self._n_rises + 1 if held > self._latest_memory else 0
        self._latest_memory = held
        if self._n_rises > MOST_RISES:
            raise BaseNotClean(
                f"device memory has risen with each of {self._n_rises} trials, to {more:.1f} MiB "
                f"more than before them"
            )

    def _check_modules(self, found: dict[str, tuple[int, bool]]) -> None:
        if found.keys() != self._modules.keys():
            left = sorted(found.keys() ^ self._modules.keys())[:3]
            raise BaseNotClean(f"modules differ from the loaded base model's: {left}")
        for name, (n_hooks, has_own_forward) in found.items():
            n_before, had_own_forward = self._modules[name]
            place = name or "the model itself"
            if n_hooks > n_before:
                raise BaseNotClean(f"{n_hooks - n_before} hooks are left on {place}")
            if has_own_forward and not had_own_forward:
                raise BaseNotClean(f"the forward method of {place} is still replaced")


@torch.no_grad()
def content_hash(model: torch.nn.Module) -> str:
    """Return a hash of all that decides what a frozen model computes; made on its device.

    Covers the parameters, the persistent buffers, the quantisation state of bitsandbytes, and
    their names, shapes and types. Equal content has equal hashes on every device. One transfer.

    The words of 32 bits x₁, x₂, … are hashed to Σ kᵢ·xᵢ mod 2^64 with random keys kᵢ of 64 bits:
    two contents collide with a probability of at most 2^-32 (the multilinear family; Lemire and
    Kaser, 2014, "Strongly universal string hashing is fast", arXiv 1202.4961).
    """
    described: list[Any] = []
    sums: list[torch.Tensor] = []
    small: list[torch.Tensor] = []  # hashed as one: a model has a thousand, a kernel call each
    for name, value in _content(model):
        if not isinstance(value, torch.Tensor):
            described.append((name, str(value)))
            continue
        described.append((name, tuple(value.shape), str(value.dtype)))
        data = value.reshape(-1).view(torch.uint8)
        n_bytes = data.numel()
        if n_bytes > _SMALL:
            sums += _block_sums(data[: n_bytes // 8 * 8])
            data = data[n_bytes // 8 * 8 :]
        small.append(data)
    joined = torch.cat(small)
    sums += _block_sums(torch.nn.functional.pad(joined, (0, -joined.numel() % 8)))
    total = _keyed_sums(torch.cat(sums)[None])
    described.append(int(total))
    return hashlib.sha256(repr(described).encode()).hexdigest()


_SMALL = 2**14
"""Bytes."""

_BLOCK = 2**15
"""Words of 64 bits that are hashed with the same keys; their sums are hashed again. A block, its
keys and its products stay in a processor's cache."""

_BLOCKS_AT_ONCE = {"cpu": 1, "cuda": 128}
"""A GPU wants few and large kernels: 32 MiB each. The hash is the same."""


def _block_sums(data: torch.Tensor) -> Iterator[torch.Tensor]:
    """Sum each block of bytes with its keys; the last may be shorter."""
    words = data.view(torch.int64)
    n_words = words.numel()
    n_whole = n_words // _BLOCK * _BLOCK
    if n_whole:
        blocks = words[:n_whole].view(-1, _BLOCK)
        for several in torch.split(blocks, _BLOCKS_AT_ONCE[data.device.type]):
            yield _keyed_sums(several)
    if n_whole < n_words:
        yield _keyed_sums(words[n_whole:][None])


def _keyed_sums(words: torch.Tensor) -> torch.Tensor:
    """Return Σ kᵢ·xᵢ mod 2^64 of each row of int64 words, (rows, words) → (rows,).

    With a word's halves low and high, k·low + k'·high = k·word + (k' - 2^32·k)·high, whose
    factors are as random as k and k'. So the word need not be taken apart.
    """
    n = words.shape[1]
    of_word, of_high = _keys(max(n, _BLOCK), words.device)
    sums = (words * of_word[:n]).sum(dim=1)
    return sums.add_((words >> 32).mul_(of_high[:n]).sum(dim=1))


@functools.lru_cache(maxsize=4)
def _keys(n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Random keys, the same everywhere: what SHAKE-256 makes of a fixed text."""
    stream = hashlib.shake_256(b"sweep: content of a frozen base model").digest(16 * n)
    keys = torch.frombuffer(bytearray(stream), dtype=torch.int64).to(device)
    return keys[:n], keys[n:]


def _content(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """All that decides what the model computes: named tensors, and numbers of quantisation."""
    seen = set()
    for path, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        for name, tensor in sorted(own.items(), key=itemgetter(0)):  # peft puts some back last
            if name in module._non_persistent_buffers_set or tensor is None or id(tensor) in seen:
                continue
            seen.add(id(tensor))  # tied weights are hashed once
            yield from _with_quantisation(f"{path}.{name}", module, tensor)


def _with_quantisation(
    name: str, module: torch.nn.Module, tensor: torch.Tensor
) -> Iterator[tuple[str, Any]]:
    yield name, tensor.data
    state = getattr(tensor, "quant_state", None)  # 4 bits
    while state is not None:
        for key in ("absmax", "code", "offset", "shape", "dtype", "blocksize", "quant_type"):
            yield f"{name}.{key}", getattr(state, key)
        name, state = f"{name}.state2", state.state2
    # 8 bits: the first forward pass moves the scales from the weight to the module's state.
    scales = getattr(tensor, "SCB", None)
    if scales is None:
        scales = getattr(getattr(module, "state", None), "SCB", None)
    if scales is not None:
        yield f"{name}.SCB", scales


def _modules(model: torch.nn.Module) -> dict[str, tuple[int, bool]]:
    """For each module by name: its number of hooks, and whether its forward was replaced."""
    return {
        name: (sum(len(getattr(module, hooks)) for hooks in _HOOKS), "forward" in module.__dict__)
        for name, module in model.named_modules()
    }


def _allocated_bytes() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
