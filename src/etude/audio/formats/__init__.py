"""Parsers of sound file formats: what libsndfile does not check, and files that only ffmpeg reads."""

from __future__ import annotations


class DecodeError(ValueError):
    """A file without usable sound; the message names the file and the reason."""


class TooLongError(DecodeError):
    """A file with more sound than the caller accepts."""
