"""Sums of losses and of rows are added up over the window, and divided once."""


def logged(steps, every):
    windows = [steps[i : i + every] for i in range(0, len(steps), every)]
    totals = [(sum(total for total, _ in window), sum(rows for _, rows in window)) for window in windows]
    return [total / rows if rows else None for total, rows in totals]
