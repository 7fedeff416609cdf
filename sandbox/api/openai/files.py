"""OpenAI's Files and Uploads: bytes that a key keeps outside any session."""

from fastapi import APIRouter

from sandbox.api.route import Route

router = APIRouter(route_class=Route, tags=["files"], include_in_schema=False)
