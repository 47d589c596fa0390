"""The messages of exceptions of other libraries, shortened to fit into the one line of a UserError."""


def reason(error: BaseException) -> str:
    """Return the first line of the message of an exception, or its type if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":")
