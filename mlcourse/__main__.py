"""`python -m mlcourse` is the command `mlcourse`."""

from mlcourse.commands import app

app(prog_name="mlcourse")
