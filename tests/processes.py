"""What tests ask of other processes, which may end while they are asked."""

import psutil


def name_of(process: psutil.Process) -> str:
    """The name of its program; "" where it has ended, or waits to be collected."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; [] where it has ended, or waits to be collected."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
