# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A sentence for a picture
#
# A model that sees (an encoder) and one that writes (a decoder), trained together. Where the Hub can be reached, data and model come from there; elsewhere from the `offline` extra, and the first lines say so. Offline, these are drawn shapes and a small model
# with random weights. A fifth of the combinations of shape, colour and place is held out as a whole: what the model says of them it has never read.

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
    wanted = f"plainloop[offline,captioning,bench] @ {place}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)
plainloop = f'"{sys.executable}" -m plainloop'  # the command, of the same Python

# %%
from plainloop import Source, SourceConfig, TrainConfig, find, fit, quiet_libraries

quiet_libraries()  # no bars and reports of the libraries between our own lines

# %%
Captioning = find("captioning")
task = Captioning(Captioning.Options(), Source(SourceConfig()))
settings = TrainConfig(
    task="captioning", output_dir="runs/captioning", batch_size=32, epochs=7, learning_rate=1e-3, warmup_ratio=0.1, log_steps=40
)
result = fit(task, settings)

# %% [markdown]
# **What to look at.** `exact_match` is the share of held-out pictures whose sentence is right to the last word. The loss falls long before it
# rises: first the model learns how such sentences go, without looking; then colour, place and shape, one after the other.

# %%
result

# %% [markdown]
# Four held-out pictures, described. `drawn` is the sample; `caption` takes any picture file, or an address.

# %%
from IPython.display import Image

from tasks.samples.shapes import drawn

pictures, sentences = drawn("eval")
names = [f"picture-{number}.png" for number in range(4)]
for number, name in enumerate(names):
    Path(name).write_bytes(pictures[number * 83])
    print(name, sentences[number * 83], sep="\t")

# %%
# !{plainloop} caption --model runs/captioning --picture described.png {" ".join(names)}

# %%
Image("described.png", width=800)

# %% [markdown]
# Where it is wrong, look at which word: mixed up colours and mixed up places come from different things not yet learned. More epochs mend both (14 reach 97 %).
