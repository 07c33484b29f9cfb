"""Errors a user can cause. The message is one line: what is wrong and what to do."""

from __future__ import annotations


class EmdlError(ValueError):
    """Bad input or an impossible request; the text is shown to the user as it is."""


class OpenError(EmdlError):
    """A file that cannot be opened, or not as what was asked for.

    Parameters
    ----------
    message
        What is wrong and what to do.
    choices
        Names of the arrays in the file of which one has to be chosen, as they stand behind ``FILE::``.
    """

    def __init__(self, message: str = "", choices: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.choices = choices


class DeviceError(EmdlError):
    """A device or execution provider that was asked for by name and cannot be had."""


class ModelError(EmdlError):
    """A model folder, card or network that cannot be used."""


class Cancelled(Exception):
    """Raised inside a job after the user cancelled it; what was finished stays in the result file."""


class JournalError(EmdlError):
    """The file that keeps the finished blocks of a job cannot be used: there is no other way to do the job than the user's."""


class OtherJobError(JournalError):
    """A partial result belongs to a job with other settings; it has to be finished with those or begun anew."""
