"""OpenAI's Responses, with the code interpreter."""

from fastapi import APIRouter

from sandbox.api.route import Route

router = APIRouter(route_class=Route, tags=["responses"], include_in_schema=False)
