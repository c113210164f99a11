"""The parser: argv and ``--config FILE`` into dataclasses. Every field is a flag; its type is the check, its metadata the help.

Precedence: default < the task's defaults < ``--config FILE`` < command line. No torch in here.

The parser is transformers' HfArgumentParser. jsonargparse 4.53, tyro 1.0.17 and cyclopts 5.5.2 were tried against the table
of bad inputs, and each loses something: jsonargparse takes the last of a flag given twice and an abbreviation, and no bare
``--resume``; tyro takes the last, too, and reads ``--resume=no`` as true; cyclopts takes ``--batch-size 1.5`` for 2. None has
one-line errors, and none would take the place of more than 60 of the lines below. Next: config_file.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import tomllib
from argparse import ArgumentParser, HelpFormatter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, NoReturn

from engine import VERSION
from engine.checked import TwiceError, each_once, parse_json
from engine.console import is_main_process, note
from engine.errors import UsageError
from engine.installed import program as started_by
from engine.settings.completion import completion
from engine.settings.config_file import SettingsFile, from_yaml, is_run, kind_of, save_settings, usable
from engine.settings.fields import Traits, address_in, in_order, settings_where, traits_of, user_path
from engine.settings.hints import hint

TRUTHS = ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0")
SHORT = {"--lr": "--learning-rate", "--bs": "--batch-size"}  # as people call them


def parse(
    argv: Sequence[str], program: str, kinds: Sequence[type], defaults: Mapping[str, Any], rest: str | None = None
) -> list[Any]:
    """Fill one instance of each dataclass in ``kinds`` from ``--config FILE`` and flags.

    Returns them in order, and last the list of bare arguments if ``rest`` names them. Raises UsageError for an unknown
    flag (with the nearest known one), a flag given twice, a value of the wrong type, or a config file that cannot be read.
    With ``--save-config FILE`` the settings are written and nothing else is done: raises SystemExit(0), as ``--help`` does.
    """
    parser = make_parser(program, kinds)
    parser.add_argument(
        "--config", metavar="FILE", help="settings as TOML, JSON or YAML, or a run's own run.json; flags win over the file"
    )
    parser.add_argument(
        "--save-config", metavar="FILE", help="write these settings as TOML, JSON or YAML for --config, and end"
    )
    if rest:
        parser.add_argument(rest, nargs="*", help="given after the flags, or before them")
    argv = gathered(argv, settings_where(lambda traits: traits.several, *kinds))
    refuse_duplicates(argv)
    if rest:
        argv = with_values(argv, {field.name for kind in kinds for field in dataclasses.fields(kind) if field.default is False})
    known = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    parser.set_defaults(**{name: value for name, value in defaults.items() if name in known})
    config, _ = parser.parse_known_args(argv)
    if config.config is not None:
        values = values_of_file(Path(config.config), kinds, argv)
        parser.set_defaults(**{name: value for name, value in values.items() if isinstance(value, list)})
        argv = [*flags_of_file(values), *argv]
    namespace, unknown = parser.parse_known_args(argv)
    if rest and not any(argument.startswith("-") for argument in unknown):  # bare ones behind the flags, after some before them
        setattr(namespace, rest, [*getattr(namespace, rest), *unknown])
        unknown = []
    for flag in unknown:
        raise unknown_flag(flag, known, is_training=for_training(kinds))
    for name in known:
        value = getattr(namespace, name)
        if isinstance(value, str) and name in given_names(argv) and (not value or "\0" in value):
            raise UsageError(f"--{name.replace('_', '-')} must not be {'empty' if not value else 'text with a NUL in it'}")
    filled = [kind(**{f.name: getattr(namespace, f.name) for f in dataclasses.fields(kind)}) for kind in kinds]
    if namespace.save_config is not None:
        if is_main_process():
            save_settings(user_path(namespace.save_config), filled)
            print(f"settings written to {namespace.save_config}, nothing else was done: --config takes them")
        raise SystemExit(0)
    return [*filled, getattr(namespace, rest)] if rest else filled


def parse_command(argv: Sequence[str], program: str, kind: type) -> tuple[Any, list[str]]:
    """The settings of a command, and its bare arguments; of a command that takes a training's flags, too
    (``beside_training``), all other arguments as they are. Raises UsageError."""
    if not getattr(kind, "beside_training", False):
        config, texts = parse(argv, program, [kind], {}, rest="texts")
        return config, texts
    if "--help" in argv or "-h" in argv:
        print(f"{program} takes the flags of a training ({started_by()} --task TASK --help), and these:\n")
        print(make_parser(program, [kind]).format_help(), end="")
        raise SystemExit(0)
    fields = dataclasses.fields(kind)
    own, others = apart(argv, {field.name for field in fields}, {field.name for field in fields if field.default is False})
    return parse(own, program, [kind], {})[0], others


def apart(argv: Sequence[str], names: Collection[str], bare: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """The flags of these settings with their values, and all other arguments, each in their order. ``bare``: truths."""
    own, others, rest = list[str](), list[str](), list(argv)
    while rest:
        argument = rest.pop(0)
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if not argument.startswith("--") or name not in names:
            others.append(argument)
            continue
        own.append(argument)
        has_value = "=" not in argument and rest and not rest[0].startswith("--")
        if has_value and (name not in bare or rest[0].lower() in TRUTHS):
            own.append(rest.pop(0))
    return own, others


def for_training(kinds: Sequence[type]) -> bool:
    """Are these the settings of a training, and not of a command that uses a finished model?"""
    return any(field.name == "max_steps" for kind in kinds for field in dataclasses.fields(kind))


def unknown_flag(flag: str, known: Sequence[str], *, is_training: bool) -> UsageError:
    """The error, with the way on: what Trainer's flag of that name is called here, the nearest flag, or the help."""
    given, flags = flag.partition("=")[0], [f"--{name.replace('_', '-')}" for name in known]
    if is_training and (here := hint(given)):
        return UsageError(f"unknown argument {flag!r}, of Trainer's; here: {here}")
    near = [full for short, full in SHORT.items() if short == given and full in flags]
    near += difflib.get_close_matches(given, flags, n=1)
    return UsageError(f"unknown argument {flag!r}" + (f" (did you mean {near[0]}?)" if near else "; see --help"))


def with_values(argv: Sequence[str], truths: set[str]) -> list[str]:
    """``--debug "some text"`` becomes ``--debug=true "some text"``: a truth given bare takes no text for its value."""
    end = argv.index("--") if "--" in argv else len(argv)  # behind it, all are texts
    settled = [
        f"{argument}=true" if argument[2:].replace("-", "_") in truths and following.lower() not in TRUTHS else argument
        for argument, following in pairwise([*argv[:end], ""])
    ]
    return [*settled, *argv[end:]]


def given_names(argv: Iterable[str]) -> set[str]:
    """Settings that stand on the command line."""
    return {argument.split("=")[0].removeprefix("--").replace("-", "_") for argument in argv if argument.startswith("--")}


def task_named(argv: Sequence[str]) -> str | None:
    """The task, read ahead of all other settings: from the command line, else from the --config file."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--task")
    parser.add_argument("--config")
    try:
        found, _ = parser.parse_known_args(argv)
    except (argparse.ArgumentError, SystemExit) as error:
        raise UsageError(str(error).removeprefix("argument ")) from error
    if found.task is None and found.config is not None:
        return read_settings(Path(found.config)).task
    return found.task  # type: ignore[no-any-return]


def make_parser(program: str, kinds: Sequence[type]) -> ArgumentParser:
    """transformers' own parser, with our form of errors and one spelling of each flag in the help.

    ``program``: ``run.py`` and what follows it; shown as it was started.
    """
    from transformers.hf_argparser import HfArgumentParser

    program = program.replace("run.py", started_by(), 1)

    class Parser(HfArgumentParser):  # type: ignore[misc,no-any-unimported]
        def error(self, message: str) -> NoReturn:
            raise UsageError(message.removeprefix("argument "))

        def add_argument(self, *names: Any, traits: Traits | None = None, **more: Any) -> Any:
            """A field's metadata come here; its traits are none of argparse's."""
            return super().add_argument(*names, **more)

    parser: ArgumentParser = Parser(kinds, prog=program, allow_abbrev=False, formatter_class=Help)
    for action in parser._actions:  # the parser registers --max_steps beside --max-steps: both work, one is shown
        action.option_strings = [flag for flag in action.option_strings if "_" not in flag]
        if action.dest == "keep_checkpoints":
            action.type = number_or_word
    order = [field.name for kind in kinds for field in in_order(kind)]
    for actions in (parser._actions, parser._optionals._group_actions):  # the usage, and the list below it; --help is first
        actions.sort(key=lambda action: order.index(action.dest) if action.dest in order else -1)
    if len(kinds) > 1:  # of a training there are a hundred
        parser.usage = f"{program} [flags]"
        under_headings(parser, kinds)
    return parser


def under_headings(parser: ArgumentParser, kinds: Sequence[type]) -> None:
    """The list of the help in parts, the last of the dataclasses first: a task's own flags, data and model, training."""
    actions = {action.dest: action for action in parser._optionals._group_actions}
    for kind in reversed(kinds):
        group = parser.add_argument_group("this task")
        for field in in_order(kind):
            if (title := traits_of(field).heading) is not None:
                group = parser.add_argument_group(title)
            group._group_actions.append(actions[field.name])
            parser._optionals._group_actions.remove(actions[field.name])


def number_or_word(text: str) -> int | str:
    """A value of ``int | str``, of which transformers' parser would keep the first type only."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text


class Help(HelpFormatter):
    """Help with the default behind each line, except where there is none to show."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(get_terminal_size().columns, 110))

    def _get_help_string(self, action: Any) -> str:
        text = (action.help or "").replace("%", "%%")
        return text if action.default in (None, False, "==SUPPRESS==") else f"{text} (default: {action.default})"


def gathered(argv: Sequence[str], several: Collection[str]) -> list[str]:
    """``--train-file a --train-file b`` becomes ``--train-file=a,b`` for settings that may be given more than once."""
    found: dict[str, list[str]] = {}
    others, rest = [], list(argv)
    while rest and rest[0] != "--":
        argument = rest.pop(0)
        flag, has_value, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not argument.startswith("--") or name not in several or not (has_value or (rest and not rest[0].startswith("--"))):
            others.append(argument)
            continue
        found.setdefault(name, []).append(value if has_value else rest.pop(0))
    return [*(f"--{name.replace('_', '-')}={','.join(values)}" for name, values in found.items()), *others, *rest]


def refuse_duplicates(argv: Iterable[str]) -> None:
    """A flag given twice is a mistake: argparse would silently take the last."""
    seen = set()
    for argument in argv:
        if argument == "--":
            return
        flag = argument.split("=")[0].replace("_", "-")
        if argument.startswith("--") and flag in seen:
            raise UsageError(f"{flag} is given twice: leave one of them out")
        seen.add(flag)


def read_settings(path: Path) -> SettingsFile:
    """The file that ``--config`` names: TOML, JSON, YAML, or a run.json. Raises UsageError with line and column."""
    kind = kind_of(path)
    if path.exists() and not path.is_file():
        raise UsageError(f"--config {path} cannot be read: it is not a file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} cannot be read: {error}") from error
    try:
        values = DECODERS[kind](text)
    except TwiceError as error:
        raise SettingsFile(path, text, {}).error(str(error), error.name, nth=2) from error
    except (ValueError, RecursionError) as error:  # the decoders name line and column
        raise UsageError(f"--config {path} is not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} must hold settings by name, found {type(values).__name__}")
    if kind == "JSON" and is_run(values):
        return SettingsFile(path, text, values["settings"], is_run=True)
    try:
        return SettingsFile(path, text, each_once([(name.replace("-", "_"), value) for name, value in values.items()]))
    except TwiceError as error:
        raise SettingsFile(path, text, {}).error(str(error), error.name, nth=2) from error


DECODERS: dict[str, Callable[[str], Any]] = {
    "TOML": tomllib.loads,
    "JSON": lambda text: parse_json(text, constants=True, halves=True, pairs=each_once),
    "YAML": from_yaml,
}


def values_of_file(path: Path, kinds: Sequence[type], argv: Sequence[str]) -> dict[str, Any]:
    """The settings of a file that are set, each of a kind that a flag can have; those of a run.json without the local ones.

    Raises UsageError, for an unknown one with the nearest known name.
    """
    file, fields = read_settings(path), {field.name: str(field.type) for kind in kinds for field in dataclasses.fields(kind)}
    values = file.values
    if file.is_run:
        if not for_training(kinds):
            raise file.error("it holds the settings of a training, for --task; this command takes the run as --model")
        if "task" not in given_names(argv):
            file.task  # noqa: B018 - raises for a task whose code it would bring along
        for name, value in values.items():
            if name not in given_names(argv) and isinstance(value, str) and address_in(value):
                flag = f"--{name.replace('_', '-')} {value}"
                raise file.error(
                    f"it names an address, and anybody may have written that: none is asked for unless you say {flag}"
                )
        values, left_out = usable(file, fields, settings_where(lambda traits: traits.local, *kinds))
        if left_out:
            note(left_out)
    for name, value in values.items():
        if name not in fields:
            if for_training(kinds) and (here := hint(name)):
                raise file.error(f"unknown setting {name!r}, of Trainer's; here: {here}", name)
            near = difflib.get_close_matches(name, fields, n=1)
            raise file.error(f"unknown setting {name!r}" + (f" (did you mean {near[0]}?)" if near else ""), name)
        is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if is_list and name in settings_where(lambda traits: traits.several, *kinds):
            values[name] = ",".join(value)
        elif not isinstance(value, str | int | float | None) and not (is_list and fields[name].startswith("list")):
            raise file.error(f"{name} must be one text, number or truth, found {value!r}", name)
    return {name: value for name, value in values.items() if value is not None}


def flags_of_file(values: Mapping[str, Any]) -> list[str]:
    """A file's settings as command-line arguments, so that they pass the same checks; lists are no single argument."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if not isinstance(value, list)]


Listing = Mapping[str, tuple[str, str, str]]  # name: (two places in the code, one line about it)


def unknown_command(name: str, tasks: Iterable[str], commands: Iterable[str]) -> UsageError:
    """The error, with the way on: a task's name, a slip, or the list."""
    if name in tasks:
        return UsageError(f"unknown command {name!r}: it is a task, train it with --task {name}")
    near = difflib.get_close_matches(name, commands, n=1)
    what = f" (did you mean {near[0]}?)" if near else f"; there are: {', '.join(commands)}. To train: --task NAME"
    return UsageError(f"unknown command {name!r}{what}")


def show_help(argv: Sequence[str], kinds: Sequence[type], tasks: Listing, commands: Listing) -> None:
    """What ``run.py`` prints without a task: with --help all general flags, else the way on. Raises UsageError."""
    if "--version" in argv:
        return print(f"Plainloop {VERSION}, torch {version('torch')}, transformers {version('transformers')}")
    if any(word.split("=")[0] == "--print-completion" for word in argv):
        shell = " ".join(argv).partition("--print-completion")[2].strip(" =")
        return print(completion(shell, kinds, tasks, commands), end="")
    listing, others = ("\n".join(f"  {name:<16} {text}" for name, (_, _, text) in some.items()) for some in (tasks, commands))
    if "--help" not in argv and "-h" not in argv:
        slip = next((a for a in argv if a.startswith("--") and difflib.get_close_matches(a.split("=")[0], ["--task"])), None)
        if slip:
            raise UsageError(f"unknown argument {slip!r} (did you mean --task?)")
        raise UsageError(f"--task says what to learn; there are: {', '.join(tasks)} ({started_by()} --help)")
    program = started_by()
    ways = {
        "--task TASK [flags]": "fine-tune, evaluate, save",
        "COMMAND [flags] ...": "use what was trained, learn, compare",
        "--version": "of Plainloop, torch and transformers",
        "--print-completion SHELL": "a script for the tab key of bash, zsh or fish",
    }
    usage = "\n       ".join(f"{program} {way:<26} {what}" for way, what in ways.items())
    print(
        f"usage: {usage}\n\n"
        f"commands (each has flags of its own: {program} COMMAND --help):\n{others}\n\n"
        f"tasks (each has flags of its own: {program} --task TASK --help):\n{listing}\n"
        "  FILE.py:CLASS    a task of your own\n"
    )
    print(make_parser("run.py", kinds).format_help().partition("\n\n")[2], end="")
