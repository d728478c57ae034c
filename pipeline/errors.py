"""What can go wrong with a run of the pipeline, by what to do next.

An exception's class is the instruction: a person must look (`FatalError`), the data failed and
trying again cannot help (`GateClosed`), the world failed and the same call may be repeated with the
same key (`RetriableError`), or nobody knows yet and asking comes before acting (`OutcomeUnknown`).
What happens to a single row - a decline, a quarantined charge - is a value with a reason code, never
an exception. Messages name file, row, column and reason; they never carry a token or a contact.
"""

__all__ = [
    "DamagedAnswer",
    "FatalError",
    "FileRefused",
    "GateClosed",
    "MakegoodError",
    "NotYetArrived",
    "OutcomeUnknown",
    "OutsideWindow",
    "RetriableError",
    "SenderLost",
    "SendingStopped",
    "UnreadableInput",
    "UsageError",
]


class MakegoodError(Exception):
    """Any failure this project raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class FatalError(MakegoodError):
    """A person must look before anything else is tried."""


class UsageError(FatalError):
    """The command or its arguments make no sense; the message says what would."""

    exit_code = 2


class FileRefused(FatalError):
    """The acquirer named our file and refused it whole, for a reason that excludes that it was booked: nothing of it moved."""


class UnreadableInput(FatalError):
    """The source cannot be read faithfully (bytes, schema, types, manifest): nothing was landed."""

    exit_code = 2


class GateClosed(MakegoodError):
    """The data failed, or nobody with the right to has released it: retrying cannot help."""

    exit_code = 3


class OutsideWindow(GateClosed):
    """The calendar does not allow this money to move now."""


class SendingStopped(GateClosed):
    """A person has halted sending; `makegood resume` lifts it."""

    exit_code = 1


class RetriableError(MakegoodError):
    """The world failed (database, disk, acquirer away): the same call may be made again as it is."""


class SenderLost(RetriableError):
    """Another sender has taken over: this one hands nothing over and records nothing more; calling again waits for its turn."""


class NotYetArrived(RetriableError):
    """Files have not arrived, or not completely; a later night takes them.

    Attributes:
        files: their names.
    """

    def __init__(self, message: str, files: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.files = files


class OutcomeUnknown(MakegoodError):
    """Something was sent and no answer came: it is looked up by its key, never sent again blindly."""


class DamagedAnswer(OutcomeUnknown):
    """An answer has come and cannot be trusted: what it was about is unknown, and is asked about by its keys."""
