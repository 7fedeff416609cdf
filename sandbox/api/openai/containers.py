"""OpenAI's Containers: our sessions under their ids."""

from fastapi import APIRouter

from sandbox.api.route import Route

router = APIRouter(route_class=Route, tags=["containers"], include_in_schema=False)
