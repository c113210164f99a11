"""What torchrun itself does: starting, ending and restarting ranks; two nodes; and Trainer beside us on two ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import run
from bench.toys import tiny
from bench.toys.ranks import free_port
from tests.toys.ranks import in_ranks, lines

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent.parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
FAULTY = """
import os, signal
from tasks.classification.task import Classification

class Faulty(Classification):
    calls = 0

    def loss(self, outputs, batch):
        self.calls += 1
        if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and self.calls == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(outputs, batch)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A model, texts, and a task that kills rank 1 in its sixth step, once."""
    folder = tmp_path_factory.mktemp("data")
    tiny.save_model(folder / "model", tiny.distilbert().distilbert)
    tiny.save_texts(folder, train=60, eval=21)
    (folder / "faulty.py").write_text(FAULTY)
    return folder


def flags(data: Path, out: Path, **changes: object) -> list[str]:
    settings = {"train_file": data / "train.csv", "eval_file": data / "eval.csv", "model": data / "model", "batch_size": 8,
                "epochs": 2, "log_steps": 1, "save_steps": 2, "device": "cpu", "resume": True, "output_dir": out}  # fmt: skip
    return [f"--{name.replace('_', '-')}={value}" for name, value in (settings | changes).items()]


@pytest.mark.slow
def test_torchrun_restarts_and_the_run_goes_on_by_itself(data, tmp_path):
    """Rank 1 is killed in step 6: the other says so, both start again from step 4, and the end is the undisturbed one's."""
    faulty = ["--task", f"{data}/faulty.py:Faulty"]
    command = [*TORCHRUN, "--nproc-per-node", "2", "--max-restarts", "1", "--master-port", str(free_port()), "run.py", *faulty]
    ended = subprocess.run([*command, *flags(data, tmp_path / "run")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "resume: there is no checkpoint, starting at step 0" in ended.stdout
    assert "resume: exact, from step 4 of 16" in ended.stdout
    assert ended.stdout.count("step 16/16") == 1 and ended.stdout.count("saved to ") == 1, "rank 0 alone speaks"
    assert "error: rank 1 does not answer: it was killed, or it hangs. The last checkpoint stands" in ended.stderr
    assert "2 ranks on cpu" in ended.stdout and "8 examples (4 on each rank)" in ended.stdout

    def undisturbed(rank: int) -> int:
        os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
        return run.main([*faulty, *flags(data, tmp_path / "whole")])

    assert in_ranks(2, undisturbed) == [0, 0]
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    steps = [[(line["step"], line["loss"]) for line in lines(tmp_path / name)] for name in ("run", "whole")]
    assert steps[0] == steps[1]


def node(data: Path, out: Path, rank: int, port: int) -> subprocess.Popen[str]:
    """One of two torchrun agents, as if on a machine of its own."""
    command = [*TORCHRUN, "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1", "--master-addr", "127.0.0.1",
               "--master-port", str(port), "run.py", "--task", "classification", *flags(data, out, epochs=40)]  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(number) for number in listed.stdout.split()]


@pytest.mark.slow
def test_of_two_nodes_one_is_killed_and_both_come_back(data, tmp_path):
    out, port = tmp_path / "run", free_port()
    nodes = [node(data, out, rank, port) for rank in range(2)]
    until = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() or len(lines(out)) < 10:
        assert time.monotonic() < until and nodes[0].poll() is None, nodes[0].communicate()
        time.sleep(0.05)
    victims = [nodes[1].pid, *children(nodes[1].pid)]
    for process in victims:
        os.kill(process, signal.SIGKILL)
    _, said = nodes[0].communicate(timeout=120)
    nodes[1].communicate()
    assert nodes[0].returncode == 1
    assert "error: rank 1 does not answer" in said and "exitcode  : 7" in said
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    port = free_port()
    nodes = [node(data, out, rank, port) for rank in range(2)]
    outputs = [process.communicate(timeout=280) for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], outputs
    assert "resume: exact, from step " in outputs[0][0] and outputs[1][0] == ""
    assert [line["step"] for line in lines(out)] == list(range(1, 321))


TRAINER = """
import sys
from pathlib import Path
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments
from bench.toys import tiny
from tests.toys.parity import TrainerRows

def summed(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs.logits.float(), labels, reduction="sum") / num_items_in_batch

arguments = TrainingArguments(
    sys.argv[1], num_train_epochs=2, per_device_train_batch_size=4, use_cpu=True, gradient_accumulation_steps=2,
    learning_rate=2e-5, seed=7, weight_decay=0.01, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
)
model = tiny.bert(dropout=0.0)
trainer = Trainer(model, arguments, train_dataset=TrainerRows(tiny.token_rows(64)), processing_class=tiny.tokenizer(),
                  compute_loss_func=summed)
trainer.train()
trainer.save_model(sys.argv[1])
"""


@pytest.mark.slow
def test_two_ranks_equal_trainer_on_two_ranks(tmp_path):
    """64 rows, so that Trainer repeats none: dropout off, accumulation 2, a summed loss."""
    (tmp_path / "script.py").write_text(TRAINER)
    command = [*TORCHRUN, "--nproc-per-node", "2", "--master-port", str(free_port()), str(tmp_path / "script.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, str(tmp_path / "trainer")], cwd=ROOT, env=environment, check=True, capture_output=True)

    from engine.config import TrainConfig
    from engine.fit import fit

    config = TrainConfig(batch_size=8, accumulation_steps=2, epochs=2, seed=7, batching="padded", device="cpu", precision="fp32",
                         output_dir=str(tmp_path / "ours"))  # fmt: skip

    def ours(rank: int) -> None:
        fit(tiny.TokenTask(train=tiny.token_rows(64)), config, tiny.bert(dropout=0.0))

    assert in_ranks(2, ours) == [None, None]
    mine, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "trainer"))
    start = tiny.bert(dropout=0.0).state_dict()
    assert all(torch.allclose(mine[name], theirs[name], rtol=0, atol=1e-6) for name in theirs)
    assert any((mine[name] - start[name]).abs().max() > 1e-5 for name in theirs), "training must have changed something"


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_kills_of_one_rank_end_in_the_same_bits(shard):
    from bench.reliability.ranks import main

    assert main(["--kills", "6", *(["--shard"] if shard else [])]) == 0


# --------------------------------------------------------------------------------------------------------------- CUDA


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("more", [(), ("--shard",), ("--compile",), ("--shard", "--gradient-checkpointing")], ids=str)
def test_nccl_computes_what_one_process_does(precision, more, data, tmp_path):
    """One rank on each GPU there is, packed batches, no dropout: the same losses, and the same way, within what half
    precision rounds."""
    start = tiny.distilbert(dropout=0.0).distilbert
    settings = {"precision": precision, "batching": "packed", "learning_rate": 1e-3, "device": "cuda",
                "model": tiny.save_model(tmp_path / "model", start)}  # fmt: skip
    one, many = (["--task", "classification", *flags(data, tmp_path / name, **settings)] for name in ("one", "many"))
    size = torch.cuda.device_count()
    launch = [*TORCHRUN, "--nproc-per-node", str(size), "--master-port", str(free_port())]
    subprocess.run([sys.executable, "run.py", *one], cwd=ROOT, check=True)
    subprocess.run([*launch, "run.py", *many, *more], cwd=ROOT, check=True)
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("one", "many")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "many"))
    before = {f"distilbert.{name}": tensor for name, tensor in start.state_dict().items()}
    apart, moved = (torch.stack([(ours[name] - other[name]).norm() for name in before]).norm() for other in (theirs, before))
    assert apart < moved / 5


WRAPPED = """
import sys
from types import SimpleNamespace
import torch
from torch.nn.parallel import DistributedDataParallel
from engine.distributed import join
from engine.distributed import wrap
from engine.build import build
from engine.config import TrainConfig
from engine.loop import accumulate
from bench.toys import tiny

with join.join("cuda", 60) as world:
    task, found = tiny.TokenTask(train=tiny.token_rows(40)), []
    for wrapped in (False, True):
        config = TrainConfig(device="cuda", precision="fp32", batching="padded", compile="compile" in sys.argv)
        setup = build(task, task.train, config, tiny.bert(dropout=0.0), world)
        if wrapped:
            several = SimpleNamespace(size=2, device=world.device)  # of the one rank there is
            setup.state.replica = wrap.replicate(setup.state.model, several, find_unused_parameters=False)
            assert isinstance(setup.state.replica, DistributedDataParallel)
        setup.state.model.train()
        for _ in range(2):  # the second after DDP has made its buckets anew
            setup.state.optimizer.zero_grad()
            _, micro_batches = next(setup.data.steps())
            accumulate(setup.state, task, micro_batches, torch.tensor(16.0, device="cuda"))
        found.append([parameter.grad.clone() for parameter in setup.state.parameters])
    for plain, exchanged in zip(*found, strict=True):
        torch.testing.assert_close(exchanged, plain, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["eager", "compile"])
def test_ddp_over_nccl_exchanges_what_one_rank_has(way, tmp_path):
    """One GPU is enough: the gradients that went through NCCL are those that did not."""
    (tmp_path / "script.py").write_text(WRAPPED)
    command = [*TORCHRUN, "--nproc-per-node", "1", "--master-port", str(free_port()), str(tmp_path / "script.py"), way]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
