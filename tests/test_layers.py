"""The order of the modules, and what must never be imported: read from the source, not from what happens to run."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from pathlib import Path

import pytest

from tests.toys.layers import LAYERS
from tests.toys.pages import imports

ROOT = Path(__file__).parent.parent
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FORBIDDEN = {"accelerate", "trl", "lightning", "pytorch_lightning", "lightning_fabric"}
PRODUCT = sorted([*ROOT.glob("engine/**/*.py"), *ROOT.glob("tasks/**/*.py"), *ROOT.glob("plainloop/*.py"), ROOT / "run.py"])


def trainer_offences(source: str) -> list[str]:
    """Uses of Trainer and of the libraries that hide the loop."""
    tree = ast.parse(source)
    offences = [name for name in imports(tree) if name.split(".")[0] in FORBIDDEN or "trainer" in name.lower()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("Trainer", "TrainingArguments", "Seq2SeqTrainer"):
            offences.append(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            offences += [a.value for a in node.args if isinstance(a, ast.Constant) and str(a.value).split(".")[0] in FORBIDDEN]
    return offences


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_trainer_in_the_product(path):
    assert trainer_offences(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    ["from transformers import Trainer", "import accelerate", "from trl import SFTTrainer", "import transformers\ntransformers.Trainer",
     "import transformers.trainer as t", "def f():\n    import lightning.fabric", "importlib.import_module('accelerate')"],
)  # fmt: skip
def test_the_search_for_trainer_finds_it(source):
    assert trainer_offences(source)


def room(module: str) -> str:
    """``engine.data.batch`` -> ``data``, ``engine.loop`` -> ``loop``."""
    return module.split(".")[1]


def test_every_room_of_the_engine_has_its_place():
    rooms = {path.stem if path.suffix else path.name for path in (ROOT / "engine").iterdir() if path.suffix in ("", ".py")}
    assert rooms - {"__init__", "__pycache__"} == set(LEVEL)


def import_offences(module: str, source: str) -> list[str]:
    """Imports of a module of the engine that go to the right, or leave the engine."""
    found = []
    for imported in imports(ast.parse(source)):
        if imported.split(".")[0] in ("tasks", "bench", "run", "tests"):
            found.append(imported)
        elif imported.startswith("engine.") and (other := room(imported)) in LEVEL and other != room(module):
            found += [imported] if LEVEL[other] >= LEVEL[room(module)] else []
    return found


@pytest.mark.parametrize("path", sorted(ROOT.glob("engine/**/*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_to_the_left_only(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if path != ROOT / "engine/__init__.py":
        assert import_offences(module, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [("engine.data.plan", "from engine.task import Task"), ("engine.artifacts.card", "def f():\n    import engine.build"),
     ("engine.loop", "from tasks.text import TextTask"), ("engine.distributed.world", "from engine.data import batch"),
     ("engine.seed", "from engine import clock")],
)  # fmt: skip
def test_an_import_to_the_right_is_found(module, source):
    assert import_offences(module, source)


def words_of_tasks() -> dict[str, str]:
    """Regular expressions for what belongs to tasks and stands nowhere in the engine, by what it is; case does not count."""
    from tasks import TASKS, flags_of

    classes = [place.partition(":")[2] for _, place, _ in TASKS.values()]
    columns = {
        field.name for name in TASKS for field in dataclasses.fields(flags_of(name)[0]) if field.name.endswith("_column")
    }
    names = [*TASKS, *classes, *columns, "minilm", "mask_token", "1_pooling", "text-classification", "token-classification", "question-answering",
             "fill-mask", "text-generation", "sentence-similarity", "image-to-text", "sentiment", "captions?"]  # fmt: skip
    found = {name: rf"(?<![a-z]){name}(?![a-z])" for name in map(str.lower, names)}  # with _ before or behind it, too
    whole_words = {name: rf"\b{name}\b" for name in ("embeddings", "pooling")}  # transformers has max_position_embeddings
    return found | whole_words | {"[MASK]": r"\[mask\]"}


def task_offences(text: str) -> list[str]:
    """What of the tasks a text names: in code, in a string, or in a comment."""
    return [what for what, pattern in words_of_tasks().items() if re.search(pattern, text, flags=re.IGNORECASE)]


@pytest.mark.parametrize("path", sorted([*ROOT.glob("engine/**/*.py"), *ROOT.glob("engine/**/*.html")]),
                         ids=lambda p: str(p.relative_to(ROOT)))  # fmt: skip
def test_the_engine_names_no_task(path):
    """Neither by import nor by name: its default, its options, its output and its models are the task's, or stand in tasks/."""
    assert task_offences(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    ["named = task or 'classification'", "text_column: str | None = setting(None, 'column of the text')", "# as Yelp has it",
     "if task.pipeline_tag == 'text-classification':", "from x import packaged_minilm", "POOLING = '1_Pooling/config.json'",
     "flags.label_column", "the loss of a captioning model", "# all-MiniLM-L6-v2", "'--task clm'", "tokenizer.mask_token_id",
     "of the embeddings task", "class MaskedLM: ...", "a text with a [MASK]", "mean pooling over the tokens"],
)  # fmt: skip
def test_the_search_for_tasks_finds_them(text):
    assert task_offences(text)


def test_names_of_transformers_are_no_tasks():
    """The engine changes stock models in place, and has to call their parts by name."""
    code = "config.max_position_embeddings, model.get_output_embeddings(), config.classifier_pooling, SequenceClassifierOutputWithPast"
    assert task_offences(code) == []


def test_what_imports_what_outside_the_engine():
    """tasks know the engine, bench knows both, and tests know all; none the other way round."""
    for folder, others in (("tasks", ("bench", "tests", "run")), ("bench", ("tests",))):
        for path in ROOT.glob(f"{folder}/**/*.py"):
            found = {name for name in imports(ast.parse(path.read_text())) if name.split(".")[0] in others}
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


def sibling_offences(source: str) -> list[str]:
    """Test modules that a file of tests/ imports; programs that it starts are strings in it, and are searched, too."""
    found = {*imports(ast.parse(source)), *re.findall(r"(?m)^ *(?:from|import) +(tests\.[\w.]+)", source)}
    return sorted(name for name in found if re.search(r"(^|\.)test_\w+\.|^tests\..*\btest_\w+$", name))


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/**/*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_test_imports_another(path):
    """What several need stands in tests/toys or, as a fixture, in conftest.py: a test may change without breaking others."""
    assert sibling_offences(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    ["from tests.engine.test_resume import Killed", "def f():\n    from tests.engine import test_resume",
     "import tests.test_cli", "code = '''\nfrom tests.engine.test_parity import summed\n'''", "from .test_resume import Killed"],
)  # fmt: skip
def test_an_import_of_another_test_is_found(source):
    assert sibling_offences(source)


def test_tasks_use_the_task_side_of_the_engine_only():
    allowed = {
        "atomic",
        "checked",
        "task",
        "data",
        "model",
        "distributed",
        "finished",
        "findings",
        "commands",
        "settings",
        "console",
        "errors",
        "installed",
        "seed",
    }
    for path in ROOT.glob("tasks/**/*.py"):
        for imported in imports(ast.parse(path.read_text())):
            if imported.startswith("engine."):
                assert room(imported) in allowed, f"{path.relative_to(ROOT)} imports {imported}"


TABLES = {"tasks/samples/yelp.py"}  # word lists


def test_nothing_is_too_long_to_be_read():
    """No module above 400 lines, no function above 60, no class above 200 but a task's; tables of words are exempt."""
    found = []
    for path in [*PRODUCT, *ROOT.glob("bench/**/*.py")]:
        name, text = str(path.relative_to(ROOT)), path.read_text()
        if len(text.splitlines()) > 400 and name not in TABLES:
            found.append(f"{name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (lines := (node.end_lineno or 0) - node.lineno + 1) > 60:
                found.append(f"{name}: {node.name} has {lines} lines")
    assert not found


def test_a_task_is_a_short_module():
    """Its rows, its loss and its figures are seen at once; what it says of a text, samples and metrics lie beside it."""
    from tasks import TASKS

    files = {ROOT / f"{place.partition(':')[0].replace('.', '/')}.py" for _, place, _ in TASKS.values()}
    assert {str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > 150} == set()


def test_the_loop_stays_one_screen():
    assert len((ROOT / "engine/loop.py").read_text().splitlines()) <= 80
    assert len((ROOT / "run.py").read_text().splitlines()) <= 60
    assert len((ROOT / "engine/fit.py").read_text().splitlines()) <= 220
    run = next(n for n in ast.parse((ROOT / "engine/record/run.py").read_text()).body if getattr(n, "name", "") == "Run")
    assert (run.end_lineno or 0) - run.lineno < 200


def test_no_pickle_and_no_remote_code():
    """torch.load, torch.save, pickle and trust_remote_code=True stand nowhere in the product."""
    for path in PRODUCT:
        tree = ast.parse(path.read_text())
        assert not {n for n in imports(tree) if n.split(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal")}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr not in ("load", "save"), f"{path}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path


def test_help_needs_no_torch():
    """Nor does that of any command or task, nor a wrong flag, nor a file that is not there."""
    import subprocess

    code = """
import sys
import run
from tasks import COMMANDS, TASKS
assert run.main(["--print-completion", "bash"]) == 0
for argv in [[], *([name] for name in COMMANDS), *(["--task", name] for name in TASKS)]:
    try:
        run.main([*argv, "--help"])
    except SystemExit as end:
        assert end.code == 0, argv
    assert "torch" not in sys.modules, argv
assert run.main(["--task", "yelp", "--train-file", "no_such.csv"]) == 3
assert run.main(["--task", "clm", "--epochs", "0"]) == 2
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_tables_of_flags_are_those_of_the_tasks():
    from tasks import TASKS, find, flags_of

    for name in TASKS:
        assert flags_of(name) == (find(name).Options, find(name).defaults), name


def picture_offences(source: str) -> list[str]:
    """Every way to open a picture with Pillow, or to have another library open it."""
    tree = ast.parse(source)
    names = {f"PIL.Image.{name}" for name in ("open", "*")} | {"PIL.ImageFile", "PIL.EpsImagePlugin", "PIL.*"}
    found = sorted(imports(tree) & names)
    of_pillow = {"Image"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            of_pillow |= {alias.asname for alias in node.names if alias.asname and alias.name in ("Image", "PIL.Image", "PIL")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node.value).split(".")[-1] in of_pillow:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Name | ast.Attribute | ast.alias) and (
            ast.unparse(node).split(".")[-1] in ("load_image", "load_images", "imread", "read_image")
        ):
            found.append(ast.unparse(node))
    return found


def test_pictures_are_opened_in_one_place_and_of_known_formats_only():
    """For some formats Pillow starts another program with the file (Ghostscript)."""
    found = {
        str(path.relative_to(ROOT)): picture_offences(path.read_text()) for path in (*PRODUCT, *ROOT.glob("bench/**/*.py"))
    }
    assert {name: offences for name, offences in found.items() if offences} == {"tasks/captioning/pictures.py": ["Image.open"]}
    assert "Image.open(BytesIO(content), formats=FORMATS)" in (ROOT / "tasks/captioning/pictures.py").read_text()


@pytest.mark.parametrize(
    "source",
    ["from PIL import Image\nImage.open(x)", "import PIL\nPIL.Image.open(x)", "import PIL.Image as P\nP.open(x)",
     "from PIL.Image import open", "from PIL import Image as P\nread = P.open", "from transformers.image_utils import load_image"],
)  # fmt: skip
def test_the_search_for_what_opens_pictures_finds_it(source):
    assert picture_offences(source)


def test_what_is_printed_goes_through_the_console():
    """There, and in the parser's own help, alone: a value from a file could drive the terminal else."""
    found = set()
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write"):
                found.add(str(path.relative_to(ROOT)))
    assert found == {"engine/console.py", "engine/settings/parser.py"}
