"""Decoders p(x | z): one file each; a newcomer is one class and one line in ``models/__init__``."""
