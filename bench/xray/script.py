"""TrainingArguments out of a file: a Python script, which is read by ``ast`` and never run or imported, or a JSON file.

What is a literal in the call is known, and so is a name that the whole file binds once, to a literal, and arithmetic of
such. Everything else is ``Unknown``, with its text: a value that is guessed would be a silent wrong answer. Next:
arguments.py, which adds the defaults.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.checked import parse_json
from engine.errors import DataError, UsageError

LARGEST = 2_000_000  # bytes of a file that is read
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
SEEDING = ("set_seed", "manual_seed", "seed_everything", "enable_full_determinism")  # functions that the world calls for it
MODEL_CLASS = re.compile(r"AutoModelFor\w+|[A-Z]\w*(For[A-Z]\w+|LMHeadModel|EncoderDecoderModel)")


@dataclass(frozen=True)
class Unknown:
    """A value that the file alone does not tell. ``text``: how it is written there; ``why``: where it comes from."""

    text: str
    why: str

    def __str__(self) -> str:
        return f"{self.text} ({self.why})"


@dataclass(frozen=True)
class Clues:
    """What else the script says of the run. None, or "": it does not say it, or says it in more than one way.

    ``model_class``, ``checkpoint``: of the one model that is made. ``half``: the dtype that is asked of it, if a half one.
    ``pads_to_max_length``: rows are padded to a fixed length, ``max_length`` where it is known. ``trainer``: the class that is
    called; ``own_loss``: it is one of the script's own, with a compute_loss; ``passed``: what it is called with. ``lora``: the
    settings of a LoraConfig, if one is made; ``quantised``: the weights are loaded in 4 or 8 bits; ``seeds``: the script seeds.
    """

    model_class: str = ""
    checkpoint: str = ""
    half: str = ""
    pads_to_max_length: bool = False
    max_length: int | None = None
    trainer: str = ""
    own_loss: str = ""
    passed: frozenset[str] = frozenset()
    lora: Mapping[str, Any] | None = None
    quantised: bool = False
    seeds: bool = False


@dataclass(frozen=True)
class Given:
    """One set of arguments. ``kind``: the class that is called; ``where``: for messages; ``notes``: what else to know."""

    kind: str
    where: str
    values: Mapping[str, Any]
    positional: Sequence[Any] = ()
    clues: Clues = field(default_factory=Clues)
    notes: tuple[str, ...] = ()


def read(path: Path, number: int | None, line: int | None) -> Given:
    """The arguments of a ``.py`` or ``.json`` file. Raises UsageError, DataError, each with a way on."""
    if path.suffix not in (".py", ".json"):
        raise UsageError(f"{path}: give a Python script (.py) or the arguments as JSON (.json)")
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes, and at most {LARGEST:,} are read: is it the script?")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    if path.suffix == ".json":
        if number is not None or line is not None:
            raise UsageError(f"--number and --line pick a call in a script, and {path} is JSON: leave them out")
        return of_json(path, text)
    return of_script(path, text, number, line)


def of_json(path: Path, text: str) -> Given:
    """A dictionary, as ``TrainingArguments.to_dict()`` gives it."""
    try:
        values = parse_json(text, constants=True)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(
            f'{path} must hold arguments by name, {{"learning_rate": 5e-5}}, as json.dump(args.to_dict()) writes them; '
            f"found {type(values).__name__}"
        )
    private = {name for name in values if name.startswith("_")}  # of the object itself, not of its fields
    return Given("TrainingArguments", str(path), {name: value for name, value in values.items() if name not in private})


def of_script(path: Path, text: str, number: int | None, line: int | None) -> Given:
    """The one call in the script, or the one that is picked."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        at = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        why = error.msg if isinstance(error, SyntaxError) else str(error)
        raise DataError(f"{path}{at}: this is no Python that can be read ({why})") from error
    script = Script(tree, text)
    calls = script.arguments()
    call = picked(path, calls, number, line)
    where = f"{path}, line {call.lineno}"
    if any(isinstance(value, ast.Starred) for value in call.args) or any(keyword.arg is None for keyword in call.keywords):
        raise UsageError(
            f"{where}: arguments are handed on with a star, so that the file does not say them: write them out, or give what "
            "json.dump(args.to_dict(), file) writes in the running script"
        )
    values = {str(keyword.arg): script.value(keyword.value) for keyword in call.keywords}
    changed, notes = script.changed_later(call)
    kind = script.called(call.func)
    positional = [script.value(value) for value in call.args]
    return Given(kind, where, values | changed, positional, script.clues(), notes)


def picked(path: Path, calls: Sequence[ast.Call], number: int | None, line: int | None) -> ast.Call:
    """The call that is meant. Raises UsageError."""
    if not calls:
        raise UsageError(
            f"{path}: no TrainingArguments(...) is called in it; if a parser fills them, give what "
            "json.dump(args.to_dict(), file) writes in the running script"
        )
    lines = ", ".join(str(call.lineno) for call in calls)
    if number is not None and line is not None:
        raise UsageError("--number and --line both pick a call: give one of them")
    if number is not None:
        if not 1 <= number <= len(calls):
            raise UsageError(f"--number must be between 1 and {len(calls)} here (lines {lines}), found {number}")
        return calls[number - 1]
    if line is not None:
        found = [call for call in calls if call.lineno <= line <= (call.end_lineno or call.lineno)]
        if not found:
            raise UsageError(f"--line {line}: no TrainingArguments(...) there; there are some at {lines}")
        return found[-1]
    if len(calls) > 1:
        raise UsageError(
            f"{path}: {len(calls)} TrainingArguments(...) are called, at lines {lines}: say which with --number 2 or "
            f"--line {calls[1].lineno}"
        )
    return calls[0]


class Script:
    """A parsed script: what its names are bound to, and what it calls."""

    def __init__(self, tree: ast.Module, text: str):
        self.tree, self.text = tree, text
        self.imported: dict[str, str] = {}  # a name here: module and name there
        self.bindings: dict[str, list[ast.expr | None]] = {}  # all that each name is bound to; None: to no expression
        self.targets: dict[str, int] = {}  # how often each name is stored to, in whatever way
        self.stars = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
        for node in ast.walk(tree):
            self._note(node)

    def _note(self, node: ast.AST) -> None:
        """What this node binds."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
            for alias in node.names:
                name = (alias.asname or alias.name).split(".")[0]
                self.imported[name] = module + (alias.name if alias.asname or module else name)
                self._bind(name, None)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self._bind(node.targets[0].id, node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            self._bind(node.target.id, node.value)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._bind(node.name, None)
        elif isinstance(node, ast.arg):
            self._bind(node.arg, None)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            for name in node.names:
                self._bind(name, None)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            self._bind(node.name, None)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            self._bind(node.rest, None)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            # the plain assignments above come by here, too: they are told apart by what they have been bound to already
            self._bind(node.id, None, is_target=True)

    def _bind(self, name: str, value: ast.expr | None, *, is_target: bool = False) -> None:
        found = self.bindings.setdefault(name, [])
        if not is_target:
            found.append(value)
        self.targets[name] = self.targets.get(name, 0) + is_target

    def literal(self, name: str) -> ast.expr | None:
        """The expression that the name is bound to, if the whole file binds it once, by a plain assignment."""
        found = [value for value in self.bindings.get(name, []) if value is not None]
        is_once = len(found) == len(self.bindings.get(name, [])) == self.targets.get(name) == 1
        return found[0] if is_once and found[0].lineno > max(self.stars, default=0) else None

    def value(self, node: ast.expr, following: frozenset[str] = frozenset()) -> Any:
        """What the expression is, or Unknown."""
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            pass
        if isinstance(node, ast.Name):
            bound = self.literal(node.id)
            if bound is None or node.id in following:
                return self.unknown(
                    node, "imported" if node.id in self.imported else "not bound once to a literal in this file"
                )
            found = self.value(bound, following | {node.id})
            return Unknown(node.id, found.why) if isinstance(found, Unknown) else found
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            left, right = (self.value(side, following) for side in (node.left, node.right))
            if all(isinstance(side, int | float) for side in (left, right)):
                try:
                    return ARITHMETIC[type(node.op)](left, right)
                except ArithmeticError:
                    pass
        return self.unknown(node, "computed when the script runs")

    def unknown(self, node: ast.AST, why: str) -> Unknown:
        text = " ".join((ast.get_source_segment(self.text, node) or ast.unparse(node)).split())
        return Unknown(text if len(text) <= 60 else f"{text[:57]}...", why)

    def called(self, function: ast.expr) -> str:
        """The name of a called class as its package has it: ``TA`` of ``import TrainingArguments as TA`` is undone."""
        if isinstance(function, ast.Name):
            return self.imported.get(function.id, function.id).rpartition(".")[2]
        return function.attr if isinstance(function, ast.Attribute) else ""

    def calls(self) -> list[ast.Call]:
        """All calls, in the order of their lines."""
        found = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        return sorted(found, key=lambda call: (call.lineno, call.col_offset))

    def arguments(self) -> list[ast.Call]:
        """The calls that make TrainingArguments, or a class that is known to be built on them."""
        return [call for call in self.calls() if self.is_arguments(call.func)]

    def is_arguments(self, function: ast.expr) -> bool:
        name = self.called(function)
        if name.endswith("TrainingArguments"):
            return True
        path = self.imported.get(function.id, "") if isinstance(function, ast.Name) else ""
        of_trl = path.startswith("trl.") or (isinstance(function, ast.Attribute) and ast.unparse(function).startswith("trl."))
        return of_trl and name.endswith("Config") and name not in ("ModelConfig", "ScriptConfig")

    def changed_later(self, call: ast.Call) -> tuple[dict[str, Unknown], tuple[str, ...]]:
        """Arguments that the script sets again behind the call (``args.seed = 1``), and what cannot be followed."""
        names = {
            node.targets[0].id for node in ast.walk(self.tree)
            if isinstance(node, ast.Assign) and node.value is call and isinstance(node.targets[0], ast.Name)
        }  # fmt: skip
        changed, notes = {}, []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
                if isinstance(node.ctx, ast.Store):
                    changed[node.attr] = Unknown(f"{node.value.id}.{node.attr} = ...", f"set again at line {node.lineno}")
                elif node.attr.startswith("set_"):
                    notes.append(f"line {node.lineno} changes the arguments with {node.attr}(), which is not followed")
            if isinstance(node, ast.Call) and self.called(node.func) == "setattr" and self.is_first(node, names):
                notes.append(f"line {node.lineno} changes the arguments with setattr(), which is not followed")
        return changed, tuple(sorted(notes))

    @staticmethod
    def is_first(call: ast.Call, names: set[str]) -> bool:
        """Is the first argument one of these names?"""
        return bool(call.args) and isinstance(call.args[0], ast.Name) and call.args[0].id in names

    # ------------------------------------------------------------------------------------------------- what else it says

    def clues(self) -> Clues:
        """What the rest of the script says of the run."""
        models = [call for call in self.calls() if self.model_of(call)]
        classes = {self.model_of(call) for call in models}
        checkpoints = {self.value(call.args[0]) for call in models if call.args and not isinstance(call.args[0], ast.Starred)}
        names = [name for name in checkpoints if isinstance(name, str)]
        pads = [call for call in self.calls() if self.keyword(call, "padding") == "max_length"]
        lengths = {self.keyword(call, "max_length") for call in pads}
        own = {node.name for node in self.trainers()}
        trainers = [
            call for call in self.calls() if self.called(call.func).endswith("Trainer") or self.called(call.func) in own
        ]
        kinds = {self.called(call.func) for call in trainers}
        return Clues(
            model_class=classes.pop() if len(classes) == 1 else "",
            checkpoint=names[0] if len(checkpoints) == len(names) == 1 else "",
            half=next((text for call in models if (text := self.half_of(call))), ""),
            pads_to_max_length=bool(pads),
            max_length=length if len(lengths) == 1 and isinstance(length := next(iter(lengths)), int) else None,
            trainer=kinds.pop() if len(kinds) == 1 else "",
            own_loss=self.own_loss(),
            passed=frozenset(
                keyword.arg for call in trainers for keyword in call.keywords
                if keyword.arg and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None)
            ),
            lora=self.lora(),
            seeds=any(self.called(call.func) in SEEDING for call in self.calls()),
            quantised=any(
                self.called(call.func) == "BitsAndBytesConfig" or self.keyword(call, f"load_in_{bits}bit") is True
                for call in self.calls() for bits in (4, 8)
            ),
        )  # fmt: skip

    def lora(self) -> dict[str, Any] | None:
        """The settings of the script's LoraConfig; None without one."""
        calls = [call for call in self.calls() if self.called(call.func) == "LoraConfig"]
        return {str(keyword.arg): self.value(keyword.value) for keyword in calls[0].keywords} if calls else None

    def model_of(self, call: ast.Call) -> str:
        """The class whose model this call makes: ``X(config)``, ``X.from_pretrained(...)``, ``X.from_config(...)``; or ""."""
        function = call.func
        if isinstance(function, ast.Attribute) and function.attr in ("from_pretrained", "from_config"):
            function = function.value
        name = self.called(function)
        return name if MODEL_CLASS.fullmatch(name) else ""

    def half_of(self, call: ast.Call) -> str:
        """The half-precision dtype that the model is asked for, as it is written; ""."""
        for keyword in call.keywords:
            if keyword.arg in ("dtype", "torch_dtype"):
                text = ast.unparse(keyword.value)
                if re.search(r"\b(b?float16|half)\b", text):
                    return text
        return ""

    def keyword(self, call: ast.Call, name: str) -> Any:
        """The value of one keyword of a call, hashable; None without it."""
        for keyword in call.keywords:
            if keyword.arg == name:
                found = self.value(keyword.value)
                return found if isinstance(found, str | int | float | bool | None | Unknown) else None
        return None

    def own_loss(self) -> str:
        """Where a Trainer of the script's own computes its loss; "" if none does."""
        for node in self.trainers():
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "compute_loss":
                    used = any(isinstance(n, ast.Name) and n.id == "num_items_in_batch" for n in ast.walk(part))
                    return f"{node.name}, line {part.lineno}" + (", which reads num_items_in_batch" if used else "")
        return ""

    def trainers(self) -> list[ast.ClassDef]:
        """The script's own classes of trainers."""
        classes = [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]
        return [node for node in classes if any(self.called(base).endswith("Trainer") for base in node.bases)]
