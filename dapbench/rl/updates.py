"""Gradient steps as one compiled graph: every minibatch of an epoch, its loss, gradient, clipping and Adam's step.

A method writes a loss; :class:`Update` turns it into optimiser steps. The parameters that it trains live in one flat
tensor (each module parameter is a view into it), so that clipping and Adam are one loop each and the graph has few
inputs to guard. What Adam knows lies in an ordinary ``torch.optim.Adam`` over that tensor, which Lightning checkpoints.
"""

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.func import functional_call, grad_and_value

Batch = dict[str, Tensor]
BETA1, BETA2 = 0.9, 0.999  # Adam's

Loss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
REMEDY = "see docs/troubleshooting.md, or say compile=false"

torch._dynamo.config.recompile_limit = 64  # every Update and every table size is one entry of the same function
torch._inductor.config.compile_threads = 1  # one run is one core
# Else torch compiles a loop anew in every process. What its body does is part of the cache's key all the same.
torch._inductor.config.unsafe_marked_cacheable_functions = {"torch.ops.higher_order.while_loop": torch.__version__}
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
        # A whole epoch is one graph; on a GPU, where a loop in a graph waits for each turn, each step is one.
        self._run_step = maybe_compile(self._step, compile and self.flat.is_cuda, self.flat.device)
        self._run_epoch = maybe_compile(self._epoch, compile and not self.flat.is_cuda, self.flat.device)
        self._metric_names: dict[tuple[str, ...], list[str]] = {}  # by the table's columns, which a loss may look at

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets Adam's learning rate without a recompilation."""
        self.optimizer.param_groups[0]["lr"].fill_(learning_rate)

    def epoch(self, table: Batch, minibatch_size: int, generator: torch.Generator) -> dict[str, float]:
        """One pass over the data in random minibatches.

        Args:
            table: tensors with one leading length N. For other columns than before, the graph is compiled anew.
            minibatch_size: rows in each minibatch; a smaller rest, drawn anew in each pass, is left out.
            generator: shuffles the rows.

        Returns:
            The metrics' means over the steps, with the loss (``loss``) and the gradient's norm (``grad_norm``).
        """
        length = len(next(iter(table.values())))
        minibatches = length // minibatch_size
        order = torch.randperm(length, generator=generator).to(self.flat.device)
        moved = self._moved(table, order[: minibatch_size * minibatches].view(minibatches, minibatch_size))
        state = self.optimizer.state[self.flat]
        with torch.no_grad():
            for mine, new in zip((self.flat, state["exp_avg"], state["exp_avg_sq"]), moved, strict=False):
                mine.copy_(new)
            state["step"] += minibatches
        means = (moved[-1] / minibatches).tolist()
        return dict(zip(self._metric_names[tuple(table)], means, strict=True))

    def compile_for(self, table: Batch, minibatch_size: int) -> None:
        """Compiles the epoch for a table of these columns and this length, and changes nothing."""
        minibatches = len(next(iter(table.values()))) // minibatch_size
        rows = torch.arange(minibatches * minibatch_size, device=self.flat.device)
        self._moved(table, rows.view(minibatches, minibatch_size))

    def _moved(self, table: Batch, rows: Tensor) -> tuple[Tensor, ...]:
        """Where an epoch on the minibatches ``rows`` [M, B] leads, as :meth:`_step` returns it; moves nothing."""
        columns = tuple(table)
        if columns not in self._metric_names:
            first = {name: column[rows[0]] for name, column in table.items()}
            self._metric_names[columns] = ["loss", "grad_norm", *self._module(first)[1]]
        state = self.optimizer.state[self.flat]
        adam = self.flat.detach(), state["exp_avg"], state["exp_avg_sq"]
        total = self.flat.new_zeros(len(self._metric_names[columns]))
        with torch.no_grad():
            return self._run_epoch(*adam, total, table, rows, self._corrections(state["step"], len(rows)))

    def _corrections(self, step: Tensor, count: int) -> Tensor:
        """[count, 2], step size and ε of the next steps with Adam's bias in them (Kingma & Ba 2015, end of section 2).

        In the graph their powers would be taken anew for every few parameters.
        """
        t = step.double() + torch.arange(1, count + 1, dtype=torch.float64, device=step.device)
        second = (1.0 - BETA2**t).sqrt()
        rate = self.optimizer.param_groups[0]["lr"].double()
        return torch.stack([rate * second / (1.0 - BETA1**t), self._eps * second], -1).float()

    def _epoch(
        self, flat: Tensor, mean: Tensor, square: Tensor, total: Tensor, table: Batch, rows: Tensor, corrections: Tensor
    ) -> tuple[Tensor, ...]:
        """A step on each minibatch of ``rows`` [M, B]; returns what :meth:`_step` does."""
        count = len(rows)

        def more(i: Tensor, *_: Tensor) -> Tensor:
            return (i < count).all()

        def step(i: Tensor, *adam: Tensor) -> tuple[Tensor, ...]:
            return i + 1, *self._run_step(*adam, table, rows[i][0], corrections[i][0])

        first = torch.zeros(1, dtype=torch.int64)  # not a scalar: rows would be indexed by its value, a constant
        if torch.compiler.is_compiling():  # a loop in the graph; Python's would be unrolled into it
            return torch.while_loop(more, step, (first, flat, mean, square, total))[1:]
        adam = flat, mean, square, total
        for i in range(count):
            adam = self._run_step(*adam, table, rows[i], corrections[i])
        return adam

    def _objective(self, flat: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return functional_call(self._module, self.parameters.views(flat), (batch,))

    def _step(
        self, flat: Tensor, mean: Tensor, square: Tensor, total: Tensor, table: Batch, rows: Tensor, correction: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step of Adam on the minibatch ``rows`` [B].

        Returns:
            The parameters, the running means of the gradient and of its square, and ``total`` [loss, grad_norm,
            *metrics] with this step's added.
        """
        gradient, (loss, metrics) = self._gradient(flat, {name: column[rows] for name, column in table.items()})
        norm = gradient.norm()
        gradient = gradient * (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        mean = torch.lerp(mean, gradient, 1.0 - BETA1)
        square = BETA2 * square + (1.0 - BETA2) * gradient**2
        step_size, eps = correction.unbind()
        flat = flat - step_size * mean / (square.sqrt() + eps)
        return flat, mean, square, total + torch.stack([loss, norm, *metrics.values()])
