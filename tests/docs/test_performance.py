"""docs/performance.md: each figure that a file of bench/results holds is computed anew from it; the others are listed here."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from bench.quality import seeds

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "bench/results"
PAGE = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
FIGURE = re.compile(r"(?<![\w.])\d[\d,]*\.\d+|\d+%|\d[\d,]* (?:G|T)FLOP/s")


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


CPU, BF16, AMX, H100, H200 = (
    read(name)
    for name in (
        "bench-cpu.json",
        "bench-bf16.json",
        "bench-amx.json",
        "gpu-h100/bench-nvidia-h100-80gb-hbm3.json",
        "gpu-h200/contest-defaults.json",
    )
)
PROFILE, ATTENTION = read("profile-bf16.json"), read("attention-cpu.json")
PROFILE_AMX, ATTENTION_AMX = read("profile-amx.json"), read("attention-amx.json")


def row(rows: list[dict[str, Any]], run_id: str, system: str) -> dict[str, Any]:
    [found] = [row for row in rows if row["run_id"] == run_id and row["system"] == system]
    assert found["valid"], (run_id, system)
    return found


def useful(found: dict[str, Any]) -> float:
    """FLOPs for real tokens a second: the median of the windows, which the oldest rows do not have; then over all of them."""
    return found["rate"].get("tflops_median") or found["rate"]["tflops"]


def speed(found: dict[str, Any]) -> str:
    rate = found["rate"]
    return f"{rate['ex_s']:.2f} [{rate['ex_s_min']:.2f} - {rate['ex_s_max']:.2f}]"


# --------------------------------------------------------------------------------------------------------------- the tables


def levers(rows: list[dict[str, Any]], run_id: str, names: dict[str, str]) -> list[str]:
    """One lever at a time; the first row is what the others are compared with."""
    found = {label: row(rows, run_id, system) for label, system in names.items()}
    base = useful(next(iter(found.values())))
    return [f"| {label} | {speed(each)} | {useful(each) / base:.1f} |" for label, each in found.items()]


LEVERS = {
    "padded, fp32": "padded, fp32", "length buckets (other examples in each step)": "length buckets, fp32",
    "packed, attention of our own, `nn.Dropout` elsewhere": "packed, nn.Dropout, fp32", "packed, fast dropout everywhere": "packed, fp32",
}  # fmt: skip
OTHERS = [  # the run; then label, system, and behind what its ratio stands: {} is that of useful work beside the first Trainer
    ("20261121-084828-D", [("**defaults**: Plainloop", "Plainloop", "{} x Trainer, {max_length} x Trainer with max_length"),
                           ("Trainer, dynamic padding", "Trainer", ""), ('Trainer, `padding="max_length"`', "Trainer, max_length", "")]),
    ("20261121-095642-S-fp32", [("**the same batches and precision**: Plainloop", "Plainloop", "{} x Trainer in useful work"),
                                ("Plainloop, `--batching padded`", "Plainloop, padded", "{} x"), ("plain loop", "plain loop", "{} x"),
                                ("Accelerate", "Accelerate", "{} x"), ("Trainer", "Trainer", ""),
                                ("Lightning Fabric", "Lightning Fabric", "{} x")]),
    ("20261121-181310-S-fp32", [("**the same, longer**: Plainloop", "Plainloop", "{} x Trainer in useful work"),
                                ("Plainloop, `--batching padded`", "Plainloop, padded", "{} x"), ("Trainer", "Trainer", "")]),
    ("20261121-100836-B", [("**each at its best**, `--allocator mallopt` for all: Plainloop", "Plainloop", "{} x Trainer in useful work"),
                           ("Trainer, grouped by length, fused AdamW", "Trainer", ""), ("Lightning Fabric, the same", "Lightning Fabric", "{} x")]),
    ("20261121-084150-B", [("**each at its best**, the allocator as it comes: Plainloop", "Plainloop", "{} x Trainer in useful work"),
                           ("Trainer, grouped by length, fused AdamW", "Trainer", ""), ("plain loop, buckets, fused AdamW", "plain loop", ""),
                           ("Accelerate, the same", "Accelerate", ""), ("Lightning Fabric, the same", "Lightning Fabric", "")]),
]  # fmt: skip


def beside_trainer(
    rows: list[dict[str, Any]], defaults: str, same_bf16: str, same_fp32: str, best: str
) -> list[tuple[str, str, str]]:
    """The table of a machine and its texts, from the runs of its tracks: label, run, system. Not every run has every system."""
    alike = [
        ("**the same batches**: Plainloop", "Plainloop"),
        ("Plainloop, `--batching padded`", "Plainloop, padded"),
        ("Trainer",) * 2,
    ]
    of_runs = {
        defaults: [("**defaults**: Plainloop", "Plainloop"), ("Trainer, dynamic padding", "Trainer"),
                   ('Trainer, `padding="max_length"`', "Trainer, max_length"), ("Trainer with its bf16 flag", "Trainer, its bf16 flag")],
        same_bf16: alike, same_fp32: alike,
        best: [("**each at its best**: Plainloop", "Plainloop"), ("plain loop, buckets, fused AdamW", "plain loop"),
               ("Trainer, grouped by length, fused AdamW", "Trainer")],
    }  # fmt: skip
    known = {(each["run_id"], each["system"]) for each in rows}
    return [(label, run, system) for run, named in of_runs.items() for label, system in named if (run, system) in known]


OF_BF16 = [
    *beside_trainer(BF16, "20261127-201459-D", "20261127-185319-S-bf16", "20261127-185319-S-fp32", "20261127-203445-B"),
    *beside_trainer(BF16, "20261127-211956-D", "20261127-213849-S-bf16", "20261127-213849-S-fp32", "20261127-213649-B"),
]
OF_AMX = [
    *beside_trainer(AMX, "20261128-051434-D", "20261128-045856-S-bf16", "20261128-050559-S-fp32", "20261128-052622-B"),
    *beside_trainer(AMX, "20261128-013418-D", "20261128-011800-S-bf16", "20261128-053515-S-fp32", "20261128-054034-B"),
]


def beside_others() -> list[str]:
    found = []
    for run_id, rows in OTHERS:
        base = useful(row(CPU, run_id, "Trainer"))
        for label, system, said in rows:
            each = row(CPU, run_id, system)
            ratios = (
                {"max_length": f"{useful(each) / useful(row(CPU, run_id, 'Trainer, max_length')):.1f}"}
                if "max_length" in said
                else {}
            )
            told = said.format(f"{useful(each) / base:.1f}", **ratios)
            found.append(f"| {label} | {speed(each)} | {told} |" if told else f"| {label} | {speed(each)} | |")
    return found


def on_bf16(rows: list[dict[str, Any]], table: list[tuple[str, str, str]]) -> list[str]:
    found = []
    for label, run_id, system in table:
        each, base = row(rows, run_id, system), useful(row(rows, run_id, "Trainer"))
        share, precision = each["rate"]["frac_gemm_peak"], each["flags"]["precision"]
        found.append(f"| {label} | {precision} | {speed(each)} | {share:.0%} | {useful(each) / base:.1f} |")
    return found


def attention(measured: dict[str, Any]) -> list[str]:
    """torch's SDPA as a multiple of the products: forward of an evaluation, and both passes."""
    found = []
    for dtype, short in (("bfloat16", "bf16"), ("float32", "fp32")):
        for width in (32, 64):
            cells = []
            for training, causal in ((False, False), (True, False), (True, True)):
                [each] = [
                    r
                    for r in measured["rows"]
                    if (r["dtype"], r["width"], r["training"], r["causal"]) == (dtype, width, training, causal)
                ]
                cells.append(f"{each['ratio']:.2f} [{each['ratio_min']:.2f} - {each['ratio_max']:.2f}]")
            found.append(f"| {short}, heads of {width} | {' | '.join(cells)} |")
    return found


def quality() -> list[str]:
    """Accuracies over the seeds, and the difference of each test row's answer to that of the padded run of its seed."""
    rows = read("quality-imdb.json")["rows"]
    found = []
    for variant in seeds.VARIANTS:
        c = seeds.compared(rows, variant)
        assert c is not None
        assert len(c.accuracies) == len(seeds.SEEDS)
        paired = (
            "" if variant == seeds.BASE else f"{c.difference:.4f} ± {c.over_seeds:.4f} (over reviews ± {c.over_reviews:.4f})"
        )
        low, high = min(c.accuracies), max(c.accuracies)
        found.append(
            f"| {variant} | {statistics.mean(c.accuracies):.3f} [{low:.3f} - {high:.3f}] | {paired} |".replace("|  |", "| |")
        )
    return found


def advised() -> list[str]:
    """Each line of advice, and the rate of the run that takes it as a multiple of the other's."""
    rows = read("advice-cpu.json")["rows"]
    return [
        f"| {label} | `{rows[name]['before']}` | `{rows[name]['taken']}` | {statistics.median(times):.2f} [{times[0]:.2f} - {times[-1]:.2f}] |"
        for name, label in (("padding", "tokens are padding"), ("random numbers", "dropout's random numbers"),
                            ("update", "clipping and optimizer"), ("data", "a step waits for its batch; every core trains"))
        for times in (rows[name]["times"],)
    ]  # fmt: skip


def on_h100() -> list[str]:
    run_id, found = "20261126-145855-S-bf16", []
    base = useful(row(H100, run_id, "Trainer"))
    for label, system in (("**Plainloop** (packed, graphs)", "Plainloop"), ("Plainloop, `--cuda-graph off`", "Plainloop, no CUDA graphs"),
                          ("Plainloop, `--batching padded`", "Plainloop, padded"), ("plain loop", "plain loop"), ("Trainer", "Trainer")):  # fmt: skip
        each = row(H100, run_id, system)
        rate = each["rate"]
        middle = f"**{rate['ex_s']:,.0f}**" if system == "Plainloop" else f"{rate['ex_s']:,.0f}"
        found.append(f"| {label} | {middle} [{rate['ex_s_min']:,.0f} to {rate['ex_s_max']:,.0f}] | {useful(each) / base:.1f} |")
    return found


def lines() -> list[str]:
    """Every row of a table with a figure in it."""
    bf16 = levers(BF16, "20261127-202742-levers", LEVERS | {"packed, bf16": "packed, bf16"})
    return [
        *levers(CPU, "20261121-090220-levers", LEVERS),
        *beside_others(),
        *on_bf16(BF16, OF_BF16),
        *on_bf16(AMX, OF_AMX),
        *bf16,
        *attention(ATTENTION),
        *attention(ATTENTION_AMX),
        *quality(),
        *advised(),
        *on_h100(),
    ]


# ---------------------------------------------------------------------------------------------------------------- the prose


FLAT = " ".join(PAGE.split())


def launch(file: str, mode: str, batch: int, model: str = "random:distilbert") -> dict[str, Any]:
    [found] = [r for r in read(file)["rows"] if (r["mode"], r["batch_size"], r["model"]) == (mode, batch, model)]
    return found


def overhead(rows: list[dict[str, Any]], run_id: str, form: str, *names: tuple[str, str]) -> str:
    said = []
    for system, called in names:
        ms = {key: value / 1000 for key, value in row(rows, run_id, system)["overhead_us"].items()}
        said.append(f"{called} {form.format(**ms)}" + (" ms a step" if not said else ""))
    return ", ".join(said)


def of_cpu() -> list[str]:
    rates = [1000 * each["env"]["gemm_tflops"]["fp32"] for each in CPU if each["track"] != "overhead"]
    padded, longest = (row(CPU, "20261121-084828-D", name)["work"] for name in ("Trainer", "Trainer, max_length"))
    waste, most = (1 - work["real_tokens"] / work["executed_tokens"] for work in (padded, longest))
    packed = row(CPU, "20261121-090220-levers", "packed, fp32")
    reached, kinds, whole = (
        packed["rate"]["frac_gemm_peak"],
        packed["breakdown"]["ms_per_step"],
        packed["breakdown"]["total_ms"],
    )
    of = {kind: ms / whole for kind, ms in kinds.items()}
    return [
        f"{min(rates):.0f} to {max(rates):.0f} GFLOP/s from one half hour to the next",
        f"{waste:.0%} of the tokens in the 24 batches of 16 Yelp reviews that were measured ({most:.0%} when everything is padded",
        f"{reached:.0%} of the best float32 matrix product of that run",
        f"matrix products of linear layers and attention {of['linear layers'] + of['attention products']:.0%}, dropout "
        f"{of['dropout']:.0%}, copies {of['copies and fills']:.0%}, softmax {of['softmax']:.0%}, activations and norms "
        f"{of['activation and norm']:.0%}, optimizer and clipping {of['optimizer and clipping']:.0%}, everything else "
        f"{of['the rest']:.0%}; the model's arithmetic at the best rate alone would be {packed['breakdown']['fraction_of_floor']:.0%} of",
        overhead(CPU, "20261121-105051-overhead", "{median:.1f} [{min:.1f}]", ("Plainloop", "Plainloop"), ("Trainer", "Trainer"),
                 ("Accelerate", "Accelerate"), ("plain loop", "a plain loop"), ("Lightning Fabric", "Lightning Fabric")),
    ]  # fmt: skip


def shares(profile: dict[str, Any]) -> dict[str, float]:
    """Where a step of BERT goes, each part as a share of the wall clock; ``ms`` of a step."""
    steps, own = profile["steps"], {each["name"]: each["share"] for each in profile["operations"]}
    kinds: dict[str, float] = {}
    for each in profile["modules"]:
        kinds[each["kind"]] = kinds.get(each["kind"], 0.0) + each["share"]
    inside = sum(each["share"] for each in profile["modules"] if re.search(r"self\.(query|key|value)$", each["name"]))
    attends, linear = kinds["BertSelfAttention"] - inside, own["aten::mm"] + own["aten::addmm"]
    wall = sum(step["seconds"] for step in steps)
    updates = kinds["LayerNorm"] + sum(step["phases"][name] for step in steps for name in ("clip", "optimizer")) / wall
    dropout, gelu = kinds["FastDropout"], kinds["GELUActivation"]
    return {
        "ms": 1000 * wall / len(steps), "linear": linear, "attention": attends, "dropout": dropout, "gelu": gelu,
        "products": own["aten::baddbmm"], "softmax": own["aten::_softmax"] + own.get("aten::_softmax_backward_data", 0.0),
        "bits": own["_PackedAttention"], "updates": updates, "rest": 1 - linear - attends - dropout - gelu - updates,
    }  # fmt: skip


def of_amx() -> list[str]:
    peaks = {name: [1000 * each["env"]["gemm_tflops"][name] for each in AMX] for name in ("bf16", "fp32")}
    ours, theirs, flag = (
        useful(row(AMX, "20261128-051434-D", name)) for name in ("Plainloop", "Trainer", "Trainer, its bf16 flag")
    )
    shorter, shorter_flag = (useful(row(AMX, "20261128-013418-D", name)) for name in ("Plainloop", "Trainer, its bf16 flag"))
    together, on_shorter = (
        row(AMX, run, "Plainloop")["rate"]["tflops"] / row(AMX, run, "Trainer")["rate"]["tflops"]
        for run in ("20261128-052622-B", "20261128-054034-B")
    )
    parts = shares(PROFILE_AMX)
    return [
        f"reach {min(peaks['bf16']):,.0f} to {max(peaks['bf16']):,.0f} GFLOP/s in bf16 here and {min(peaks['fp32']):.0f} to "
        f"{max(peaks['fp32']):.0f} in float32",
        f"with its bf16 flag Trainer does {flag / theirs:.1f} times the work here, so that {ours / flag:.1f} remain "
        f"({shorter / shorter_flag:.1f} on Yelp reviews)",
        f"over all windows together Plainloop does {together:.1f} times the useful work of Trainer there ({on_shorter:.1f} on Yelp reviews)",
        overhead(AMX, "20261128-054421-overhead", "{median:.2f} [{min:.2f} - {max:.2f}]", ("Plainloop", "Plainloop"),
                 ("plain loop", "a plain loop"), ("Trainer", "Trainer")),
        f"A step takes {parts['ms']:.0f} ms there: linear layers {parts['linear']:.0%}, attention {parts['attention']:.0%} (its "
        f"products {100 * parts['products']:.0f}, softmax {100 * parts['softmax']:.0f}, random bits and new memory "
        f"{100 * parts['bits']:.0f}), dropout elsewhere {parts['dropout']:.0%}, GELU {parts['gelu']:.0%}, norms, optimizer and "
        f"clipping {parts['updates']:.0%}, the rest {parts['rest']:.0%}.",
    ]  # fmt: skip


def of_bf16() -> list[str]:
    peaks = {name: [1000 * each["env"]["gemm_tflops"][name] for each in BF16 if name in each["env"]["gemm_tflops"]]
             for name in ("bf16", "fp32")}  # fmt: skip
    ours, theirs, flag = (
        useful(row(BF16, "20261127-201459-D", name)) for name in ("Plainloop", "Trainer", "Trainer, its bf16 flag")
    )
    at_best = [row(BF16, "20261127-213649-B", name) for name in ("Plainloop", "Trainer")]
    together, medians = (at_best[0]["rate"][name] / at_best[1]["rate"][name] for name in ("tflops", "tflops_median"))
    steps, parts = PROFILE["steps"], shares(PROFILE)
    return [
        f"reach {min(peaks['bf16']):.0f} to {max(peaks['bf16']):.0f} GFLOP/s in bf16 there and {min(peaks['fp32']):.0f} to "
        f"{max(peaks['fp32']):.0f} in float32",
        f"with its bf16 flag Trainer does {flag / theirs:.1f} times the work, so that {ours / flag:.1f} remain",
        overhead(BF16, "20261127-230707-overhead", "{median:.2f} [{min:.2f} - {max:.2f}]", ("Plainloop", "Plainloop"),
                 ("plain loop", "a plain loop"), ("Trainer", "Trainer")),
        f"Plainloop does {together:.1f} times the useful work of Trainer, by the medians {medians:.1f}",
        f"steps {steps[0]['step']} to {steps[-1]['step']}, {parts['ms']:.0f} ms each",
        f"linear layers {parts['linear']:.0%}, at the best rate",
        f"attention {parts['attention']:.0%}, of which its products are {100 * parts['products']:.0f} and",
        f"dropout elsewhere {parts['dropout']:.0%}, GELU {parts['gelu']:.0%}",
        f"norms, optimizer and clipping {parts['updates']:.0%}, the rest {parts['rest']:.0%}.",
        f"random bits, {parts['bits']:.0%} in these early steps",
    ]  # fmt: skip


def of_gpus() -> list[str]:
    two, three = "gpu-h200/launches-2.json", "gpu-h200/launches-3.json"
    eager, best = launch("gpu-h200/launches-1.json", "packed, eager", 16), {}
    for name, mode in (("padded", "padded"), ("packed", "packed"), ("graphs", "packed, graphs"), ("same", "packed, graphs, deterministic"), ("compiled", "compiled")):  # fmt: skip
        best[name] = launch(two, mode, 16)
    ms = {name: min(each["ms"]) for name, each in best.items()}
    large = {name: min(launch(three, mode, 128)["ms"]) for name, mode in (("packed", "packed"), ("graphs", "packed, graphs"))}
    h100 = "gpu-h100/gpu-launches-nvidia-h100-80gb-hbm3.json"
    recorded = launch(h100, "packed, graphs", 16)
    [compiled] = [each for each in read(h100)["rows"] if "compiled" in each["mode"]]
    rates = [read(name)["rates"]["bf16_tflops"] for name in (two, three)]
    defaults = {each["system"]: each["rate"]["ex_s"] for each in H200}
    of = {(each["track"], each["system"]): each["rate"]["ex_s"] for each in H100 if each["valid"] and "rate" in each}
    bert = launch("gpu-h200/launches-4.json", "padded", 32, "random:bert")
    return [
        f"| 16 | {ms['padded']:.1f} | {ms['packed']:.1f} | **{ms['graphs']:.1f}** | {ms['same']:.1f} | {ms['compiled']:.1f} "
        f"({best['compiled']['warmup_s']:.0f} s to compile) | {best['padded']['floor_ms']:.1f} |",
        f"| 128 | | **{large['packed']:.1f}** | {large['graphs']:.1f} | | | {launch(three, 'packed', 128)['floor_ms']:.1f} |",
        f"the host needed {min(eager['ms']):.0f} ms to launch and an H200 {eager['profile']['busy_ms']:.0f} ms to run",
        f"{best['graphs']['peak_gb']:.1f} GB in place of {best['packed']['peak_gb']:.1f} here",
        f"({min(rates):.0f} to {max(rates):.0f} TFLOP/s)",
        f"{defaults['Plainloop']:,.0f} examples/s, a plain loop (fp32, padded) {defaults['plain loop']:.0f}, Trainer "
        f"{defaults['Trainer']:.0f} (fp32, padded to the batch) and {defaults['Trainer, max_length']:.0f} "
        f'(`padding="max_length"`): {defaults["Plainloop"] / defaults["Trainer"]:.1f} x',
        f"products reach {read(h100)['rates']['bf16_tflops']:.0f} TFLOP/s there",
        f"{min(recorded['ms']):.1f} ms recorded and {min(compiled['ms']):.1f} ms compiled and recorded "
        f"({compiled['warmup_s']:.0f} s to get ready), of a floor of {recorded['floor_ms']:.1f}",
        f"{of['LM', 'Plainloop']:.0f} examples/s beside {of['LM', 'Trainer']:.0f} of Trainer's, "
        f"{of['LM', 'Trainer, flattened, sdpa']:.0f} of Trainer's on flattened rows and {of['LM', 'plain loop']:.0f} of the plain loop's",
        f"{of['B', 'Plainloop']:,.0f} examples/s, compiled {of['B', 'Plainloop, compiled']:,.0f}, beside {of['B', 'Trainer']:.0f} of "
        f"Trainer's and {of['B', 'plain loop']:.0f} of the plain loop's",
        f"({min(bert['ms']):.1f} ms on the H200, floor {bert['floor_ms']:.1f})",
    ]


UNHELD = [  # figures of no file, word for word; those of settings at the end
    "It takes 0.05 to 1.1 s and the verdict",
    "by Trainer's steps at known widths (median 22.3 ms) the ratio is 2.6.",
    "by those at known ones (28.8 ms) it is 2.1 times Trainer's rate, compiled 2.6.",
    "a whole interval (95%, by bootstrap) lies more than `--tolerance 0.02` below 1",
]


def test_every_row_of_a_table_is_that_of_the_results():
    for line in lines():
        assert f"{line}\n" in PAGE, line


@pytest.mark.parametrize("told", [of_cpu, of_bf16, of_amx, of_gpus])
def test_every_figure_in_the_text_is_that_of_the_results(told):
    for words in told():
        assert words in FLAT, words


def test_the_other_figures_are_known_to_have_no_file():
    """A new one needs a file and a line above, or a place in the list."""
    left = FLAT
    for words in (*(" ".join(line.split()) for line in lines()), *of_cpu(), *of_bf16(), *of_amx(), *of_gpus(), *UNHELD):
        assert words in left or words in FLAT, words
        left = left.replace(words, " ")
    left = re.sub(r"(torch|transformers|Python) \d+(\.\d+)+\S*", " ", left)
    assert not FIGURE.findall(left), [left[max(0, m.start() - 60) : m.end() + 40] for m in FIGURE.finditer(left)]


def test_a_figure_that_is_changed_is_noticed():
    for line in (lines()[0], of_cpu()[0], of_gpus()[0]):
        changed = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), line)
        assert changed != line and " ".join(changed.split()) not in FLAT
