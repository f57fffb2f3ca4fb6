"""Which device computes."""

import torch

from mlcourse.errors import CourseError


def pick(name: str = "auto") -> torch.device:
    """Return the device for `name`: "auto" (CUDA when it is there, else the CPU), "cpu", "cuda" or "cuda:1".

    Raises CourseError for another name, or for CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and name != "cuda" and not name.startswith("cuda:"):
        raise CourseError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N")
    if name != "cpu" and not torch.cuda.is_available():
        raise CourseError(f"device {name!r} was asked for, but PyTorch finds no CUDA GPU; use --device cpu or auto")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CourseError(f"device {name!r} is not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CourseError(f"device {name!r} does not exist; this machine has {torch.cuda.device_count()} CUDA GPU(s)")
    return device
