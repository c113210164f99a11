# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A language model writes on
#
# Causal language modelling: each token is predicted from those before it. Where the Hub can be reached, data and model come from there; elsewhere from the `offline` extra, and the first lines say so. Offline that is a *small* GPT-2 with random weights, which
# starts by knowing nothing at all: so one sees it learn to write.

# %%
# Where Plainloop can be imported, this cell installs nothing. Elsewhere, on Colab say, it does: from
# a wheel beside this notebook (upload one; `pip wheel --no-deps -w dist .` makes it), from the
# checkout around it, or from ADDRESS.
import importlib.util
import subprocess
import sys
from pathlib import Path

ADDRESS = ""  # of the repository, as pip takes it: git+https://...
if importlib.util.find_spec("plainloop") is None:
    wheels, around = sorted(Path().glob("plainloop-*.whl")), sorted(Path("..").glob("hatch_build.py"))
    here = wheels or [file.parent for file in around]
    place = here[-1].resolve().as_uri() if here else ADDRESS
    assert place, "upload a wheel of Plainloop, or fill in ADDRESS"
    wanted = f"plainloop[offline] @ {place}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)
plainloop = f'"{sys.executable}" -m plainloop'  # the command, of the same Python

# %%
from plainloop import Source, SourceConfig, TrainConfig, find, fit, quiet_libraries

quiet_libraries()  # no bars and reports of the libraries between our own lines

# %% [markdown]
# All texts are laid end to end and cut into rows of 64 tokens. The loss is the mean over all tokens of all rows: no padding, no row that counts
# more than another. A model from random weights wants a larger learning rate than a pretrained one.

# %%
CausalLM = find("clm")
task = CausalLM(CausalLM.Options(block_size=64), Source(SourceConfig(max_train_examples=1200, max_eval_examples=100)))
result = fit(task, TrainConfig(task="clm", output_dir="runs/clm", batch_size=8, epochs=2, learning_rate=1e-3, log_steps=40))

# %% [markdown]
# **What to look at.** The first loss is near the logarithm of the size of the vocabulary: all tokens are equally likely. `perplexity` is e to the
# power of the loss: between how many tokens the model wavers. `bits_per_byte` is the same measured against letters, so that models with
# different tokenizers can be compared. Where a pretrained GPT-2 was taken, it starts much lower.

# %%
result

# %% [markdown]
# Let it write. Greedy at first: always the most probable token. Then drawn at random, a little cooler than the model believes.

# %%
# !{plainloop} generate --model runs/clm "The food was" --max-new-tokens 40

# %%
# !{plainloop} generate --model runs/clm "The food was" --max-new-tokens 40 --temperature 0.8 --num-return-sequences 3 --seed 1

# %% [markdown]
# Greedy text goes round in circles, drawn text is livelier and less sure. Neither is good English after two minutes; it is more than letters in a row. Your own text: write it to `story.txt` and give
# `SourceConfig(train_file="story.txt", eval_fraction=0.1)`, without `max_train_examples`: a text file is one text.
