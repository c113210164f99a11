"""``--optuna N``: settings drawn by optuna from the ranges of the grid, kept in trials.jsonl, so that a sweep goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine import atomic
from engine.errors import UsageError
from engine.installed import install
from engine.sweep.choice import Candidate, Figure
from engine.sweep.document import TRIALS
from engine.sweep.plan import Plan, Setting

LOG_RANGE = 8  # from this ratio of a range's ends on, and for what is called a rate, it is drawn on a log scale


def require_optuna() -> None:
    """Raises UsageError where it is not installed."""
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"--optuna needs the package {error.name}, which is not installed: {install('sweep')}") from error


def ranges_of(plan: Plan) -> dict[str, tuple[Any, Any] | None]:
    """Of each setting of the grid the ends of its range; None: its values are choices. Raises UsageError."""
    found: dict[str, tuple[Any, Any] | None] = {}
    for name, values in plan.grid.items():
        numbers: list[Any] = [number_of(plan, name, value) for value in values]
        found[name] = None
        if len(values) == 2 and all(number is not None for number in numbers):
            low, high = numbers
            if low > high:
                raise UsageError(
                    f"--grid {name}={','.join(values)}: with --optuna two numbers are a range, the smaller one first"
                )
            found[name] = (low, high)
    if not any(found[name] or len(values) > 1 for name, values in plan.grid.items()):
        raise UsageError("--optuna has nothing to draw: give a --grid two numbers, which are a range, or several values")
    return found


def number_of(plan: Plan, name: str, value: str) -> int | float | None:
    """The value as the parser reads it, where it is a number."""
    read = plan.value_of(name, value)
    return read if isinstance(read, int | float) and not isinstance(read, bool) else None


def draw(trial: Any, plan: Plan, ranges: dict[str, tuple[Any, Any] | None]) -> Setting:
    """A setting; of a trial that has been begun the one that it had."""
    values: dict[str, str] = {}
    for name, choices in plan.grid.items():
        if (ends := ranges[name]) is None:
            values[name] = trial.suggest_categorical(name, list(choices))
            continue
        low, high = ends
        is_log = low > 0 and ("rate" in name or high / low >= LOG_RANGE)
        if isinstance(low, int) and isinstance(high, int):
            values[name] = str(trial.suggest_int(name, low, high, log=is_log))
        else:
            values[name] = f"{trial.suggest_float(name, float(low), float(high), log=is_log):.6g}"
    return Setting(values)


def study_in(directory: Path, figure: Figure) -> Any:
    """The study, with the trials that were made before."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    mend(directory)
    storage = JournalStorage(JournalFileBackend(str(directory / TRIALS)))
    direction = "minimize" if figure.lower_is_better else "maximize"
    return optuna.create_study(storage=storage, study_name="sweep", direction=direction, load_if_exists=True)


def mend(directory: Path) -> None:
    """What a killed sweep has left of trials.jsonl: a lock that nobody holds, since the directory is ours, and half a line."""
    for lock in directory.glob(f"{TRIALS}.lock*"):
        lock.unlink()
    path = directory / TRIALS
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        with atomic.replacing(path, binary=True) as stream:
            stream.write(content[: content.rfind(b"\n") + 1])


def run_trials(
    plan: Plan, figure: Figure, number: int, candidates: list[Candidate], run: Callable[[Sequence[Candidate]], None]
) -> None:
    """Draw, run and tell, one after the other. ``run`` fills a candidate's runs, or drops it."""
    ranges = ranges_of(plan)
    for trial, study in trials(plan, figure, number):
        each = Candidate(draw(trial, plan, ranges))
        same = next((other for other in candidates if other.setting == each.setting), None)
        if same is None:
            plan.parsed(each.setting, f"--optuna, {each.setting.name}")
            candidates.append(each)
            run([each])
        kept = same or each
        if is_open(study, trial):
            tell(study, trial, kept)


def trials(plan: Plan, figure: Figure, number: int) -> Iterator[tuple[Any, Any]]:
    """Each trial, those of an earlier start first, as it was drawn. What is drawn is a function of --seed, the trial's number
    and the trials before it, so a sweep that goes on draws what it would have drawn."""
    import optuna

    study = study_in(plan.directory, figure)
    for at in range(number):
        study.sampler = optuna.samplers.TPESampler(seed=plan.base[0].seed + at, n_startup_trials=min(10, max(2, number // 3)))
        begun = study.trials
        yield (optuna.trial.Trial(study, begun[at]._trial_id) if at < len(begun) else study.ask()), study


def is_open(study: Any, trial: Any) -> bool:
    return not study.trials[trial.number].state.is_finished()


def tell(study: Any, trial: Any, candidate: Candidate) -> None:
    from optuna.trial import TrialState

    if candidate.dropped:
        study.tell(trial.number, state=TrialState.FAIL)
    else:
        study.tell(trial.number, candidate.mean)
