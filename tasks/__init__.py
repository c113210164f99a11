"""The tasks and the commands, by name. A task of one's own: ``--task my_task.py:MyTask``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from engine.errors import UsageError
from engine.installed import install
from engine.settings.own import class_in_file, is_own
from engine.settings.parser import unknown_command
from tasks.options import DEFAULT_TASK, DEFAULTS

# name: (dataclass of its flags, task class, one line for --help), each as module:name: --help imports the flags only, no torch
TASKS = {
    "yelp": ("tasks.options:YelpOptions", "tasks.classification.yelp:Yelp",
             "is a restaurant review positive or negative? (--stars: one to five)"),
    "imdb": ("tasks.options:ClassificationOptions", "tasks.classification.imdb:Imdb", "is a film review positive or negative?"),
    "classification": ("tasks.options:ClassificationOptions", "tasks.classification.task:Classification",
                       "one's own CSV, JSONL, Parquet or Hub data: classes, several labels, or a number"),
    "ner": ("tasks.options:TaggingOptions", "tasks.tagging.task:Tagging",
            "a tag for each word: names of people and places, parts of speech"),
    "qa": ("tasks.options:QAOptions", "tasks.qa.task:QuestionAnswering",
           "where in a text the answer to a question stands: SQuAD, or one's own"),
    "seq2seq": ("tasks.options:Seq2SeqOptions", "tasks.seq2seq.task:Seq2Seq",
                "write one text from another: summaries, translation, rewriting"),
    "mlm": ("tasks.options:MaskedOptions", "tasks.language.masked_lm:MaskedLM",
            "predict hidden words: masked language modelling"),
    "clm": ("tasks.options:CausalOptions", "tasks.language.causal_lm:CausalLM",
            "write on: causal language modelling on one's own text"),
    "sft": ("tasks.options:SFTOptions", "tasks.language.sft:SFT",
            "answer: supervised fine-tuning on conversations, or prompts and completions"),
    "embeddings": ("tasks.options:EmbeddingsOptions", "tasks.embeddings.task:Embeddings",
                   "vectors of texts for search, from pairs that belong together"),
    "reranker": ("tasks.options:RerankerOptions", "tasks.reranker.task:Reranker",
                 "rank passages by how well they answer a query: a cross-encoder"),
    "reward": ("tasks.options:RewardOptions", "tasks.preferences.reward:Reward",
               "how good is an answer: a number, learned from pairs of a better and a worse one"),
    "dpo": ("tasks.options:DPOOptions", "tasks.preferences.dpo:DPO",
            "answer as people prefer: direct preference optimisation, from such pairs"),
    "captioning": ("tasks.options:CaptioningOptions", "tasks.captioning.task:Captioning",
                   "describe pictures: a folder with metadata.csv, or Hub data"),
    "image-classification": ("tasks.options:ImageClassificationOptions", "tasks.image_classification.task:ImageClassification",
                             "tell pictures apart: a folder for each class, metadata.csv, or Hub data"),
}  # fmt: skip

# name: (dataclass of its flags, function(flags, texts, find), one line for --help), each as module:name
COMMANDS = {
    "predict": (
        "tasks.flags:PredictFlags",
        "engine.commands.predict:predict",
        "use a finished model on texts or a file",
    ),
    "evaluate": ("tasks.flags:EvaluateFlags", "engine.commands.evaluate:evaluate", "measure a finished model"),
    "inspect": (
        "tasks.flags:InspectConfig",
        "tasks.classification.inspection:inspect",
        "what is wrong with texts and labels: empty, repeated and nearly repeated ones, labels that disagree or may be wrong",
    ),
    "serve": ("tasks.flags:ServeFlags", "engine.serving.command:serve", "a finished model behind HTTP, with a page to try it"),
    "export": (
        "tasks.flags:ExportFlags",
        "engine.commands.export:export",
        "write a finished model as ONNX, checked",
    ),
    "monitor": (
        "tasks.flags:MonitorFlags",
        "engine.commands.monitor:monitor",
        "are new data like those of a run? tests for each feature, one verdict",
    ),
    "update": (
        "tasks.flags:UpdateFlags",
        "engine.updating.command:update",
        "train a finished model on new rows, too, and keep it only if it is not worse",
    ),
    "fill": ("tasks.flags:FillConfig", "tasks.language.fill:fill", "fill in the [MASK] of a text"),
    "generate": ("tasks.flags:GenerateConfig", "tasks.language.generate:generate", "let a causal language model write on"),
    "report": ("engine.commands.flags:ReportConfig", "engine.commands.report:report", "draw a run's report.html again"),
    "compare": (
        "engine.commands.flags:CompareConfig",
        "engine.commands.report:compare",
        "lay the curves of several runs over each other",
    ),
    "sweep": (
        "engine.sweep.flags:SweepConfig",
        "engine.sweep.command:sweep",
        "train with several settings and seeds, and choose one",
    ),
    "tune": ("bench.tune.flags:TuneConfig", "bench.tune.command:tune", "which settings train fastest on this machine"),
    "push": ("engine.commands.flags:PushConfig", "engine.commands.push:push", "upload a finished run to the Hugging Face Hub"),
    "lesson": ("bench.lessons.command:LessonConfig", "bench.lessons.command:teach", "experiments that show what Trainer hides"),
    "xray": (
        "bench.xray.command:XrayConfig",
        "bench.xray.command:xray",
        "what Trainer would do with the TrainingArguments of a script or JSON file",
    ),
    "search": (
        "tasks.flags:SearchConfig",
        "tasks.embeddings.search:search",
        "the texts of a file nearest in meaning to a query",
    ),
    "compare-models": (
        "tasks.flags:CompareConfig",
        "tasks.embeddings.compare_models:compare_models",
        "embedding models side by side",
    ),
    "env": (
        "engine.commands.flags:EnvConfig",
        "engine.commands.environment:env",
        "versions, processor, memory: what a report of a defect needs",
    ),
    "caption": ("tasks.flags:CaptionConfig", "tasks.captioning.caption:caption", "describe pictures"),
}


def flags_of(name: str) -> tuple[type[Any], Mapping[str, Any]]:
    """A task's own flags and its defaults of the others; the task itself is imported only if it is the user's own."""
    if name in TASKS:
        return attribute(TASKS[name][0]), DEFAULTS.get(name, {})
    kind = find(name)
    return kind.Options, kind.defaults


def command(name: str) -> tuple[type[Any], str]:
    """The dataclass of a command's flags, and where its function is, as module:name. Raises UsageError with the way on."""
    if name not in COMMANDS:
        raise unknown_command(name, TASKS, COMMANDS)
    flags, function, _ = COMMANDS[name]
    return attribute(flags), function


def attribute(name: str) -> Any:
    """What ``module:name`` names."""
    module, _, found = name.partition(":")
    return getattr(importlib.import_module(module), found)


# Tasks that stand on packages of their own: pip install '.[NAME]'
EXTRAS = frozenset({"captioning", "image-classification", "ner", "seq2seq"})


def find(name: str | None) -> type[Any]:
    """The task class called ``name``, or ``FILE.py:CLASS``; None: DEFAULT_TASK. Raises UsageError with the names there are."""
    name = DEFAULT_TASK if name is None else name
    if name in TASKS:
        try:
            found: type[Any] = attribute(TASKS[name][1])
        except ModuleNotFoundError as error:
            if name not in EXTRAS:
                raise
            mend = install(name)
            raise UsageError(f"{name} needs the package {error.name}, which is not installed: {mend}") from error
        return found
    if is_own(name):
        return from_file(name)
    near = difflib.get_close_matches(name, TASKS, n=1)
    raise UsageError(
        f"unknown task {name!r}"
        + (f" (did you mean {near[0]}?)" if near else "")
        + f"; there are: {', '.join(TASKS)}, and your own as FILE.py:CLASS"
    )


def from_file(name: str) -> type[Any]:
    """A task class of a file outside the project."""
    from engine.task import Task

    found = class_in_file(name, "task")
    if found is None or not issubclass(found, Task):
        path, _, attribute = name.rpartition(":")
        raise UsageError(f"--task {name}: {path} defines no subclass of engine.task.Task of that name ({attribute})")
    return found
