"""Both parts are straight lines through points that the task names."""


def rate(step, num_steps, warmup, peak):
    if step <= warmup:
        return peak * step / warmup
    top = max(warmup, 1)  # the step that has the peak
    return peak * (num_steps + 1 - step) / (num_steps + 1 - top)
