"""The order of the modules, and what must never be imported: read from the source, not from what happens to run."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"errors"},
    {"own", "hints", "checked"},
    {"settings_file"},
    {
        "flags",
        "config",
        "clock",
        "batch",
        "files",
        "hub",
        "dropout",
        "memory",
        "stop",
        "cache",
        "writers",
        "muon",
        "tensor_file",
    },
    {"document", "figures", "sources", "plan", "tokens", "attention", "lora"},
    {"precision", "parallel", "collate", "packing", "targets"},
    {"sharding", "store"},
    {"optimizer"},
    {"average"},
    {"task", "state", "batching", "flops"},
    {"data", "evaluate", "checkpoint", "memory_guard", "card"},
    {"saving"},
    {"record", "report"},
    {"loop", "profiling"},
    {"build", "directory"},
    {"explain"},
    {"fit"},
    {"compare", "share"},
    {"inference", "environment"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FORBIDDEN = {"accelerate", "trl", "lightning", "pytorch_lightning", "lightning_fabric"}
PRODUCT = sorted([*ROOT.glob("engine/*.py"), *ROOT.glob("tasks/*.py"), ROOT / "run.py"])


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported anywhere in a module, late imports too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


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


def test_every_engine_module_has_its_layer():
    assert {p.stem for p in ROOT.glob("engine/*.py")} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_go_down_only(name):
    for imported in imports(ast.parse((ROOT / "engine" / f"{name}.py").read_text())):
        assert not imported.startswith(("tasks", "bench", "run")), f"engine.{name} imports {imported}"
        if imported.startswith("engine."):
            other = imported.split(".")[1]
            other = imported.split(".")[2] if other not in LEVEL else other
            assert LEVEL[other] < LEVEL[name] or other == "config", f"engine.{name} imports engine.{other}"


def test_tasks_use_the_task_side_of_the_engine_only():
    allowed = {"inference", "task", "batch", "collate", "sources", "tokens", "files", "cache"}
    allowed |= {"config", "errors", "own", "parallel", "lora", "packing"}
    for path in ROOT.glob("tasks/*.py"):
        for imported in imports(ast.parse(path.read_text())):
            if imported.startswith("engine."):
                assert imported.split(".")[1] in allowed, f"{path.name} imports {imported}"


def test_the_loop_stays_one_screen():
    assert len((ROOT / "engine/loop.py").read_text().splitlines()) <= 80
    assert len((ROOT / "run.py").read_text().splitlines()) <= 60


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
    from tasks import OPTIONS, TASKS, find, flags_of

    assert OPTIONS.keys() == TASKS.keys()
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
    assert {name: offences for name, offences in found.items() if offences} == {"tasks/pictures.py": ["Image.open"]}
    assert "Image.open(BytesIO(content), formats=FORMATS)" in (ROOT / "tasks/pictures.py").read_text()


@pytest.mark.parametrize(
    "source",
    ["from PIL import Image\nImage.open(x)", "import PIL\nPIL.Image.open(x)", "import PIL.Image as P\nP.open(x)",
     "from PIL.Image import open", "from PIL import Image as P\nread = P.open", "from transformers.image_utils import load_image"],
)  # fmt: skip
def test_the_search_for_what_opens_pictures_finds_it(source):
    assert picture_offences(source)
