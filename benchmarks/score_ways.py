"""The ways to label a folder of photos that score.py compares, each in a process of its own.

    python benchmarks/score_ways.py WAY TASK.json ANSWERS.json

A way imports what it needs, loads its model, and gives a function that labels the photos; only that function is timed.
Imports are inside the functions, so that no way pays at its start for what another one needs.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

BATCH_SIZE: Final = 32  # of the ways whose documentation names none
HUGGING_FACE_BATCH: Final = 16
BARE_BATCH: Final = 16  # past 8 a model call gains nothing on a CPU


@dataclasses.dataclass(frozen=True)
class Task:
    """The photos, and one model in every form that a way may want."""

    files: list[str]
    """Photos, all in one folder; answers come in this order."""
    class_names: list[str]
    size: int
    """Side of the model's input, px; both sides of a photo are stretched to it where a way can."""
    mean: list[float]
    std: list[float]
    cores: int
    float_onnx: str
    """catdog's: uint8 (N, size, size, 3), normalisation inside."""
    int8_onnx: str
    """The same, quantized."""
    weights: str
    """safetensors in torchvision's names."""
    hub_folder: str
    """config.json and model.safetensors as timm writes them for the Hugging Face hub."""
    yolo_onnx: str
    """float32 (N, 3, size, size) in [0, 1], with the metadata of an Ultralytics export."""

    @property
    def folder(self) -> str:
        """Where the photos are."""
        return str(Path(self.files[0]).parent)


Labelling = Callable[[], Iterable[int]]
"""Class indices of the photos, in their order."""


def bare(task: Task, model: str) -> Labelling:
    """The model alone on pixels in memory: one session that uses all cores."""
    pixels = _all_pixels(task, model)
    run = _session(model, task.cores)
    run(pixels[:BARE_BATCH])
    return lambda: run(pixels)


def bare_processes(task: Task, model: str) -> Labelling:
    """The model alone on pixels in memory: a process with a session of one thread for every core."""
    pixels = _all_pixels(task, model)
    fork = multiprocessing.get_context("fork")
    bounds = [len(pixels) * core // task.cores for core in range(task.cores + 1)]
    pipes = []
    for first, end in pairwise(bounds):
        ours, theirs = fork.Pipe()
        fork.Process(target=_serve_pixels, args=(theirs, pixels[first:end], model), daemon=True).start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()  # ready

    def classify() -> Iterator[int]:
        for pipe in pipes:
            pipe.send("go")
        for pipe in pipes:
            yield from pipe.recv()

    return classify


def _serve_pixels(pipe: Any, pixels: Any, model: str) -> None:
    run = _session(model, 1)
    run(pixels[:BARE_BATCH])
    pipe.send("ready")
    pipe.recv()
    pipe.send(run(pixels))


def _all_pixels(task: Task, model: str) -> Any:
    """uint8 (N, size, size, 3), as catdog decodes."""
    import numpy as np

    from catdog.classifier import Classifier
    from catdog.image import load_pixels

    contract = Classifier(model).contract
    return np.stack([load_pixels(file, contract) for file in task.files])


def _session(model: str, threads: int) -> Callable[[Any], list[int]]:
    """Pixels -> class indices, in batches, ONNX Runtime's own choices but for the threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(pixels: Any) -> list[int]:
        indices: list[int] = []
        for start in range(0, len(pixels), BARE_BATCH):
            (rows,) = session.run(["probabilities"], {"image": pixels[start : start + BARE_BATCH]})
            indices += rows.argmax(1).tolist()
        return indices

    return run


def naive(task: Task, model: str) -> Labelling:
    """What everybody writes first: open, resize, run, one photo after the other."""
    import numpy as np
    import onnxruntime as ort
    from PIL import Image

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])

    def classify() -> Iterator[int]:
        for file in task.files:
            image = Image.open(file).convert("RGB").resize((task.size, task.size), Image.Resampling.BILINEAR)
            (rows,) = session.run(["probabilities"], {"image": np.asarray(image)[None]})
            yield int(rows[0].argmax())

    return classify


class Photos:
    """A PyTorch dataset over files, read as torchvision's ImageFolder reads them."""

    def __init__(self, files: list[str], transform: Callable[[Any], Any]) -> None:
        from torchvision.datasets.folder import default_loader

        self.files, self.transform, self.open = files, transform, default_loader

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.open(self.files[index]))


def torchvision(task: Task) -> Labelling:
    """torchvision's network and transforms, PyTorch's DataLoader with a process for every core."""
    import torch
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader
    from torchvision.models import resnet18
    from torchvision.transforms import v2

    network = resnet18(num_classes=len(task.class_names))
    network.load_state_dict(load_file(task.weights))
    network.eval().to(memory_format=torch.channels_last)
    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize((task.size, task.size), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(task.mean, task.std),
        ]
    )
    loader: Any = DataLoader(Photos(task.files, transform), BATCH_SIZE, num_workers=task.cores)  # type: ignore[arg-type]

    def classify() -> Iterator[int]:
        with torch.inference_mode():
            for images in loader:
                yield from network(images.to(memory_format=torch.channels_last)).argmax(1).tolist()

    return classify


def timm(task: Task) -> Labelling:
    """timm's inference.py: its data configuration, dataset, loader and network."""
    import timm
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config

    network = timm.create_model(f"local-dir:{task.hub_folder}", pretrained=True).eval()
    network = network.to(memory_format=torch.channels_last)
    config = resolve_data_config({}, model=network)
    dataset = create_dataset("", root=task.folder)
    names: list[str] = dataset.filenames(basename=True)
    loader = create_loader(
        dataset, batch_size=BATCH_SIZE, num_workers=task.cores, device=torch.device("cpu"),
        **{key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")},
    )  # fmt: skip

    def classify() -> Iterable[int]:
        indices: list[int] = []
        with torch.inference_mode():
            for images, _ in loader:
                indices += network(images.to(memory_format=torch.channels_last)).argmax(1).tolist()
        return _in_order(task, dict(zip(names, indices, strict=True)))

    return classify


def hugging_face(task: Task) -> Labelling:
    """transformers' pipeline over a list of files, timm's network inside, its own image processor."""
    from transformers import pipeline  # type: ignore[import-not-found,unused-ignore]

    classifier = pipeline("image-classification", model=task.hub_folder, device="cpu")
    classifier.model.eval()

    def classify() -> Iterator[int]:
        for answer in classifier(task.files, batch_size=HUGGING_FACE_BATCH, top_k=1):
            yield task.class_names.index(answer[0]["label"])

    return classify


def fastai(task: Task) -> Labelling:
    """fastai's Learner: ``test_dl`` and ``get_preds``."""
    from fastai.vision import all as fast
    from safetensors.torch import load_file
    from torchvision.models import resnet18

    few = [Path(file) for file in task.files[:2]]  # a Learner wants training photos; none is read
    loaders = fast.ImageDataLoaders.from_lists(
        task.folder, few, task.class_names[:2], valid_pct=0.5, seed=0, num_workers=task.cores,
        item_tfms=fast.Resize(task.size, fast.ResizeMethod.Squish),
        batch_tfms=fast.Normalize.from_stats(task.mean, task.std), device="cpu",
    )  # fmt: skip
    network = resnet18(num_classes=len(task.class_names))
    network.load_state_dict(load_file(task.weights))
    learner = fast.Learner(loaders, network, fast.CrossEntropyLossFlat())

    def classify() -> Iterable[int]:
        with learner.no_bar(), learner.no_logging():
            rows, _ = learner.get_preds(dl=learner.dls.test_dl([Path(file) for file in task.files]))
        indices: list[int] = rows.argmax(1).tolist()
        return indices

    return classify


def ultralytics(task: Task) -> Labelling:
    """Ultralytics' predict over a folder, on ONNX Runtime, the fastest that it has for a CPU without more packages."""
    from ultralytics import YOLO  # type: ignore[import-not-found,unused-ignore]

    model = YOLO(task.yolo_onnx, task="classify")
    options = {"imgsz": task.size, "device": "cpu", "stream": True, "save": False, "verbose": False}
    list(model.predict(task.files[0], **options))  # it opens the model at the first photo

    def classify() -> Iterable[int]:
        answers = model.predict(task.folder, **options)
        return _in_order(task, {Path(answer.path).name: int(answer.probs.top1) for answer in answers})

    return classify


def _in_order(task: Task, indices: dict[str, int]) -> list[int]:
    """The answers by file name, in the order of the photos."""
    return [indices[Path(file).name] for file in task.files]


def _with_model(way: Callable[[Task, str], Labelling], kind: str) -> Callable[[Task], Labelling]:
    return lambda task: way(task, getattr(task, f"{kind}_onnx"))


WAYS: Final[dict[str, Callable[[Task], Labelling]]] = {
    **{f"bare model, {kind}, one session": _with_model(bare, kind) for kind in ("int8", "float")},
    **{f"bare model, {kind}, a process a core": _with_model(bare_processes, kind) for kind in ("int8", "float")},
    **{f"naive loop, {kind}": _with_model(naive, kind) for kind in ("int8", "float")},
    "torchvision": torchvision,
    "timm": timm,
    "Hugging Face": hugging_face,
    "fastai": fastai,
    "Ultralytics": ultralytics,
}


def main() -> None:
    name, task_file, answers_file = sys.argv[1:]
    task = Task(**json.loads(Path(task_file).read_text()))
    classify = WAYS[name](task)
    begin = time.perf_counter()
    indices = list(classify())
    seconds = time.perf_counter() - begin
    assert len(indices) == len(task.files)
    labels = [task.class_names[index] for index in indices]
    Path(answers_file).write_text(json.dumps({"seconds": seconds, "labels": labels}))


if __name__ == "__main__":
    main()
