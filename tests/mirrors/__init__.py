"""Mirrors of distributions in their real formats, made in a second. By hand: python -m tests.mirrors --help."""
