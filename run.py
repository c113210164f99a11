"""Fine-tune a model, or use one: python run.py --task yelp. What happens stands in engine/; start with engine/loop.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.commands.flags import refuse_missing_files
from engine.config import TrainConfig
from engine.console import complain, prepared_output, quiet_libraries
from engine.data.sources import Source, SourceConfig, refuse_missing
from engine.errors import explain
from engine.settings.parser import parse, parse_command, show_help, task_named
from tasks import COMMANDS, TASKS, attribute, command, find, flags_of


@prepared_output()
def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code. Errors that users can mend are one line."""
    try:
        name, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("train", argv)
        train(rest) if name == "train" else use(name, rest)
        sys.stdout.flush()  # what is still to be written may fail
    except BaseException as error:
        if (explained := explain(error)) is None or "--debug" in argv:
            raise
        complain(explained[0])
        return explained[1]
    return 0


def train(argv: Sequence[str]) -> None:
    if (name := task_named(argv)) is None:
        return show_help(argv, [TrainConfig, SourceConfig], TASKS, COMMANDS)
    flags, defaults = flags_of(name)
    config, source, options = parse(argv, f"run.py --task {name}", [TrainConfig, SourceConfig, flags], defaults)
    refuse_missing(source)  # before torch is imported, which takes seconds
    from engine.commands.predict import try_examples
    from engine.commands.push import check_login, push_run
    from engine.fit import fit

    quiet_libraries()
    check_login(config.push_to_hub)  # now, and not after hours
    task = find(name)(options, Source(source))
    result = fit(task, config)
    if not config.explain:
        push_run(result.directory, config.push_to_hub)
        try_examples(task, result.directory, find, config.device, name)


def use(name: str, argv: Sequence[str]) -> None:
    flags, function = command(name)
    config, texts = parse_command(argv, f"run.py {name}", flags)
    refuse_missing_files(config, texts)
    quiet_libraries()
    attribute(function)(config, texts, find)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
