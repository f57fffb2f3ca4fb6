"""How the grader and a student's process speak: frames of JSON and tensors, never pickle, every size bounded.

A frame is two numbers (the bytes of its head and of its body, 4 bytes each), the head as JSON, the body as safetensors.
"""

import json
import struct
from typing import BinaryIO

LARGEST_HEAD = 4_000_000
LARGEST_BODY = 64 * 2**20
SIZES = struct.Struct("<II")


def write(stream: BinaryIO, head: dict, tensors: dict | None = None) -> None:
    """Write one frame. Raises ValueError for tensors that cannot be sent."""
    body = b""
    if tensors:
        from safetensors import SafetensorError
        from safetensors.torch import save

        try:
            body = save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})
        except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"its results cannot be passed on ({type(error).__name__}: {str(error)[:200]}).") from None
    if len(body) > LARGEST_BODY:
        raise ValueError(f"its results take {len(body) / 2**20:.0f} MiB, which is far more than the exercise asks for.")
    told = json.dumps(head).encode()
    frame = memoryview(SIZES.pack(len(told), len(body)) + told + body)
    while frame:
        frame = frame[stream.write(frame) or 0 :]
    stream.flush()


def read(stream: BinaryIO) -> tuple[dict, dict] | None:
    """Read one frame; None at the end of the stream. Raises ValueError for what is no frame."""
    sizes = _exactly(stream, SIZES.size)
    if sizes is None:
        return None
    head_size, body_size = SIZES.unpack(sizes)
    if head_size > LARGEST_HEAD or body_size > LARGEST_BODY:
        raise ValueError("a frame is too large")
    head, body = _exactly(stream, head_size), _exactly(stream, body_size)
    if head is None or body is None:
        raise ValueError("a frame is cut")
    try:
        told = json.loads(head)
    except RecursionError:
        raise ValueError("a frame is no JSON") from None
    if not isinstance(told, dict):
        raise ValueError("a frame is no JSON object")
    return told, _tensors(body)


def _tensors(body: bytes) -> dict:
    if not body:
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(body)
    except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"a frame holds no tensors ({type(error).__name__})") from None


def _exactly(stream: BinaryIO, size: int) -> bytes | None:
    """`size` bytes; None when the stream ends before."""
    parts = []
    while size:
        part = stream.read(min(size, 2**20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
