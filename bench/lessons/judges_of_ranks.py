"""The judge of the exercise about several processes, which are threads here; what a judge is: judges.py."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

PATIENCE = 5.0  # seconds that a process waits for the others


def ranks(factor: Callable[..., Any]) -> str:
    for tokens in ([6, 2], [5, 3, 4], [7, 0, 2]):
        found = factors(factor, tokens)
        if isinstance(found, str):
            return found
        size, total = len(tokens), sum(tokens)
        own = [1 / max(n, 1) for n in tokens]
        usual = (
            ([size / total] * size, ""),
            (
                own,
                f"each process divides by its own tokens: with {tokens}, a token of one weighs more than one of another",
            ),
            ([size * each for each in own], "each process divides by its own tokens, and the means are added up"),
            ([1 / total] * size, f"the gradient is {size} times too small: DDP's mean divides by the {size} processes, too"),
            ([size * n / total for n in tokens], "a process's sum is weighed by its tokens, which the sum has done already"),
            ([n / total for n in tokens], "a process's sum is weighed by its tokens, which the sum has done already"),
            ([1.0] * size, "nobody divides: the sums over the tokens are averaged over the processes"),
        )
        said = next((said for values, said in usual if alike(found, values)), None)
        if said is None:
            return f"with {tokens} tokens the factors are {shown(found)} and should all be {size / total:.4f}"
        if said:
            return said
    return ""


def factors(factor: Callable[..., Any], tokens: Sequence[int]) -> list[float] | str:
    """What each process returns, or what keeps them from going on. Raises what one of them raises."""
    size = len(tokens)
    meeting, numbers = threading.Barrier(size, timeout=PATIENCE), [0.0] * size
    found: list[Any] = [None] * size
    calls = [0] * size

    def be(rank: int) -> None:
        def sum_over_ranks(number: float) -> float:
            calls[rank] += 1
            numbers[rank] = number
            meeting.wait()
            total = sum(numbers)
            meeting.wait()
            return total

        try:
            found[rank] = factor(tokens[rank], size, sum_over_ranks)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found:
        if isinstance(result, Exception) and not isinstance(result, threading.BrokenBarrierError):
            raise result
    if len(set(calls)) > 1:
        rank = calls.index(min(calls))
        return f"a process with {tokens[rank]} tokens does not call sum_over_ranks: the others wait for it for ever"
    return [float(each) for each in found]


def alike(found: Sequence[float], values: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(found, values, strict=True))


def shown(found: Sequence[float]) -> str:
    return ", ".join(f"{each:.4f}" for each in found)
