"""Muon for the matrices of the transformer blocks, and AdamW for all else, as one optimizer.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) is defined for matrices only. Both halves are
torch.optim's own classes; here they share one list of parameter groups and one state, so that a schedule, a checkpoint and
GradScaler see an optimizer like any other. Next: optimizer.py, whose table it is an entry of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class MuonWithAdamW(torch.optim.Optimizer):
    """``groups``: each with a ``kind``, "muon" (matrices) or "adamw" (anything), that says who updates its parameters.

    Muon's update is scaled to the size of AdamW's (``match_rms_adamw``; Liu et al. 2025, arXiv 2502.16982), so one learning
    rate serves both.

    An update is skipped, on the device, when ``found_inf`` is 1: fused AdamW's kernel does so itself. Muon has no such
    kernel, so its matrices and their momentum are copied before the step and put back after it.
    """

    _step_supports_amp_scaling = True  # GradScaler then leaves the decision to step(), and does not read the device

    def __init__(self, groups: Sequence[dict[str, Any]], *, lr: float, momentum: float, betas: tuple[float, float], eps: float):
        of_adamw, of_muon = ([group for group in groups if group["kind"] == kind] for kind in ("adamw", "muon"))
        self.muon = torch.optim.Muon(of_muon, lr=lr, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(of_adamw, lr=lr, betas=betas, eps=eps, fused=True) if of_adamw else None
        super().__init__([*(self.adamw.param_groups if self.adamw else []), *self.muon.param_groups], {"lr": lr})
        self._share()

    def _share(self) -> None:
        """Both halves work on the groups and the state of this object."""
        for kind, half in (("muon", self.muon), ("adamw", self.adamw)):
            if half is not None:
                half.param_groups = [group for group in self.param_groups if group["kind"] == kind]
                half.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # which makes new groups and a new state
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """``closure`` is not supported."""
        assert closure is None
        skip: Tensor | None = getattr(self, "found_inf", None)
        if self.adamw is not None:
            self.adamw.found_inf = skip  # type: ignore[attr-defined]
            self.adamw.step()
        if skip is None:
            self.muon.step()
        else:
            unless(skip, self._changed_by_muon(), self.muon.step)
        return None

    def _changed_by_muon(self) -> list[Tensor]:
        """The matrices of the coming step and their momentum, which is made here if this is the first one."""
        found = []
        for parameter in (p for group in self.muon.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            found += [parameter, state["momentum_buffer"]]
        return found


def unless(skip: Tensor, tensors: Sequence[Tensor], change: Callable[[], Any]) -> None:
    """``change()``, which changes ``tensors`` in place; where ``skip``, (), is 1 they have the bits of before afterwards.

    Nothing is read from the device. While it runs, another copy of the tensors is held.
    """
    copies = [tensor.clone() for tensor in tensors]
    change()
    for tensor, before in zip(tensors, copies, strict=True):
        tensor.copy_(torch.where(skip > 0, before, tensor))
