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
# # Model comparison
#
# Several models, trained on the same data with the same seed and compared on the same test images. Outputs, all in
# `research/`: `model_comparison.png`, `model_comparison.csv`, `best_model_analysis.png` and `best_model_NAME.pth`. The
# verb `compare` does more: several seeds and data sets, parallel jobs, significance.
#
# In a notebook, edit the next cell. As a script, type settings behind its name:
# `python scripts/research/model_comparison.py models=student,cnn_v1 data.root=/my/images --epochs 5`.

# %%
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from research_helpers import FOLDER, read_csv, save, tidy, typed
from safetensors.torch import load_file
from sklearn.metrics import auc, roc_curve

import classifier_training as ct
from classifier_training.cli import perform
from classifier_training.core.run_dir import write_csv

# %% tags=["parameters"]
MODELS = ["student", "cnn_v1", "tf_efficientnet_lite0"]
# Of train, such as ["data.root=/my/images", "trainer.max_epochs=20"]; the built-in digits where there are none.
SETTINGS: list[str] = []

# %%
SETTINGS, own = typed(SETTINGS, models=MODELS)
MODELS = own["models"]

# %% [markdown]
# ## Training

# %%
runs: dict[str, ct.Run] = {}
seconds: dict[str, float] = {}
for model in MODELS:
    started = time.monotonic()
    result = perform("train", [f"model={model}", *SETTINGS, f"output={FOLDER / 'runs'}"])
    seconds[model] = time.monotonic() - started
    runs[model] = ct.Run(Path(result.run_dir.path))
    print(model, result)

# %% [markdown]
# ## Scores, time, size and latency


# %%
def latency_ms(run: ct.Run, path: str) -> float:
    """Median time of a prediction for one image, decoding included."""
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        run.predict(path)
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[3:])


def answers(run: ct.Run) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, K] of the test images, and their class numbers [N]."""
    rows = read_csv(run.folder / "evaluation/predictions.csv")
    names = list(run.class_names)
    probabilities = np.array([[float(row[f"prob_{name}"]) for name in names] for row in rows])
    return probabilities, np.array([names.index(row["true"]) for row in rows])


METRICS = ("balanced_accuracy", "acc_top1", "macro_f1", "macro_precision", "macro_recall")
image = read_csv(next(iter(runs.values())).folder / "evaluation/predictions.csv")[0]["path"]
table = {
    model: {
        **{name: run.metrics[name].value for name in METRICS},
        "seconds": seconds[model],
        "size_mb": (run.folder / "model.onnx").stat().st_size / 1e6,
        "latency_ms": latency_ms(run, image),
    }
    for model, run in runs.items()
}
columns = list(next(iter(table.values())))
write_csv(
    FOLDER / "model_comparison.csv",
    ("model", "run", *columns),
    [(model, runs[model].folder, *(f"{value:.6f}" for value in row.values())) for model, row in table.items()],
)
for model, row in table.items():
    print(f"{model:<24}", "  ".join(f"{name} {value:.4g}" for name, value in row.items()))


# %%
def column(name: str) -> list[float]:
    """A metric of all models."""
    return [row[name] for row in table.values()]


def scatter(axes: Axes, x: str, y: str, title: str) -> None:
    """A dot for each model."""
    axes.scatter(column(x), column(y))
    for model, row in table.items():
        axes.annotate(model, (row[x], row[y]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel=x, ylabel=y)
    axes.margins(0.2)
    tidy(axes, title)


figure, panels = plt.subplots(2, 3, figsize=(15, 8))
places = np.arange(len(table))
for shift, name in enumerate(("balanced_accuracy", "macro_f1")):
    panels[0, 0].bar(places + 0.4 * shift - 0.2, column(name), 0.38, label=name)
panels[0, 0].set_xticks(places, list(table), fontsize=8)
panels[0, 0].set_ylim(0, 1.15)
panels[0, 0].legend(frameon=False, ncols=2, loc="upper center", fontsize=8)
tidy(panels[0, 0], "Accuracy and F1 on the test split")
scatter(panels[0, 1], "macro_recall", "macro_precision", "Precision and recall")
for model, run in runs.items():
    probabilities, targets = answers(run)
    is_class = np.arange(probabilities.shape[1]) == targets[:, None]
    false_positives, true_positives, _ = roc_curve(is_class.ravel(), probabilities.ravel())
    area = auc(false_positives, true_positives)
    panels[0, 2].plot(false_positives, true_positives, label=f"{model} ({area:.3f})")
panels[0, 2].set(xlabel="false positive rate", ylabel="true positive rate")
panels[0, 2].legend(frameon=False, fontsize=8)
tidy(panels[0, 2], "ROC, micro-averaged (area)")
panels[1, 0].bar_label(panels[1, 0].bar(list(table), column("seconds")), fmt="%.0f")
tidy(panels[1, 0], "Time of the whole command, s")
panels[1, 1].bar_label(panels[1, 1].bar(list(table), column("size_mb")), fmt="%.1f")
tidy(panels[1, 1], "Size of model.onnx, MB")
scatter(panels[1, 2], "latency_ms", "balanced_accuracy", "Accuracy and latency of one image")
print(save(figure, "model_comparison.png"))

# %% [markdown]
# ## The best model
#
# By balanced accuracy. Whether its lead over the second is more than chance is tested on the same images.

# %%
ranked = sorted(table, key=lambda model: table[model]["balanced_accuracy"], reverse=True)
best = ranked[0]
if len(ranked) > 1:
    words = [f"run={runs[best].folder}", f"against={runs[ranked[1]].folder}", "intervals=false"]
    print(perform("evaluate", words))
runs[best]

# %%
probabilities, targets = answers(runs[best])
names = list(runs[best].class_names)
predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
confusion = np.zeros((len(names), len(names)), dtype=int)
np.add.at(confusion, (targets, predicted), 1)
with np.errstate(invalid="ignore", divide="ignore"):
    recall = np.diag(confusion) / confusion.sum(axis=1)
    precision = np.diag(confusion) / confusion.sum(axis=0)

figure, panels = plt.subplots(2, 2, figsize=(12, 10))
panels[0, 0].imshow(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
if len(names) <= 20:
    for (row, place), count in np.ndenumerate(confusion):
        if count:
            colour = "white" if count > confusion[row].sum() / 2 else "black"
            panels[0, 0].text(place, row, count, ha="center", va="center", fontsize=7, color=colour)
    panels[0, 0].set_xticks(range(len(names)), [name[:14] for name in names], rotation=60, ha="right", fontsize=7)
    panels[0, 0].set_yticks(range(len(names)), [name[:14] for name in names], fontsize=7)
panels[0, 0].set(xlabel="predicted class", ylabel="true class")
panels[0, 0].set_title(f"Confusion matrix of {best}", fontsize=10)
for place in np.argsort(-np.bincount(targets, minlength=len(names)))[:10]:
    positives = targets == place
    if positives.any() and not positives.all():
        false_positives, true_positives, _ = roc_curve(positives, probabilities[:, place])
        area = auc(false_positives, true_positives)
        panels[0, 1].plot(false_positives, true_positives, label=f"{names[place][:18]} ({area:.3f})")
panels[0, 1].set(xlabel="false positive rate", ylabel="true positive rate")
panels[0, 1].legend(frameon=False, fontsize=7)
tidy(panels[0, 1], "ROC of the ten largest classes (area)")
shown = np.argsort(np.nan_to_num(recall, nan=2))[:20]
panels[1, 0].barh(np.arange(len(shown)) - 0.2, recall[shown], 0.38, label="recall")
panels[1, 0].barh(np.arange(len(shown)) + 0.2, precision[shown], 0.38, label="precision")
panels[1, 0].set_yticks(np.arange(len(shown)), [names[place][:18] for place in shown], fontsize=7)
panels[1, 0].invert_yaxis()
panels[1, 0].set_xlim(0, 1)
panels[1, 0].margins(y=0.15)
panels[1, 0].legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
tidy(panels[1, 0], "Recall and precision, lowest recall first")
bins = np.linspace(0, 1, 21)
correct = predicted == targets
panels[1, 1].hist([confidence[correct], confidence[~correct]], bins, stacked=True, label=["correct", "misclassified"])
panels[1, 1].set(xlabel="confidence", ylabel="images")
panels[1, 1].legend(frameon=False, fontsize=8)
tidy(panels[1, 1], "Confidence")
print(save(figure, "best_model_analysis.png"))

# %% [markdown]
# ## Its weights
#
# A PyTorch state_dict, which `train model.weights=FILE` starts from. Deploy `model.onnx` or `pipeline.onnx` of its run
# folder instead.

# %%
weights = FOLDER / f"best_model_{best}.pth"
torch.save(load_file(runs[best].folder / "model.safetensors"), weights)
print(weights)
