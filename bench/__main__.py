"""Every measurement is a command of this one program: python -m bench NAME [flags].

``python -m bench --help`` lists the names, ``python -m bench NAME --help`` shows the flags of one. Without a name it is
the comparison. A module of the table has ``main(argv)``, which returns the exit code, and imports torch after it has read
its flags.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from engine.console import one_line
from engine.errors import UsageError, UserError

COMMANDS = {
    "compare": ("bench.contest.compare", "Plainloop beside a plain loop, Accelerate, Trainer and Fabric: also without a name"),
    "levers": ("bench.contest.levers", "what each lever is worth, and where the time of a step goes"),
    "steps": ("bench.steps", "steps per second of one configuration of run.py: --task imdb --steps 20"),
    "step": ("bench.own_step", "a training step of your own, profiled as --profile does: FILE.py:FUNCTION"),
    "tokens": ("bench.contest.tokens", "token arrays for a machine without texts: OUT.npz, then --tokens OUT.npz"),
    "plot": ("bench.contest.pictures", "the pictures of a comparison again, from the rows that were kept"),
    "gpu": ("bench.gpu.programme", "a session on a GPU, in parts of at most nine minutes"),
    "matmul": ("bench.contest.matmul", "the best rate of matrix products that this device reaches"),
    "attention": ("bench.contest.attention", "attention on a CPU, by matrix products and by torch's SDPA"),
    "scaling": ("bench.scaling", "what GPUs tell each other in a step beside what they compute: a calculation"),
    "kill": ("bench.reliability.kill", "killed at any moment and resumed, is the end the same?"),
    "predict": ("bench.reliability.predicting", "predict on a million rows: memory, speed, kills with --resume"),
    "faults": ("bench.reliability.faults", "a save whose every system call fails, full disks, damaged files"),
    "ranks": ("bench.reliability.ranks", "one of two ranks killed at random times, until the run is done"),
    "endurance": ("bench.reliability.endurance", "long runs and large files: memory that does not grow; the wait for a save"),
    "checkpoints": ("bench.reliability.checkpoints", "how much memory saving and resuming take on each rank"),
    "strangers": ("bench.reliability.strangers", "runs, models and templates changed at random, read by every command"),
    "architectures": ("bench.architectures.table", "every architecture of transformers as a tiny model, through the engine"),
    "bad-input": ("bench.bad_input.table", "every bad input we know of through the real command line"),
    "parity": ("bench.quality.parity", "equal to Trainer on real text, number for number"),
    "quality": ("bench.quality.seeds", "does packing, or bf16, cost accuracy? Several seeds, review by review"),
    "gain": ("bench.quality.gain", "does contrastive training find more of the held-out pairs?"),
    "advice": (
        "bench.quality.advice",
        "what the advice of --profile is worth: each line taken, beside the run that was told it",
    ),
    "errors": ("bench.quality.errors", "what a model of real reviews gets wrong; planted faults, and whether they are found"),
    "export": ("bench.quality.exported", "exported models beside their own: probabilities, accuracy, speed"),
    "sample": ("bench.quality.sample", "how hard the synthetic Yelp sample is"),
    "life": ("bench.quality.life", "the commands of docs/life-of-a-model.md, whose outputs it writes anew"),
    "tutorials": ("bench.quality.tutorials", "the tutorials as a newcomer types them: what comes out, how long it takes"),
    "serve": ("bench.serving.measure", "run.py serve under load, beside batches of one and a pipeline one by one"),
    "versions": ("bench.versions", "the suite with the oldest, the pinned and the newest torch and transformers"),
    "page": ("bench.lessons.page", "write the line numbers of docs/what-trainer-hides.md anew"),
}


def main(argv: Sequence[str]) -> int:
    """Run one command; returns its exit code. A mistake in the flags is one line and exit code 2."""
    try:
        command, rest = chosen(argv)
        if command is None:
            print(listing())
            return 0
        code: int = importlib.import_module(COMMANDS[command][0]).main(rest)
        return code
    except UserError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return error.exit_code


def chosen(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The command (None: list them) and its flags. Raises UsageError for an unknown one, with the nearest there is.

    ``--gpu [PART]`` anywhere among the flags is what ``gpu [PART]`` was called, and goes on working.
    """
    if argv and not argv[0].startswith("-"):
        if argv[0] not in COMMANDS:
            near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
            way_on = f"did you mean {near[0]}?" if near else f"there are: {', '.join(COMMANDS)}"
            raise UsageError(f"unknown name {argv[0]!r}: {way_on} (python -m bench --help)")
        return argv[0], list(argv[1:])
    for i, flag in enumerate(argv):
        if flag == "--gpu" or flag.startswith("--gpu="):
            return "gpu", [*flag.split("=", 1)[1:], *argv[i + 1 :], *argv[:i]]
    return (None, []) if {"-h", "--help"} & set(argv) else ("compare", list(argv))


def listing() -> str:
    """What ``python -m bench --help`` prints."""
    return "usage: python -m bench NAME [flags]; python -m bench NAME --help shows the flags\n\n" + "\n".join(
        f"  {name:<12} {line}" for name, (_, line) in COMMANDS.items()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
