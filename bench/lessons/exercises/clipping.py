"""Exercise: clip the gradient of a step in fp16.

In fp16 the loss is multiplied by a large number, so that small gradients survive, and the optimizer's step divides it out.
The gradient that is clipped must be the true one; a step whose gradient overflowed must change nothing, and the next one must
use a smaller number.

    python run.py lesson clipping --check FILE
"""

import torch


def step(model, optimizer, scaler, loss, max_norm):
    """One optimizer step. ``scaler``: a torch GradScaler; ``loss``: a scalar tensor; ``max_norm``: the longest allowed."""
    scaler.scale(loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)  # what does it see here?
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
