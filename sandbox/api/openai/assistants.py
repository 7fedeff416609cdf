"""OpenAI's Assistants, version 2: assistants, threads, messages, runs and their steps."""

from fastapi import APIRouter

from sandbox.api.route import Route

router = APIRouter(route_class=Route, tags=["assistants"], include_in_schema=False)
