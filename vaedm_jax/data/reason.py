"""Other people's exceptions in the one line that a UserError has room for."""


def reason(error: BaseException) -> str:
    """The first line of an exception's message, or else its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":")
