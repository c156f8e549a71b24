"""The one error of this room: something about the user's text is not as it must be."""

from __future__ import annotations


class DataError(ValueError):
    """A text, a vocabulary or an option about them is unusable; the message says what to do."""
