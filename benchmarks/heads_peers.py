"""catdog's detector beside others that learn from the same photos, on the same cores, for as long, measured alike.

    python benchmarks/heads_peers.py HEADS [--epochs 24] [--ultralytics FOLDER] [--ways A,B] [--seconds 562]

HEADS: a dataset folder of photos with boxes. catdog trains first, for so many epochs, then each of the others for the
seconds that this took (or for ``--seconds``; then ``--ways``, parts of names, may leave catdog out): torchvision's
Faster R-CNN on a ResNet-18 that starts from the same weights, torchvision's SSDlite (MobileNetV3) and, with a folder
in which ``pip install --target FOLDER --no-deps ultralytics ultralytics-thop opencv-python-headless`` put it,
Ultralytics' YOLO11n, both from scratch, since nothing here has weights for them. All see the photos letterboxed to
320 px; the two ResNets train on crops of 256 px. torchvision's two get catdog's augmentation and their own references'
learning rates, Ultralytics has its own of both. Faster R-CNN learns from 64 regions a photo instead of 512, since these
photos have one pet each, and sees more of them so. Average precisions are COCO's on the test photos, intervals a
bootstrap over photos; the threshold is fitted for each on validation photos, as catdog does it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from catdog.boxes import Box
from catdog.contract import Contract
from catdog.dataset import Manifest, Photo
from catdog.dataset.manifest import PETS
from catdog.detection.decoding import DetectedObject, map_to_photo
from catdog.image import load_pixels, load_sized_pixels
from catdog.training.boxes import scale_targets
from catdog.training.data import load_photos, make_training_batches, read_batches
from catdog.training.detection import SCORE_FLOOR, Objects, find_in_photos, fit_box_threshold, measure_boxes
from catdog.training.model import load_checkpoint, read_weights
from catdog.training.processes import Shard, choose_precision
from catdog.training.settings import Settings, resolve
from catdog.training.tasks import Detect

SIZE, TRAIN_SIZE = 320, 256
Propose = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Letterboxed pixels uint8 (320, 320, 3) -> boxes (N, 4), px of them, scores (N,) and classes (N,) of PETS."""

TRAIN_YOLO = """
import sys
sys.path.insert(0, sys.argv[1])
from ultralytics import YOLO
YOLO("yolo11n.yaml").train(data=sys.argv[2], imgsz=int(sys.argv[3]), time=float(sys.argv[4]) / 3600, batch=16,
                           project=sys.argv[5], name="run", device="cpu", workers=0, plots=False, patience=0)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads")
    parser.add_argument("--epochs", type=int, default=24, help="of catdog's training")
    parser.add_argument("--ultralytics", help="the folder with Ultralytics' package")
    parser.add_argument("--ways", default="", metavar="A,B", help="of all; by any part of their names")
    parser.add_argument("--seconds", type=float, help="how long the others train; needed without catdog")
    parser.add_argument(
        "--weights", default="models/embedded/model.safetensors", help="catdog's and Faster R-CNN's start"
    )
    arguments = parser.parse_args()
    manifest = Manifest.read(arguments.heads)
    photos = {split: Detect().choose_photos(manifest, split) for split in ("val", "test")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ways = [part.strip().lower() for part in arguments.ways.split(",")]
        seconds = arguments.seconds
        name = "catdog, ResNet-18"
        if any(part in name.lower() for part in ways):
            begin = time.monotonic()
            found = train_catdog(arguments, manifest, photos, folder / "catdog")
            taken = time.monotonic() - begin
            seconds = seconds or taken
            report(name, found, photos, taken)
        if not seconds:
            parser.error("--ways without catdog: needs --seconds")
        peers: dict[str, Callable[[], Propose]] = {
            "torchvision Faster R-CNN, ResNet-18": lambda: train_torchvision(
                new_faster_rcnn(arguments.weights), TRAIN_SIZE, 0.01, 8, manifest, arguments.heads, seconds
            ),
            "torchvision SSDlite, from scratch": lambda: train_torchvision(
                ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1 + len(PETS)),
                SIZE, 0.0125, 16, manifest, arguments.heads, seconds,
            ),
        }  # fmt: skip
        if arguments.ultralytics:
            peers["Ultralytics YOLO11n, from scratch"] = lambda: train_yolo(
                arguments.ultralytics, manifest, folder / "yolo", seconds
            )
        for name, train in peers.items():
            if not any(part in name.lower() for part in ways):
                continue
            begin = time.monotonic()
            propose = train()
            taken = time.monotonic() - begin
            report(name, {split: find_all(propose, manifest, photos[split]) for split in photos}, photos, taken)


def train_catdog(
    arguments: argparse.Namespace, manifest: Manifest, photos: dict[str, list[Photo]], out: Path
) -> dict[str, list[Objects]]:
    """Train by the command that everybody uses, and return what the run finds in each split's photos."""
    command = [
        sys.executable, "-m", "catdog", "train", "--task", "detect", "--data", arguments.heads, "--output", str(out),
        "--weights", arguments.weights, "--size", str(SIZE), "--train-size", str(TRAIN_SIZE),
        "--trainable-from", "layer3", "--frozen-epochs", "1", "--epochs", str(arguments.epochs),
        "--ema", "0.995", "--export", "False",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=sys.stderr)
    model: Any = load_checkpoint(out)
    return {
        split: find_in_photos(model.eval(), [manifest.root / photo.path for photo in chosen])
        for split, chosen in photos.items()
    }


def new_faster_rcnn(weights: str) -> nn.Module:
    """Return Faster R-CNN with a feature pyramid on a ResNet-18 that knows cats and dogs; its stem and layer1 stay."""
    from torchvision.models import resnet18

    backbone = resnet18(norm_layer=FrozenBatchNorm2d)
    given = {name: tensor for name, tensor in read_weights(weights).items() if not name.startswith("fc.")}
    missing, _ = backbone.load_state_dict(given, strict=False)
    assert all(name.startswith("fc.") for name in missing), missing
    detector: nn.Module = FasterRCNN(
        _resnet_fpn_extractor(backbone, 3), num_classes=1 + len(PETS), min_size=SIZE, max_size=SIZE,
        box_score_thresh=SCORE_FLOOR, rpn_pre_nms_top_n_train=512, rpn_post_nms_top_n_train=256,
        rpn_post_nms_top_n_test=256, box_batch_size_per_image=64,
    )  # fmt: skip
    return detector


def train_torchvision(
    model: Any, train_size: int, lr: float, batch_size: int, manifest: Manifest, data: str, seconds: float
) -> Propose:
    """Train one of torchvision's detectors by SGD with a cosine over the given time, on catdog's augmented photos."""
    given = {"task": "detect", "data": data, "output": "unused", "size": SIZE}
    settings = resolve(given | {"train_size": train_size, "batch_size": batch_size})
    before = model.transform.min_size, model.transform.max_size
    model.transform.min_size, model.transform.max_size = (train_size,), train_size
    contract = Contract(class_names=PETS, input_size=settings.canvas_size, resize="letterbox", task="detect")
    examples = load_photos(manifest, "train", contract, settings)
    autocast_backbone(model, settings)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr, 0.9, weight_decay=1e-4)
    torch.manual_seed(0)
    model.train()
    begin, epoch = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        batches = make_training_batches(len(examples), batch_size, 0, epoch, Shard())
        for images, targets in read_batches(examples, batches, settings, torch.device("cpu")):
            done = (time.monotonic() - begin) / seconds
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, done * 50 + 0.02) * 0.5 * (1 + np.cos(np.pi * done))
            pixels, boxes = Detect().augment(images, targets, settings)
            losses = model(list(pixels / 255), [describe(row) for row in scale_targets(boxes, train_size)])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
        epoch += 1
    print(f"  {epoch} epochs", file=sys.stderr)
    model.transform.min_size, model.transform.max_size = before
    model.eval()

    def propose(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with torch.inference_mode():
            (found,) = model([torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255])
        return found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy() - 1

    return propose


def autocast_backbone(model: Any, settings: Settings) -> None:
    """Let the backbone compute as catdog's does on this machine: in bf16 where that is faster."""
    if choose_precision(settings, "cpu") != "bf16-mixed":
        return
    forward = model.backbone.forward

    def faster(images: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
            features = forward(images.contiguous(memory_format=torch.channels_last))
        return type(features)((name, level.float()) for name, level in features.items())

    model.backbone.forward = faster


def describe(rows: Tensor) -> dict[str, Tensor]:
    """Return a photo's targets (M, 5), px, as torchvision takes them: class 0 is the background."""
    real = rows[rows[:, 0] >= 0]
    return {"boxes": real[:, 1:], "labels": real[:, 0].long() + 1}


def train_yolo(package: str, manifest: Manifest, folder: Path, seconds: float) -> Propose:
    """Train Ultralytics' smallest model as its own command does it, for the given time."""
    contract = Contract(class_names=PETS, input_size=SIZE, resize="letterbox", task="detect")
    for split in ("train", "val"):
        chosen = Detect().choose_photos(manifest, split)
        targets = Detect().make_targets(chosen, contract)
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i, (photo, rows) in enumerate(zip(chosen, targets, strict=True)):
            Image.fromarray(load_pixels(manifest.root / photo.path, contract)).save(
                folder / "images" / split / f"{i}.jpg", quality=95
            )
            lines = [
                f"{int(c)} {(x0 + x1) / 2} {(y0 + y1) / 2} {x1 - x0} {y1 - y0}\n"
                for c, x0, y0, x1, y1 in rows
                if c >= 0
            ]
            (folder / "labels" / split / f"{i}.txt").write_text("".join(lines))
    names = dict(enumerate(PETS))
    (folder / "data.yaml").write_text(
        json.dumps({"path": str(folder), "train": "images/train", "val": "images/val", "names": names})
    )
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder)}
    where = [str(Path(package).resolve()), str(folder / "data.yaml"), str(SIZE), str(seconds), str(folder)]
    subprocess.run([sys.executable, "-c", TRAIN_YOLO, *where], cwd=folder, check=True, stdout=sys.stderr)
    sys.path.append(str(Path(package).resolve()))
    from ultralytics import YOLO  # type: ignore[import-not-found]

    model = YOLO(shutil.copy(folder / "run/weights/best.pt", folder / "best.pt"))

    def propose(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (answer,) = model.predict(pixels[..., ::-1], imgsz=SIZE, conf=SCORE_FLOOR, verbose=False, device="cpu")
        boxes = answer.boxes
        return boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy()

    return propose


def find_all(propose: Propose, manifest: Manifest, photos: list[Photo]) -> list[Objects]:
    """Return what is found in each photo, px of the upright photo."""
    contract = Contract(class_names=PETS, input_size=SIZE, resize="letterbox", task="detect")
    return [tuple(_list_objects(propose, manifest.root / photo.path, contract)) for photo in photos]


def _list_objects(propose: Propose, path: Path, contract: Contract) -> Iterator[DetectedObject]:
    pixels, size = load_sized_pixels(path, contract)
    boxes, scores, classes = propose(pixels)
    corners = map_to_photo(boxes, size, contract)
    limits = np.array([*size, *size], float)
    for i in np.argsort(-scores, kind="stable"):
        sides = [float(side) for side in np.clip(corners[i], 0, limits)]
        if scores[i] >= SCORE_FLOOR and sides[0] < sides[2] and sides[1] < sides[3]:
            yield DetectedObject(float(scores[i]), Box(PETS[int(classes[i])], *sides))


def report(name: str, found: dict[str, list[Objects]], photos: dict[str, list[Photo]], seconds: float) -> None:
    """Print a line of measures on the test photos."""
    threshold = fit_box_threshold(found["val"], photos["val"])
    measured = measure_boxes(found["test"], photos["test"], PETS, threshold)
    at, spans = measured["at_threshold"], measured["intervals"]
    precisions = "  ".join(
        f"{key.upper()} {measured[key]:.3f} ({spans[key][0]:.3f} to {spans[key][1]:.3f})"
        for key in ("ap", "ap50", "ap75")
    )
    print(
        f"{name:36} {seconds:5.0f} s  {precisions}  at {threshold:.2f}: {at['found_heads']} of {at['heads']} heads, "
        f"a box on {at['empty_with_boxes']} of {at['empty_photos']} photos without a pet",
        flush=True,
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)
    main()
