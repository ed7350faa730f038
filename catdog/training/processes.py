"""The processes that train together: one alone, or those of torchrun, also on several machines."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from catdog.errors import SettingsError, TrainingError
from catdog.text import first_line
from catdog.training.history import say
from catdog.training.settings import Settings

TIMEOUT = timedelta(hours=2)  # how long the others wait while one downloads weights or decodes photos


class Shard(NamedTuple):
    """Which of the processes that train together this is."""

    rank: int = 0
    world: int = 1


def start_processes(settings: Settings) -> Fabric:
    """Join the other processes where torchrun started several, and return what they work through.

    Raises SettingsError when the settings ask for a GPU that isn't there, or photos can't be shared out evenly.
    """
    cuda = settings.device != "cpu" and torch.cuda.is_available()
    if settings.device == "gpu" and not cuda:
        raise SettingsError("--device gpu: torch finds no GPU here; give --device cpu or auto")
    arguments: dict[str, Any] = {"devices": 1}
    if TorchElasticEnvironment.detect():
        world, local = int(os.environ["WORLD_SIZE"]), count_local_processes()
        if settings.batch_size % world:
            raise SettingsError(f"--batch-size {settings.batch_size}: must be a multiple of the {world} processes")
        if cuda and local > torch.cuda.device_count():
            raise SettingsError(
                f"torchrun started {local} processes for {torch.cuda.device_count()} GPUs; give one each"
            )
        strategy = DDPStrategy(timeout=TIMEOUT, gradient_as_bucket_view=True)
        arguments = {"devices": local, "num_nodes": world // local, "strategy": strategy}
    elif int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        raise SettingsError("several processes under mpirun: start them with torchrun (torch_distributed on SageMaker)")
    accelerator = "cuda" if cuda else "cpu"
    fabric = Fabric(accelerator=accelerator, precision=choose_precision(settings, accelerator), **arguments)
    fabric.launch()
    return fabric


def choose_precision(settings: Settings, accelerator: str) -> Any:
    """Return Lightning's precision flag: autocast where the hardware gains by it.

    On a CPU that is where it has AMX tiles, or AVX-512 BF16 by AMD: ResNet-18 at 160 px trained 1.84 times as fast in
    bf16 on an EPYC (torch 2.14, 2 cores), and 1.5 times slower on a Xeon without AMX (torch 2.11;
    ``benchmarks/precision.py``).
    """
    if not settings.amp:
        return "32-true"
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    cpuinfo = Path("/proc/cpuinfo")
    about = cpuinfo.read_text() if accelerator == "cpu" and cpuinfo.exists() else ""
    gains = "amx_bf16" in about or ("AuthenticAMD" in about and "avx512_bf16" in about)
    return "bf16-mixed" if gains else "32-true"


def is_first_process() -> bool:
    """Return whether this is the one process of the run that writes; known before the others are joined."""
    return os.environ.get("RANK", "0") == "0"


def count_local_processes() -> int:
    """Return how many processes of the run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def share_folder(fabric: Fabric, folder: Path) -> tuple[Path, Shard]:
    """Return the folder of the machine's first process, for all on it, and which of them this one is."""
    if fabric.world_size == 1:
        return folder, Shard()
    folders: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(folders, str(folder))
    return Path(folders[fabric.global_rank - fabric.local_rank]), Shard(fabric.local_rank, count_local_processes())


def sum_over_processes(fabric: Fabric, sums: Tensor) -> list[float]:
    """Return ``sums``, (n,), added up over all processes."""
    added = fabric.all_reduce(sums.clone(), reduce_op="sum")
    assert isinstance(added, Tensor)
    return [float(value) for value in added.tolist()]


def check_agreement(fabric: Fabric, what: str, mine: Any) -> None:
    """Raise SettingsError, naming ``what``, where the processes have different values; they would wait for ever."""
    if fabric.world_size > 1:
        all_of_them: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(all_of_them, mine)
        if any(other != mine for other in all_of_them):
            raise SettingsError(
                f"{what}: not the same on all machines ({all_of_them}); give all of them the same files"
            )


def say_first(fabric: Fabric, text: str) -> None:
    """Say something once, not once a process."""
    if fabric.global_rank == 0:
        say(text)


@contextmanager
def silence_lightning() -> Iterator[None]:
    """Hide Lightning's warnings, which don't apply here; what matters is an error or a line of ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        yield


@contextmanager
def explain_torch(settings: Settings) -> Iterator[None]:
    """Raise TrainingError for what torch raises where a setting asks too much of the machine."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"--batch-size {settings.batch_size}: the GPU's memory is full; give less of it, or of --train-size"
        ) from error
    except RuntimeError as error:
        if settings.compile and isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise TrainingError(
                f"--compile: torch can't compile the network here ({first_line(error)}); leave it out and go on"
            ) from error
        raise
