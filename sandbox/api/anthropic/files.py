"""Anthropic's Files: bytes that a key keeps outside any session."""

from fastapi import APIRouter

from sandbox.api.route import AnthropicRoute

router = APIRouter(route_class=AnthropicRoute, tags=["anthropic"], include_in_schema=False)
