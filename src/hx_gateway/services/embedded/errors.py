"""Why an embedded store cannot run; the text ends with what to do."""


class EmbeddedError(Exception):
    """A store of ours that cannot be started."""
