"""Steps per second of one Plainloop configuration.

    python -m bench steps --task imdb --batch-size 16 --steps 20

Takes every training flag of run.py, trains for real (its data, its task, its book-keeping) and prints the rate of a
window after warm-up. For a comparison, and for rows to quote, there is ``python -m bench``.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from bench.flags import at_least, make_parser
from engine.config import TrainConfig
from engine.console import quiet_libraries
from engine.data.sources import Source, SourceConfig
from engine.settings.parser import given_names, parse, task_named
from tasks import find

IGNORED = {"explain", "profile", "resume", "push_to_hub", "max_steps"}  # of a run: nothing would come of them here


def main(argv: list[str]) -> int:
    parser = make_parser("steps", __doc__)
    parser.usage = "python -m bench steps [--steps N] [--warmup N] --task TASK [training flags of run.py]"
    parser.add_argument("--steps", type=at_least(1), default=20, help="optimizer steps in the window")
    parser.add_argument("--warmup", type=at_least(1), default=3, help="steps before it")
    options, rest = parser.parse_known_args(argv)
    name = task_named(rest)
    if name is None:
        parser.error("--task is needed, as in run.py")
    if other := sorted(given_names(rest) & IGNORED):
        parser.error(f"--{other[0].replace('_', '-')} is run.py's: this measures a window of steps, and writes nothing")
    from bench.window import Counting  # now, for torch takes seconds
    from engine import loop
    from engine.build import build
    from engine.model.flops import count_flops, peak_flops

    kind = find(name)
    config, source, choices = parse(rest, "python -m bench steps", [TrainConfig, SourceConfig, kind.Options], kind.defaults)
    config = dataclasses.replace(config, max_steps=options.warmup + options.steps)
    quiet_libraries()
    task = kind(choices, Source(source))
    examples = task.examples()["train"]
    setup = build(task, examples, config)
    with tempfile.TemporaryDirectory() as folder:
        run = Counting(
            Path(folder), config, setup.state, setup.data.plan.num_steps,
            flops=count_flops(setup.state.model, task.level), peak_flops=peak_flops(setup.state.device, setup.precision),
        )  # fmt: skip
        run.warmup = options.warmup
        try:
            loop.train(setup.state, task, setup.data, config, setup.world, run)
        finally:
            run.close()
    seconds = run.ended - run.began
    rates = {"steps": options.steps, "examples": run.num_examples, "tokens": run.num_tokens}
    text = ", ".join(f"{number / seconds:,.4g} {name}/s" for name, number in rates.items())
    how = f"{setup.state.device}, {setup.precision}, {setup.layout.kind}"
    print(f"{text} over {options.steps} steps after {options.warmup} of warm-up ({how})")
    return 0
