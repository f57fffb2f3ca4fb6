"""The one error that the course raises on purpose."""


class CourseError(ValueError):
    """Bad input. The message is one line that names the value and the remedy; commands print it without a traceback."""
