"""A wheel is built, put into an empty environment as pip would, and used in a folder beside names as plain as ours."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from engine import installed
from engine.errors import is_own_code
from tests.toys.cli import command

ROOT = Path(__file__).parent.parent
BUILD = "import sys, hatchling.build as build; print(build.build_wheel(sys.argv[1])); build.build_editable(sys.argv[1] + '/editable')"
MINE = "raise AssertionError('a file of the project, which Plainloop must not take for its own')\n"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def python(wheel, tmp_path_factory):
    """Of an environment with the wheel; what it stands on is this environment's, behind it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    [site] = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "zz-others.pth").write_text("\n".join(others))
    script = folder / "bin/plainloop"  # what pip makes of the entry point
    script.write_text(f"#!{folder}/bin/python\nimport sys\nfrom plainloop.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return folder / "bin/python"


def run_in(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(words, cwd=folder, env=clean | environment, capture_output=True, text=True, check=False, timeout=200)


@pytest.fixture
def own(tmp_path):
    """A project with an ``engine.py`` and folders ``tasks`` and ``bench`` of its own."""
    for name in ("engine.py", "run.py", "tasks/__init__.py", "bench/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(MINE)
    return tmp_path


def test_what_the_wheel_holds(wheel):
    """One folder, one line of sys.path, the metadata; in the folder all that is needed of a checkout, and nothing else."""
    held = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in held} == {"plainloop", "plainloop.pth", "plainloop-0.1.0.dist-info"}
    assert zipfile.ZipFile(wheel).read("plainloop.pth") == b"plainloop\n"
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True).stdout
    if not tracked:
        pytest.skip("this is no clone")
    folders = {
        name for name in tracked.splitlines() if name.split("/")[0] in ("engine", "tasks", "bench") and (ROOT / name).exists()
    }
    of_results = {name for name in folders if name.startswith("bench/results/")} - {"bench/results/parity-imdb.json"}
    package = {"__init__.py", "__main__.py", "run.py", "pyproject.toml"}
    inside = {name.removeprefix("plainloop/") for name in held if name.startswith("plainloop/")}
    assert inside == (folders - of_results) | package
    assert {Path(name).suffix for name in inside} >= {".html", ".css", ".js"}


def test_an_editable_install_is_the_checkout(wheel):
    with zipfile.ZipFile(next((wheel.parent / "editable").glob("*.whl"))) as archive:
        [line] = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert line.endswith(".pth") and archive.read(line).decode().strip() == str(ROOT)


def test_in_a_folder_with_such_names(python, own, project):
    """Started there and with it on PYTHONPATH: trains, says what to type; a mistake stays one line."""
    plainloop = str(python.parent / "plainloop")
    around = {"PYTHONPATH": str(own)}
    trained = run_in(own, plainloop, *command(project, "--max-steps", "2", "--output-dir", "mine"), **around)
    assert trained.returncode == 0, trained.stderr
    assert "```bash\nplainloop --task classification" in (own / "mine/README.md").read_text()
    found = run_in(own, str(python), "-m", "plainloop", "report", "--help", **around)
    assert found.returncode == 0 and found.stdout.startswith("usage: python -m plainloop report "), found.stderr
    wrong = run_in(own, plainloop, "predict", **around)
    assert (wrong.returncode, wrong.stderr) == (2, 'error: name a model: plainloop predict runs/mine "a text"\n')
    told = run_in(own, plainloop, "--help", **around)
    assert told.stdout.startswith("usage: plainloop --task TASK [flags]") and "run.py" not in told.stdout
    assert "run.py" not in run_in(own, plainloop, "--task", "yelp", "--help", **around).stdout


PYTHON_API = """
import sys
{first}
from plainloop import SourceConfig, TrainConfig, find  # none of which imports torch
import engine, tasks, bench
assert TrainConfig().epochs == 3 and find.__module__ == "tasks"
assert all(module.__file__.startswith({site!r}) for module in (engine, tasks, bench)), engine.__file__
"""


def test_the_python_api_says_what_shadows_it(python, own, tmp_path_factory):
    site = str(next(python.parent.parent.glob("lib/python*/site-packages"))) + "/plainloop"
    empty = tmp_path_factory.mktemp("empty")
    assert run_in(empty, str(python), "-c", PYTHON_API.format(first="", site=site)).stderr == ""
    refused = run_in(own, str(python), "-c", "from plainloop import TrainConfig")
    place = str(own / "engine.py")
    way_in = f"sys.path.insert(0, {site!r})"
    last = refused.stderr.splitlines()[-1]
    assert last == (
        f"ImportError: Plainloop's own engine is not found: {place} comes before it on sys.path. Rename that, or say {way_in} "
        "before anything imports engine; the command plainloop works beside it"
    )
    assert run_in(own, str(python), "-c", PYTHON_API.format(first=way_in, site=site)).stderr == ""
    (own / "engine.py").write_text("")
    refused = run_in(own, str(python), "-c", "import engine\nimport plainloop\nplainloop.TrainConfig")
    assert f"{place} was imported before it" in refused.stderr.splitlines()[-1]
    (own / "engine.py").unlink()
    refused = run_in(own, str(python), "-c", "from plainloop import find")
    assert f"Plainloop's own tasks is not found: {own / 'tasks/__init__.py'} comes before it" in refused.stderr.splitlines()[-1]


def test_what_it_says_of_itself(python, tmp_path):
    """Installed, there are no constraints and no commit: none is named. ``bench`` writes here, and not among the packages."""
    found = run_in(tmp_path, str(python), "-c", """
import bench.machine, engine.installed as i
from engine.commands.environment import commit, packages
print(i.program(), "|", i.under_torchrun(), "|", i.install("lora", "serve"), "|", commit(), "|", bench.machine.RESULTS)
assert dict(packages())["peft"]
""")  # fmt: skip
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = " ".join(f"'{package}'" for package in extras["lora"] + extras["serve"])
    expected = f"plainloop | -m plainloop | pip install {packages} | , installed as a package | {tmp_path / 'bench-results'}\n"
    assert (found.stdout, found.stderr) == (expected, "")
    refused = run_in(tmp_path, str(python), "-m", "bench", "page")
    assert refused.returncode == 2 and "is written in a checkout of Plainloop" in refused.stderr


@pytest.mark.parametrize(
    ("started", "program", "of_torchrun"),
    [("run.py", "python run.py", "run.py"), ("/usr/bin/plainloop", "plainloop", "-m plainloop"),
     ("C:/x/plainloop.exe", "plainloop", "-m plainloop"), ("/x/plainloop/__main__.py", "python -m plainloop", "-m plainloop"),
     ("my_script.py", "python run.py", "run.py"), ("/x/bench/__main__.py", "python run.py", "run.py")],
)  # fmt: skip
def test_how_it_was_started(monkeypatch, started, program, of_torchrun):
    monkeypatch.setattr(sys, "argv", [started])
    assert (installed.program(), installed.under_torchrun()) == (program, of_torchrun)


def test_neither_the_package_nor_the_command_is_code_of_the_user():
    """Else what a model's files make a library raise would be a traceback where it is started as ``plainloop``."""
    for path in (ROOT / "plainloop/__main__.py", "/home/x/.local/bin/plainloop", "C:/x/plainloop.exe", ROOT / "run.py"):
        assert not is_own_code(str(path)), path
    assert is_own_code("/home/x/plainloop.py") and is_own_code(str(ROOT / "my_task.py"))


@pytest.mark.slow
def test_the_commands_of_the_readme_in_an_empty_folder(python, tmp_path):
    """As they stand in the README, with ``plainloop`` for ``python run.py``: those that need no data of one's own."""
    commands = [
        "plainloop --task yelp --max-train-examples 32 --max-eval-examples 16 --epochs 1 --max-length 32",
        'plainloop predict --model runs/yelp "Great tacos, slow service."', "plainloop evaluate --model runs/yelp",
        "plainloop report runs/yelp", "plainloop export runs/yelp --output yelp-onnx --max-eval-examples 8",
        "plainloop --config runs/yelp/run.json --output-dir runs/again --explain", "plainloop lesson accumulation", "plainloop env",
        "plainloop search --model auto --corpus texts.txt 'a film about trains'",
        "python -m bench steps --task yelp --max-train-examples 64 --steps 2 --warmup 1 --max-length 32",
        "torchrun --nproc-per-node 2 -m plainloop --task yelp --max-train-examples 32 --max-eval-examples 16 --epochs 1 "
        "--max-length 32 --output-dir runs/two",
    ]  # fmt: skip
    (tmp_path / "texts.txt").write_text("a train\na cat\n")
    path = f"{python.parent}:{os.environ['PATH']}"
    for line in commands:
        done = run_in(tmp_path, "bash", "-c", line.replace("torchrun", "python -m torch.distributed.run"), PATH=path)
        assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "texts.txt", "yelp-onnx"}
