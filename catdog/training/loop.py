"""The training loop: what learns when, how fast, and what is written down after every epoch.

Lightning's Trainer runs it. Phase one trains what starts from scratch (the head, and tensors that a partial weight file
lacks) on a frozen backbone; phase two unfreezes the stages from ``trainable_from`` on, the earlier the slower.
"""

from __future__ import annotations

import csv
import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision.models import ResNet

from catdog.errors import TrainingError
from catdog.files import replace_file
from catdog.training.data import Batch
from catdog.training.model import ImageModel, stage_of
from catdog.training.settings import STAGES, Settings

REFERENCE_BATCH = 64  # photos; ``lr`` is given for it and scaled linearly (Goyal et al. 2017, section 2.1)


class FineTuning(L.LightningModule):
    """One ImageModel, its two phases, optimizer and per-epoch metrics."""

    def __init__(self, model: ImageModel, fresh: Iterable[str], settings: Settings, class_count: int) -> None:
        super().__init__()
        self.model = model
        self.fresh = frozenset(fresh)
        self.settings = settings
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.train_accuracy = MulticlassAccuracy(class_count, average="micro")
        self.val_accuracy = MulticlassAccuracy(class_count, average="micro")

    @property
    def network(self) -> ResNet:
        """The ResNet inside; its parameters carry torchvision's names."""
        return self.model.network

    def on_train_epoch_start(self) -> None:
        """Freeze or unfreeze for the phase that this epoch belongs to."""
        frozen_phase = self.current_epoch < self.settings.frozen_epochs
        learning = learning_tensors(self.network, self.fresh, None if frozen_phase else self.settings.trainable_from)
        freeze_all_but(self.network, learning)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Smoothed cross-entropy of one augmented batch."""
        images, labels = batch
        logits = self.model.logits(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {self.current_epoch + 1}, step {batch_index + 1}; "
                f"try a lower --lr (it is {self.settings.lr}) or --amp False"
            )
        self.train_loss.update(loss.detach())
        self.train_accuracy.update(logits.detach(), labels)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Plain cross-entropy and accuracy on photos as consumers see them."""
        images, labels = batch
        logits = self.model.logits(images).float()
        self.val_loss.update(F.cross_entropy(logits, labels), len(labels))
        self.val_accuracy.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics; ``val_score`` orders checkpoints: by accuracy, then by loss."""
        loss, accuracy = self.val_loss.compute(), self.val_accuracy.compute()
        self.log_dict({"val_loss": loss, "val_accuracy": accuracy, "val_score": accuracy - 1e-4 * loss})
        self.val_loss.reset()
        self.val_accuracy.reset()

    def configure_optimizers(self) -> Any:
        """One optimizer over all tensors (those frozen have no gradient and stay), one factor for all rates."""
        s = self.settings
        groups = parameter_groups(self.network, self.fresh, s)
        if s.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
        else:
            optimizer = torch.optim.AdamW(groups)
        total = int(self.trainer.estimated_stepping_batches)
        frozen = round(total * s.frozen_epochs / (s.frozen_epochs + s.epochs))
        factor = schedule(frozen, total - frozen, s.warmup, s.schedule)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def learning_tensors(network: nn.Module, fresh: frozenset[str], trainable_from: str | None) -> set[str]:
    """Names of the parameters that learn: all ``fresh`` ones, and those of stages from ``trainable_from`` on."""
    stages = STAGES[STAGES.index(trainable_from) :] if trainable_from else ()
    return {name for name, _ in network.named_parameters() if name in fresh or stage_of(name) in stages}


def freeze_all_but(network: nn.Module, learning: set[str]) -> None:
    """Only ``learning`` gets gradients; a batch norm that doesn't learn keeps its running statistics as well."""
    network.train()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in learning)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" not in learning:
            module.eval()


def parameter_groups(network: nn.Module, fresh: frozenset[str], settings: Settings) -> list[dict[str, Any]]:
    """Optimizer groups by learning rate and weight decay.

    Fresh tensors learn at ``lr``; pretrained ones of layer4 at ``lr * backbone_lr``, and each stage nearer to the input
    at ``stage_decay`` times that. Batch norms and biases have no decay (He et al. 2019, section 3.1).
    """
    peak = settings.lr * settings.batch_size / REFERENCE_BATCH
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        depth = max(0, STAGES.index("layer4") - STAGES.index(stage_of(name)))
        rate = peak if name in fresh else peak * settings.backbone_lr * settings.stage_decay**depth
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def schedule(frozen_steps: int, steps: int, warmup: float, kind: str) -> Callable[[int], float]:
    """Step -> factor on every learning rate, in [0, 1].

    Each phase warms up linearly over its first ``warmup`` share. Then the frozen phase stays at 1; the other falls to 0
    by half a cosine (Loshchilov & Hutter 2017) or, for one_cycle, linearly (Smith & Topin 2018).
    """

    def factor(step: int) -> float:
        frozen = step < frozen_steps
        position = step / frozen_steps if frozen else (step - frozen_steps) / max(1, steps)
        if position < warmup:
            return (position + 1e-2) / (warmup + 1e-2)
        if frozen:
            return 1.0
        rest = min(1.0, (position - warmup) / (1 - warmup))
        return 1 - rest if kind == "one_cycle" else (1 + math.cos(math.pi * rest)) / 2

    return factor


def precision(settings: Settings, accelerator: str) -> Any:
    """Lightning's precision flag: autocast where the hardware gains by it.

    On a CPU that is where it has AMX tiles: with AVX-512 BF16 alone, ResNet-18 at 160 px trained 1.5 times slower in
    bf16 than in float32 (torch 2.11, 2 cores; ``benchmarks/precision.py``).
    """
    if not settings.amp:
        return "32-true"
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    cpuinfo = Path("/proc/cpuinfo")
    amx = accelerator == "cpu" and cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()
    return "bf16-mixed" if amx else "32-true"


def keep_freed_memory() -> None:
    """Let glibc keep freed activations for the next step instead of giving them back to the kernel. No-op elsewhere.

    A step frees and asks again for hundreds of MB. With glibc's defaults that was 1.3 million page faults in ten steps
    ResNet-18 on a CPU, with these 0.28 million, and 10 to 20% of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # <malloc.h>
        mallopt(m_mmap_threshold, 2**30)
        mallopt(m_trim_threshold, 2**31 - 1)


class History(Callback):
    """After every epoch: a row in ``history.csv`` and a line of ``name=value`` metrics on stdout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._started = 0.0
        self._said = 0.0
        self._seen = 0

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = self._said = time.monotonic()
        self._seen = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A plain line of progress every 30 s where there is no terminal to draw a bar in."""
        self._seen += len(batch[0])
        now = time.monotonic()
        if now - self._said > 30 and not sys.stderr.isatty():
            self._said = now
            step = f"step {batch_idx + 1}/{trainer.num_training_batches}"
            say(f"epoch {trainer.current_epoch + 1}: {step}, {self._seen / (now - self._started):.0f} photos/s")

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write and print the epoch; Lightning has validated by now."""
        assert isinstance(module, FineTuning)
        seconds = time.monotonic() - self._started
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": module.train_loss.compute().item(),
            "train_accuracy": module.train_accuracy.compute().item(),
            "val_loss": trainer.callback_metrics["val_loss"].item(),
            "val_accuracy": trainer.callback_metrics["val_accuracy"].item(),
            "lr": max(group["lr"] for group in trainer.optimizers[0].param_groups),
            "photos_per_second": self._seen / seconds,
        }
        module.train_loss.reset()
        module.train_accuracy.reset()
        self.rows.append(row)
        with replace_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            writer.writeheader()
            writer.writerows(self.rows)
        sys.stdout.write(metric_line(row) + "\n")
        sys.stdout.flush()


def metric_line(values: dict[str, float]) -> str:
    """``epoch=1 train_loss=0.1234 ...``: the form that SageMaker's metric definitions parse."""
    return " ".join(f"{k}={v}" if isinstance(v, int) else f"{k}={v:.6g}" for k, v in values.items())


def say(text: str) -> None:
    """Talk, on stderr; stdout is for metric lines."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fit(
    module: FineTuning,
    train: DataLoader[Any],
    val: DataLoader[Any],
    history: History,
    checkpoints: Path,
) -> None:
    """Train, then put the tensors of the best epoch (highest validation accuracy, then lowest loss) into ``module``."""
    s = module.settings
    best = ModelCheckpoint(checkpoints, "best", monitor="val_score", mode="max", save_weights_only=True)
    callbacks: list[Callback] = [history, best]
    if s.patience:
        callbacks.append(EarlyStopping("val_loss", patience=s.patience, mode="min", check_finite=False))
    bar = sys.stderr.isatty()
    if bar:
        callbacks.append(TQDMProgressBar())
    trainer = L.Trainer(
        accelerator=s.device,
        devices=1,
        precision=precision(s, "cuda" if s.device != "cpu" and torch.cuda.is_available() else "cpu"),
        max_epochs=s.frozen_epochs + s.epochs,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic="warn",
        default_root_dir=checkpoints,
    )
    keep_freed_memory()
    trainer.fit(module, train, val)
    if trainer.interrupted:
        raise KeyboardInterrupt
    state = torch.load(best.best_model_path, weights_only=True, map_location="cpu")["state_dict"]
    module.load_state_dict(state)
