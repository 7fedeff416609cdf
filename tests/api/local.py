"""The application of a node in this process, for what needs no server."""

from fastapi import FastAPI

from sandbox.api import vendors
from sandbox.api.app import create_app
from sandbox.node import Node


def whole_app(node: Node) -> FastAPI:
    """As a server has it soon after its start."""
    app = create_app(node)
    vendors.add_to(app)
    return app
