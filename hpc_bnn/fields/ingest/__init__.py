"""Foreign files: what they hold, and their raw numbers. A format is one module of this folder, and
one line in ``files.FORMATS``.
"""
