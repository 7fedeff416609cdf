"""Sandboxes as containers of a Docker daemon, one each."""
