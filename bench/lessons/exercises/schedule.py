"""Exercise: a warm-up that wastes no step.

The learning rate rises evenly over the first ``warmup`` steps, the first of which has ``peak / warmup`` and the last the peak,
and falls evenly from there: it would reach 0 in the step behind the last one. With ``warmup=0`` the first step has the peak.

    python run.py lesson schedule --check FILE
"""


def rate(step, num_steps, warmup, peak):
    """The learning rate of a step; ``step`` counts from 1 to num_steps."""
    return peak  # neither a warm-up nor a fall yet
