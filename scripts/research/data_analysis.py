# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Data analysis
#
# What is in a data set, what is wrong with it, what models cost at its image size, and the data prepared for training.
# Outputs, all in `research/`: `data_analysis.png`, `model_requirements.png`, `prepared_data.pkl`, `splits.csv` and
# `data/report.html`.
#
# In a notebook, edit the next cell. As a script, type settings behind its name:
# `python scripts/research/data_analysis.py data.root=/my/images data.image_size=224`.

# %%
import pickle
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from research_helpers import FOLDER, read_csv, read_json, save, tidy, typed

from classifier_training.cli import perform
from classifier_training.core.images import read_rgb

# %% tags=["parameters"]
SETTINGS = ["data=digits", "data.image_size=32"]  # such as ["data.root=/my/images", "data.image_size=224"]

# %%
DEFAULTS = list(SETTINGS)
SETTINGS, _ = typed([])
SETTINGS = SETTINGS or DEFAULTS
SIZE = next((int(word.partition("=")[2]) for word in SETTINGS if word.startswith("data.image_size=")), 32)
DATA = [word for word in SETTINGS if not word.startswith("data.image_size=")]

# %% [markdown]
# ## Problems of the files
#
# Unreadable files, exact and near duplicates, leaks across splits, duplicate class names, tiny classes. Nothing is
# changed or deleted.

# %%
print(perform("analyze", [*DATA, f"data.image_size={SIZE}", f"output={FOLDER / 'data'}"]))
statistics = read_json(FOLDER / "data/statistics.json")
findings = read_json(FOLDER / "data/findings.json")
for finding in findings:
    print(f"{finding['severity']}: {finding['title']}. To do: {finding['remedy']}")

# %% [markdown]
# ## Preparation for training
#
# The same splits as `train` makes with the same seed, and pixels that `train` then reads without decoding.

# %%
print(perform("prepare", [*DATA, f"data.image_size={SIZE}", f"output={FOLDER / 'splits.csv'}"]))
rows = read_csv(FOLDER / "splits.csv")

# %% [markdown]
# ## Distribution of classes, splits, sessions and sizes

# %%
names = statistics["class_names"]
splits = [split for split in ("train", "val", "test") if any(row["split"] == split for row in rows)]
counts = {
    split: np.array([sum(row["split"] == split and row["label"] == name for row in rows) for name in names])
    for split in splits
}
total = np.sum(list(counts.values()), axis=0)
order = np.argsort(-total)
groups = Counter(row["group"] for row in rows if row["group"])

figure, panels = plt.subplots(2, 3, figsize=(15, 8))
bottom = np.zeros(len(names))
for split in splits:
    panels[0, 0].bar(np.arange(len(names)), counts[split][order], bottom=bottom, label=split)
    bottom += counts[split][order]
panels[0, 0].set_xticks(
    np.arange(len(names)), [names[place][:18] for place in order], rotation=60, ha="right", fontsize=8
)
panels[0, 0].set_ylabel("images")
panels[0, 0].margins(y=0.2)
panels[0, 0].legend(frameon=False, ncols=3, loc="upper center")
tidy(panels[0, 0], "Images of each class")
panels[0, 1].pie(total[order], labels=[names[place][:18] for place in order], textprops={"fontsize": 8}, startangle=90)
panels[0, 1].set_title("Share of each class", fontsize=10)
ratios = [counts[split].max() / max(counts[split][counts[split] > 0].min(), 1) for split in splits]
panels[0, 2].bar_label(panels[0, 2].bar(splits, ratios), fmt="%.1f : 1")
panels[0, 2].set_ylabel("largest class / smallest class")
tidy(panels[0, 2], "Imbalance ratio")
if groups:
    panels[1, 0].hist(list(groups.values()), bins=20)
    panels[1, 0].set(xlabel="images in a group (session)", ylabel="groups")
else:
    panels[1, 0].text(0.5, 0.5, "no groups\n(data.group=… makes some)", ha="center", va="center")
    panels[1, 0].set_axis_off()
tidy(panels[1, 0], f"Groups: {len(groups)}")
sizes = statistics["image_size"]["most_common"][:8]
panels[1, 1].barh([f"{size['width']} x {size['height']}" for size in sizes], [size["num_images"] for size in sizes])
panels[1, 1].invert_yaxis()
panels[1, 1].set_xlabel("images")
tidy(panels[1, 1], "Most common image sizes")
severities = Counter(finding["severity"] for finding in findings)
panels[1, 2].bar_label(panels[1, 2].bar(list(severities), list(severities.values())))
panels[1, 2].set_ylabel("findings")
tidy(panels[1, 2], f"Data quality: {len(findings)} findings")
print(save(figure, "data_analysis.png"))

# %% [markdown]
# ## What models cost at this image size
#
# Parameters, operations of a forward pass, and memory for training on a batch of 32 images, from shapes alone: nothing
# is downloaded.

# %%
print(
    perform("models", [f"image_size={SIZE}", f"num_classes={max(len(names), 2)}", f"output={FOLDER / 'models.json'}"])
)
models = [row for row in read_json(FOLDER / "models.json") if row["parameters"] is not None]
figure, panels = plt.subplots(1, 3, figsize=(14, 1.5 + 0.3 * len(models)))
for axes, (title, values) in zip(
    panels,
    {
        "million parameters": [row["parameters"] / 1e6 for row in models],
        "GFLOPs of an image": [row["gflops"] or 0 for row in models],
        "training memory, MiB (batch of 32)": [row["training_mb"] or 0 for row in models],
    }.items(),
    strict=True,
):
    axes.bar_label(axes.barh([row["model"] for row in models], values), fmt="%.3g", padding=2, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    tidy(axes, title)
print(save(figure, "model_requirements.png"))

# %% [markdown]
# ## Pixels as arrays
#
# `prepared_data.pkl` is a dictionary for experiments outside this package: `class_names`, `image_size`, and of each
# split `paths` [N], `targets` int64 [N] and `images` uint8 [N, H, W, 3]. A pickle may run code when it is read, so read
# only your own. Above 2 GiB the pixels are left out.

# %%
root = Path(statistics["root"])
number = {name: place for place, name in enumerate(names)}
fits = len(rows) * SIZE * SIZE * 3 < 2**31


def pixels(path: str) -> np.ndarray:
    """An image as uint8 [SIZE, SIZE, 3]."""
    return np.asarray(read_rgb(root / path).resize((SIZE, SIZE)))


prepared = {"class_names": names, "image_size": SIZE, "splits": {}}
for split in splits:
    members = [row for row in rows if row["split"] == split and row["label"] in number]
    prepared["splits"][split] = {
        "paths": [row["path"] for row in members],
        "targets": np.array([number[row["label"]] for row in members], dtype=np.int64),
        "images": np.stack([pixels(row["path"]) for row in members]) if fits else None,
    }
(FOLDER / "prepared_data.pkl").write_bytes(pickle.dumps(prepared))
print(FOLDER / "prepared_data.pkl", {split: len(table["paths"]) for split, table in prepared["splits"].items()})
