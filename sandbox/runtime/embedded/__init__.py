"""Sandboxes made here, from namespaces, without a daemon.

Nothing is imported here on purpose: the launcher and the zygote load single modules of this package with the
standard library alone.
"""
