# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Hidden words
#
# Masked language modelling: 15 % of the tokens are hidden, and the model has to say which they were. That is how BERT was made, and how an encoder is
# brought nearer to the texts of one's own. Where the Hub can be reached, data and model come from there; elsewhere from the `offline` extra, and the first lines say so. Offline, the encoder is pretrained and its head is new.

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
from plainloop import Source, SourceConfig, TrainConfig, find, fit, open_model, quiet_libraries

quiet_libraries()  # no bars and reports of the libraries between our own lines

# %% [markdown]
# Which tokens are hidden follows from seed, epoch and row: it is other ones in each epoch, and the same ones in each evaluation, whatever the batch size.

# %%
MaskedLM = find("mlm")
source = Source(SourceConfig(max_train_examples=250, max_eval_examples=60))
result = fit(MaskedLM(MaskedLM.Options(), source), TrainConfig(task="mlm", output_dir="runs/mlm", epochs=1, learning_rate=6e-4))

# %% [markdown]
# **What to look at.** A new head begins near the logarithm of the vocabulary (30,522 tokens: 10.3). The first thing it learns is which words are frequent;
# `accuracy` stays near the share of the most frequent token until then.

# %%
result

# %%
saved, model, layout = open_model(str(result.directory), find)
for text in ("This is a [MASK] movie!", "The [MASK] were dreadful."):
    [found] = saved.fill(model, [text], layout)
    print(text, [(token, round(probability, 3)) for token, probability in found["masks"][0]])

# %% [markdown]
# A few hundred reviews teach a new head little more than frequent words; with 2,000 (`max_train_examples`, some minutes) it says *good* and *bad*.
# To use the encoder afterwards, name the run as a model: `SourceConfig(model="runs/mlm")` in the notebook `imdb`.
