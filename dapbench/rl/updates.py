"""Gradient steps as one compiled graph: minibatch, loss, gradient, clipping and Adam in a single call.

A method writes a loss; :class:`Update` turns it into optimiser steps. The parameters that it trains live in one flat
tensor (each module parameter is a view into it), so that clipping and Adam are one loop each and the graph has few
inputs to guard. The optimiser is an ordinary ``torch.optim.Adam`` over that tensor, whose state Lightning checkpoints.
"""

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.func import functional_call, grad_and_value
from torch.optim.adam import adam

Batch = dict[str, Tensor]
Loss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
REMEDY = "see docs/troubleshooting.md, or say compile=false"

torch._dynamo.config.recompile_limit = 64  # every Update and every table size is one entry of the same function
torch._inductor.config.compile_threads = 1  # one run is one core
if "TORCH_LOGS" not in os.environ:  # it logs the trace of each damaged file of its cache, before it makes it anew
    logging.getLogger("torch._inductor").setLevel(logging.CRITICAL)


_gave_up = False  # set for the rest of the process once something has not compiled


@cache
def can_compile() -> bool:
    """Whether a C++ compiler answers and its cache has a folder; if not, updates run eagerly.

    Not whether it works: that shows when it compiles (:class:`Compiled`).
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    try:
        get_cpp_compiler()
        cache_dir()  # makes it
    except InvalidCxxCompiler:
        print("no C++ compiler found: updates run eagerly and slower (install g++ or clang++)", file=sys.stderr)
        return False
    except OSError as error:
        _give_up(error)
        return False
    return True


def maybe_compile(function: Callable, compile: bool, device: torch.device) -> Callable:
    """``function``, which works on ``device``, as one compiled graph if asked for and possible, else as it is."""
    switched_off = torch._dynamo.config.disable  # TORCH_COMPILE_DISABLE=1: torch.compile would refuse a full graph
    if switched_off or _gave_up or not (compile and can_compile()):
        return function
    # The kernels of these small networks take as long as calling them from Python: on the CPU, C++ calls them.
    return Compiled(function, {"cpp_wrapper": True} if device.type == "cpu" else None)


class Compiled:
    """A function as one compiled graph; from the first call on that does not compile, as it is.

    The compiler, its headers, a folder's name, a full disk, a damaged cache: each shows only when something compiles.
    """

    def __init__(self, function: Callable, options: dict[str, Any] | None) -> None:
        self.function = function
        self.graph: Callable | None = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function. What does not compile has not begun to run, so that nothing is done twice."""
        if self.graph is not None:
            try:
                return self.graph(*arguments)
            except (BackendCompilerFailed, OSError) as error:
                _give_up(error)
                self.graph = None
        return self.function(*arguments)


def _give_up(error: Exception) -> None:
    """Has everything run eagerly from now on, and says so once, in one line."""
    global _gave_up
    if not _gave_up:
        cause = getattr(error, "inner_exception", error)
        output = str(getattr(cause, "output", cause)).splitlines()  # of the compiler, if that is what failed
        said = [line.strip() for line in output if "error" in line.lower()] or [line for line in output if line.strip()]
        reason = f"{type(cause).__name__}: {said[0]}" if said else type(cause).__name__
        print(f"compiling failed, so updates run eagerly and slower ({reason}); {REMEDY}", file=sys.stderr)
    _gave_up = True


def last_compiled(function: Callable) -> CodeType | None:
    """The code that torch.compile made of ``function`` and used last; None if there is none to be had.

    Calling it passes torch.compile's own entry by, which takes a third of a step even when told to check nothing. It
    is a private function of torch (seen with 2.13). Without it, or with dynamo switched off (TORCHDYNAMO_DISABLE=1),
    steps go through torch.compile: the same numbers, a third slower; tests/rl/test_updates.py notices.
    """
    try:
        from torch._dynamo.eval_frame import _debug_get_cache_entry_list
    except ImportError:
        return None
    entries = _debug_get_cache_entry_list(function.__code__)  # the entry used last comes first
    return entries[0].code if entries else None


class FlatParameters:
    """The trainable parameters of some modules as one flat parameter that shares its memory with each of them.

    Args:
        modules: by name; parameters that do not require a gradient stay out.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = nn.ModuleDict(modules)
        named = {name: p for name, p in self.modules.named_parameters() if p.requires_grad}
        self._names, self._shapes = list(named), [p.shape for p in named.values()]
        self._sizes = [p.numel() for p in named.values()]
        flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
        for parameter, piece in zip(named.values(), flat.split(self._sizes), strict=True):
            parameter.data = piece.view_as(parameter)
        self.flat = nn.Parameter(flat)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters by name, as views into ``flat``."""
        pieces = zip(self._names, flat.split(self._sizes), self._shapes, strict=True)
        return {f"modules_by_name.{name}": piece.view(shape) for name, piece, shape in pieces}


class _LossModule(nn.Module):
    """Lets ``functional_call`` swap the parameters of the modules that a loss function uses."""

    def __init__(self, modules: nn.ModuleDict, loss: Loss) -> None:
        super().__init__()
        self.modules_by_name = modules
        self.loss = loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(batch)


class Update:
    """Minibatch steps of Adam on one loss.

    Args:
        parameters: what the loss trains; nothing else moves. Updates may share it, each with an Adam of its own.
        loss: maps a minibatch {name: [B, ...]} to a scalar and a dictionary of scalar metrics. Numbers that change
            from one iteration to the next must be tensors (buffers), since Python numbers are compiled in.
        learning_rate, eps: Adam's.
        max_grad_norm: the gradient's norm is clipped to it.
        compile: compile the step.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        loss: Loss,
        learning_rate: float,
        *,
        eps: float = 1e-8,
        max_grad_norm: float = math.inf,
        compile: bool = True,
    ) -> None:
        self.parameters, self.flat = parameters, parameters.flat
        self._module = _LossModule(parameters.modules, loss)
        # The rate is a tensor, so that a schedule does not recompile the step.
        rate = torch.tensor(learning_rate, device=self.flat.device)
        self.optimizer = torch.optim.Adam([self.flat], lr=rate, eps=eps, capturable=self.flat.is_cuda)
        self.optimizer.state[self.flat] = {
            "step": torch.zeros((), device=self.flat.device),
            "exp_avg": torch.zeros_like(self.flat),
            "exp_avg_sq": torch.zeros_like(self.flat),
        }
        self._eps = eps
        self._max_grad_norm = max_grad_norm
        self._gradient = grad_and_value(self._objective, has_aux=True)
        self._checked_step = self._compiled_step = maybe_compile(self._step, compile, self.flat.device)
        self._metric_names: list[str] = []

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets Adam's learning rate without a recompilation."""
        self.optimizer.param_groups[0]["lr"].fill_(learning_rate)

    def epoch(
        self, table: Batch, minibatch_size: int, generator: torch.Generator, *, again: bool = False
    ) -> dict[str, float]:
        """One pass over the data in random minibatches.

        Args:
            table: tensors with one leading length N.
            minibatch_size: rows in each minibatch; a smaller rest, drawn anew in each pass, is left out.
            generator: shuffles the rows.
            again: since the call before nothing but values has changed, so what is compiled still fits: checking that
                takes as long as three steps.

        Returns:
            The metrics' means over the steps, with the loss (``loss``) and the gradient's norm (``grad_norm``).
        """
        length = len(next(iter(table.values())))
        minibatches = length // minibatch_size
        order = torch.randperm(length, generator=generator).to(self.flat.device)
        rows = order[: minibatch_size * minibatches].view(minibatches, minibatch_size)
        if not self._metric_names:
            first = {name: column[rows[0]] for name, column in table.items()}
            self._metric_names = ["loss", "grad_norm", *self._module(first)[1]]
        state = self.optimizer.state[self.flat]
        arguments = (
            self.flat.detach(),
            state["exp_avg"],
            state["exp_avg_sq"],
            state["step"],
            self.optimizer.param_groups[0]["lr"],
            table,
        )
        with torch.no_grad():
            # The first step compiles, or checks that what is compiled fits.
            total = (self._checked_step if again else self._compiled_step)(*arguments, rows[0])
            if not again:
                self._checked_step = self._last_used_step()
            for i in range(1, minibatches):
                total = total + self._checked_step(*arguments, rows[i])
        means = (total / minibatches).tolist()
        return dict(zip(self._metric_names, means, strict=True))

    def _objective(self, flat: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return functional_call(self._module, self.parameters.views(flat), (batch,))

    def _last_used_step(self) -> Callable[..., Tensor]:
        """What the last call of the compiled step ran: the next ones differ in values alone."""
        compiled = isinstance(self._compiled_step, Compiled) and self._compiled_step.graph is not None
        code = last_compiled(Update._step) if compiled else None
        return self._compiled_step if code is None else partial(FunctionType(code, Update._step.__globals__), self)

    def _step(
        self,
        flat: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        step: Tensor,
        rate: Tensor,
        table: Batch,
        rows: Tensor,
    ) -> Tensor:
        """The graph: one step in place on the minibatch ``rows`` [B]; returns [loss, grad_norm, *metrics]."""
        batch = {name: column[rows] for name, column in table.items()}
        gradient, (loss, metrics) = self._gradient(flat, batch)
        norm = gradient.norm()
        gradient = gradient * (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        adam(
            [flat],
            [gradient],
            [exp_avg],
            [exp_avg_sq],
            [],
            [step],
            foreach=False,
            capturable=flat.is_cuda,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=0.0,
            eps=self._eps,
            maximize=False,
        )
        return torch.stack([loss, norm, *metrics.values()])
