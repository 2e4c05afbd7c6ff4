"""Why a simulated device cannot be made."""


class CannotSimulate(Exception):
    """Something that the simulated device needs is missing. The message is one line for its user."""
