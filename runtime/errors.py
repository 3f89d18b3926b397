"""The one exception that means: the job asks for something that cannot be done, and trying again will not help."""


class BadInputError(Exception):
    """What was expected, what came and what to do, in one sentence. The rank ends with exit code 2, not restarted."""
