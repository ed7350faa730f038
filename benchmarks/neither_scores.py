"""Which score tells photos without a pet best: the class "neither", or what others compute from a classifier of pets.

    python benchmarks/neither_scores.py DATA MODEL.onnx [MORE.onnx]

DATA: the dataset of docs/model_card.md, whose photos without a pet are of kinds that training never showed. MODEL: the
embedded file, or one that knows cats and dogs alone; each is asked by ONNX Runtime, as it ships. For each score: the
area under the ROC curve (pets against the others), and the share of others that pass where 95% of pets do, on the test
split, animals ("near") and the rest ("far") apart. Scores of the cat's and the dog's logits, z, and of the pooled
features, f, all the higher the more it looks like a pet:

- class: 1 - p(neither), of files that have this class.
- max softmax: the larger p of cat and dog alone (Hendrycks & Gimpel 2017, arXiv:1610.02136).
- max logit: max z (Hendrycks et al. 2022, arXiv:1911.11132).
- energy: log(sum(exp(z))) (Liu et al. 2020, arXiv:2010.03759).
- KNN: minus the distance of f / |f| to its 50th neighbour among training pets (Sun et al. 2022, arXiv:2204.06507).
- fDBD: the distance of f to the border between cat and dog, over its distance to the training pets' mean (Liu & Qin
  2024, arXiv:2312.11536).
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from outliers import ANIMALS
from torchmetrics.functional.classification import binary_auroc

from catdog.contract import METADATA_KEY, Contract
from catdog.dataset import Manifest, Photo
from catdog.progress import show_progress
from catdog.training.model import load_batches

Floats = npt.NDArray[np.float32]
NEAR = ANIMALS | {"cougar_body", "hedgehog", "kangaroo", "panda"}
TRAINING_PETS, NEIGHBOURS = 5000, 50


class Answers(NamedTuple):
    """What a model says of N photos."""

    features: Floats
    """float32 (N, F), pooled."""
    logits: Floats
    """float32 (N, C)."""


def answer(file: str, manifest: Manifest, photos: list[Photo]) -> Answers:
    """Run a file of catdog's own, with its last features and its logits as outputs."""
    model = onnx.load(file)
    contract = Contract.from_json(next(p.value for p in model.metadata_props if p.key == METADATA_KEY))
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    last = [name for node in model.graph.node for name in node.output if "layer4.1/relu_1/Relu_output_0" in name][-1]
    del model.graph.output[:]
    for name in (last, softmax.input[0]):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString())
    features, logits = [], []
    with show_progress(f"{Path(file).name}: answered") as progress:
        for images in load_batches([manifest.root / photo.path for photo in photos], contract):
            maps, rows = session.run(None, {"image": images})
            features.append(maps.mean((2, 3)))
            logits.append(rows * contract.temperature)
            progress(sum(map(len, logits)), len(photos))
    return Answers(np.concatenate(features), np.concatenate(logits))


def score(trained: Answers, asked: Answers) -> dict[str, Floats]:
    """Return each score of the photos that were asked, (N,); ``trained``: the training pets."""
    pets = asked.logits[:, :2]
    unit = trained.features / np.linalg.norm(trained.features, axis=1, keepdims=True)
    mine = asked.features / np.linalg.norm(asked.features, axis=1, keepdims=True)
    likeness = np.sort(mine @ unit.T, axis=1)[:, -NEIGHBOURS]
    # The last layer, from what it made of the training pets: it is linear.
    ones = np.ones((len(trained.features), 1), np.float32)
    weights = np.linalg.lstsq(np.hstack([trained.features, ones]), trained.logits[:, :2], rcond=None)[0][:-1]
    border = np.abs(pets[:, 0] - pets[:, 1]) / np.linalg.norm(weights[:, 0] - weights[:, 1])
    scores = {
        "max softmax": 1 / (1 + np.exp(-np.abs(pets[:, 0] - pets[:, 1]))),
        "max logit": pets.max(1),
        "energy": np.logaddexp(pets[:, 0], pets[:, 1]),
        "KNN": -np.sqrt(np.maximum(0, 2 - 2 * likeness)),
        "fDBD": border / np.linalg.norm(asked.features - trained.features.mean(0), axis=1),
    }
    if asked.logits.shape[1] > 2:
        scores = {"class": np.logaddexp(pets[:, 0], pets[:, 1]) - asked.logits[:, 2]} | scores
    return scores


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    manifest = Manifest.read(sys.argv[1])
    trained_on = [photo for photo in manifest.of("train") if photo.label != "neither"]
    trained_on = random.Random(0).sample(trained_on, min(TRAINING_PETS, len(trained_on)))
    asked = manifest.of("test")
    kinds = np.array(["pet" if photo.label != "neither" else find_kind(photo) for photo in asked])
    print(f"{(kinds == 'pet').sum()} pets, {(kinds == 'near').sum()} near, {(kinds == 'far').sum()} far\n")
    print("| model | score | AUROC near | far | passes at 95% of pets: near | far |")
    print("| --- | --- | --- | --- | --- | --- |")
    for file in sys.argv[2:]:
        scores = score(answer(file, manifest, trained_on), answer(file, manifest, asked))
        for name, values in scores.items():
            figures = [measure(values[kinds == "pet"], values[kinds == kind]) for kind in ("near", "far")]
            (near, near_pass), (far, far_pass) = figures
            print(f"| {Path(file).name} | {name} | {near:.4f} | {far:.4f} | {near_pass:.1%} | {far_pass:.1%} |")


def find_kind(photo: Photo) -> str:
    """Return "near" for an animal, else "far", by the category that ``benchmarks/outliers.py`` put into the name."""
    return "near" if Path(photo.path).name.rpartition("_image_")[0] in NEAR else "far"


def measure(pets: Floats, others: Floats) -> tuple[float, float]:
    """Return the area under the ROC curve, and the share of others that pass where 95% of pets do."""
    values = torch.from_numpy(np.argsort(np.argsort(np.concatenate([pets, others]))) / (len(pets) + len(others)))
    truth = torch.cat([torch.ones(len(pets)), torch.zeros(len(others))]).long()
    return float(binary_auroc(values, truth)), float((others >= np.quantile(pets, 0.05)).mean())


if __name__ == "__main__":
    main()
