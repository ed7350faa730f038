"""The containers that jobs and endpoints run in: their addresses, and until when AWS patches them.

find_training_image("us-east-1", "ml.g4dn.xlarge", "2.14")   -> 763104351884.dkr.ecr.us-east-1.amazonaws.com/...
has_serving_toolkit(image)                                   whether it calls inference.py, or is catdog's own
tell_support(image, date.today())                            "...: AWS patched it until 2026-06-30; ...", True
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from catdog.aws.instances import has_gpu
from catdog.errors import SettingsError
from catdog.support import INFERENCE, TRAINING, Container

_REGISTRY: Final = "763104351884"
_OTHER_REGISTRIES: Final = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-east-2": "975050140332",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ap-southeast-5": "550225433462",
    "ap-southeast-6": "633930458069",
    "ap-southeast-7": "590183813437",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "mx-central-1": "637423239942",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
}
"""AWS's accounts whose registries hold its containers, where it isn't _REGISTRY; a test compares the SDK's list."""
_IMAGE: Final = re.compile(
    r"[a-z0-9][a-z0-9.-]*\.[a-z]+(:\d+)?/(?P<name>[a-z0-9._/-]+)(:[\w.-]{1,128})?(@sha256:[0-9a-f]{64})?"
)


def find_training_image(region: str, instance_type: str, version: str) -> str:
    """Return the address of AWS's PyTorch training container of a version in ``catdog.support.TRAINING``."""
    return _locate(TRAINING[version], region, instance_type)


def find_inference_image(region: str, instance_type: str) -> str:
    """Return the address of AWS's PyTorch inference container."""
    return _locate(INFERENCE, region, instance_type)


def check_image(image: str) -> str:
    """Return a container's address if it has the form of one; raises SettingsError."""
    if not _IMAGE.fullmatch(image):
        raise SettingsError(
            f"--image {image}: not a container's full address, such as "
            "123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1"
        )
    return image


def has_serving_toolkit(image: str) -> bool:
    """Return whether a container is AWS's PyTorch inference one, told by its repository's name, not catdog's own."""
    return _find_repository(image) == INFERENCE.repository


def is_aws_inference(image: str) -> bool:
    """Return whether a container is AWS's PyTorch inference one in a registry of AWS's, not somebody's copy."""
    return has_serving_toolkit(image) and image.partition(".")[0] in (_REGISTRY, *_OTHER_REGISTRIES.values())


def tell_support(image: str, today: date) -> tuple[str, bool]:
    """Return a line on until when AWS patches a container, and whether that is over; "" and False for other ones."""
    tag = image.rpartition(":")[2]
    known = [c for c in (INFERENCE, *TRAINING.values()) if c.repository == _find_repository(image)]
    container = next((c for c in known if tag in (c.gpu_tag, c.cpu_tag)), None)
    if container is None:
        return "", False
    name = f"{container.repository}:{tag}"
    if today <= container.last_day:
        return f"{name}: AWS patches it until {container.last_day}", False
    instead = "catdog's own image (catdog aws image, deploy --image)" if container is INFERENCE else "a newer version"
    return f"{name}: AWS patched it until {container.last_day}; {instead} replaces it", True


def _find_repository(image: str) -> str:
    """Return the last part of the repository's name, which a copy in another registry keeps."""
    found = _IMAGE.fullmatch(image)
    return found["name"].rpartition("/")[2] if found else ""


def _locate(container: Container, region: str, instance_type: str) -> str:
    registry = f"{_OTHER_REGISTRIES.get(region, _REGISTRY)}.dkr.ecr.{region}"
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    tag = container.gpu_tag if has_gpu(instance_type) else container.cpu_tag
    return f"{registry}.{domain}/{container.repository}:{tag}"
