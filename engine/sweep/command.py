"""``python run.py sweep``: several settings, several seeds, each an ordinary run; which is best, and is that more than chance?

What the settings are compared by is measured on rows that choose: part 1/2 of the evaluation rows, or the folds of the training
rows. The best is then measured on the other rows, which no run has seen and nothing was chosen by. A sweep that is started
again with the same flags goes on: finished runs are found, unfinished ones resumed, and what is dropped follows from the
figures.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.artifacts.directory import is_finished, locked, remove_leftovers
from engine.console import counted, say
from engine.errors import UsageError, UserError
from engine.findings.paired import require_scipy
from engine.finished import Find
from engine.installed import program
from engine.sweep import document
from engine.sweep.choice import Candidate, Figure, Ran, best_of, compared, drop_losers, reported
from engine.sweep.flags import SweepConfig
from engine.sweep.measure import figure_of, is_done, of_run, on_other_rows
from engine.sweep.page import rows_of, table_lines, words, write_page
from engine.sweep.plan import Plan, Repeat
from engine.sweep.runs import Outcome, run_all
from engine.sweep.trials import ranges_of, require_optuna, run_trials


class FailedRunsError(UserError):
    """The sweep is done, and some of its runs are not: the exit code is that of the first."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Work:
    """A sweep that goes on. ``outcomes``: of the processes that have ended, by the name of the run."""

    plan: Plan
    find: Find
    figure: Figure
    total: int
    candidates: list[Candidate]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    num_ended: int = 0

    def run(self, some: Sequence[Candidate], repeats: Sequence[Repeat]) -> None:
        """These runs of each that is not out. A run that fails puts its setting out, and the others go on."""
        due = [(each, repeat) for repeat in repeats for each in some if not each.dropped]
        plan, left = self.plan, list[tuple[Candidate, Repeat]]()
        for each, repeat in due:
            if is_done(plan, each.setting, repeat, self.find):
                self.ended(each, repeat, None)
            else:
                left.append((each, repeat))
        logs = plan.directory / "logs"
        logs.mkdir(exist_ok=True)
        names = [plan.name(each.setting, repeat) for each, repeat in left]
        commands = [
            (plan.flags(each.setting, repeat), logs / f"{name}.log") for (each, repeat), name in zip(left, names, strict=True)
        ]
        run_all(commands, plan.config.num_runs_at_once, lambda number, outcome: self.ended(*left[number], outcome))
        for each in some:
            each.runs = {repeat: each.runs[repeat] for repeat in plan.repeats() if repeat in each.runs}  # in one order

    def ended(self, each: Candidate, repeat: Repeat, outcome: Outcome | None) -> None:
        """Take up what a run has come to. ``outcome``: of its process; None: it was finished before."""
        plan, name = self.plan, self.plan.name(each.setting, repeat)
        directory, took = plan.place(each.setting, repeat), "finished before"
        if outcome is not None:
            self.outcomes[name], took = outcome, f"{outcome.seconds:.0f} s"
        self.num_ended += 1
        if outcome is not None and (outcome.code or not is_finished(directory)):
            found: Ran | str = outcome.line
        else:
            found = of_run(directory, plan, self.figure, self.find)
        if isinstance(found, str):
            each.dropped = each.dropped or f"failed: {found}"
            code = f" with exit code {outcome.code}" if outcome else ""
            what = f"failed{code}, and its setting is out of the choice: {found}"
        else:
            each.runs[repeat] = found
            what = f"{self.figure.name} {found.value:.4f}  ({took})"
            self.outcomes.setdefault(name, Outcome(0, "", found.seconds))
        document.write(plan, self.outcomes)
        say(f"run {self.num_ended} of {self.total}  {name}  {what}", flush=True)


def sweep(config: SweepConfig, argv: Sequence[str], find: Find) -> None:
    """The command. ``argv``: a training's flags. Raises UsageError, DataError; FailedRunsError, StoppedError."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UsageError("sweep starts its runs by itself: without torchrun")
    plan = Plan.of(config, argv, find)
    require_scipy()
    if config.optuna:
        require_optuna()
        ranges_of(plan)
    settings = [] if config.optuna else plan.settings()
    document.claim(plan)
    with locked(plan.directory):
        remove_leftovers(plan.directory)
        figure = figure_of(plan, find)
        total = (config.optuna or len(settings)) * len(plan.repeats())
        work = Work(plan, find, figure, total, [Candidate(each) for each in settings])
        direction = "lower" if figure.lower_is_better else "higher"
        say(f"sweep      {counted(total, 'run')}: {counted(config.optuna or len(settings), 'setting')} x "
            f"{counted(len(plan.repeats()), 'run')}, chosen by {figure.name}, {direction} is better", flush=True)  # fmt: skip
        document.write(plan, work.outcomes)
        run_settings(work)
        conclude(work)


def run_settings(work: Work) -> None:
    """All runs: repeat by repeat, so that losers are known early, or trial by trial."""
    plan, config = work.plan, work.plan.config
    if config.optuna:
        run_trials(plan, work.figure, config.optuna, work.candidates, lambda some: work.run(some, plan.repeats()))
        return
    if config.stop_losers is None:
        work.run(work.candidates, plan.repeats())
        return
    for done, repeat in enumerate(plan.repeats(), 1):
        work.run(work.candidates, [repeat])
        if 2 <= done < len(plan.repeats()):
            for each in drop_losers(work.candidates, work.figure, config.stop_losers, len(plan.repeats())):
                say(
                    f"loser      {each.setting.name}: {each.dropped}, worse by more than {config.stop_losers:g} standard errors"
                )


def conclude(work: Work) -> None:
    """Choose, measure the chosen on the other rows, say it, write it. Raises FailedRunsError where runs have failed."""
    plan, figure = work.plan, work.figure
    failed = [(name, each) for name, each in work.outcomes.items() if each.code]
    best = best_of(work.candidates, figure)
    if best is None:
        name, each = failed[0] if failed else ("all", Outcome(1, f"{figure.name} is undefined", 0.0))
        line = each.line.removeprefix("error: ")
        raise FailedRunsError(f"no setting is left to choose, runs of all have failed; the first, {name}: {line}", each.code)
    tests = compared(work.candidates, best, figure)
    others = [on_other_rows(plan.place(best.setting, repeat), plan, figure, work.find) for repeat in best.runs]
    report = reported([other.value for other in others], [other.rows for other in others if other.rows], figure)
    rows_of_folds = {repeat.fold: len(run.rows) for repeat, run in best.runs.items() if run.rows is not None}
    chosen_on = sum(rows_of_folds.values())
    values_of_best = [f"--{name.replace('_', '-')}={value}" for name, value in best.setting.values.items()]
    command = program() + " " + shlex.join([*plan.argv, *values_of_best, "--output-dir", "runs/chosen"])
    lines = words(plan, figure, best, chosen_on, report, tests, command)
    result = document.Result(work.candidates, figure, tests, best, chosen_on, report, command, lines)
    document.write_table(plan, result)
    write_page(plan, result)
    document.write(plan, work.outcomes, result)
    for line in [*table_lines(rows_of(work.candidates, tests, best, figure)), *lines]:
        say(line)
    say(f"saved to {plan.directory}: {document.NAME}, {document.TABLE}, {document.PAGE} (open it in a browser), runs/")
    if failed:
        name, each = failed[0]
        raise FailedRunsError(
            f"{len(failed)} of {len(work.outcomes)} runs failed, whose settings are out of the choice; the first, {name}: "
            f"{each.line.removeprefix('error: ')}", each.code
        )  # fmt: skip
