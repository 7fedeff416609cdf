"""What is installed in a sandbox."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from sandbox.api import encode
from sandbox.api.problems import documented
from sandbox.api.route import Route, node_of
from sandbox.api.schemas import ImageOut, ImagesOut
from sandbox.errors import ImageNotBuilt, UnknownImage

router = APIRouter(prefix="/v1/images", route_class=Route, tags=["images"])


@router.get(
    "",
    summary="List images",
    description="Those that are built on this server.",
    operation_id="list_images",
    responses={200: {"model": ImagesOut}, **documented()},
)
async def list_images(request: Request) -> Response:
    """See the decorator."""
    found = await node_of(request).engine.runtime.manifests()
    return encode.answer(encode.page([encode.manifest(each) for each in found]))


@router.get(
    "/{name}",
    summary="Get an image",
    description="The Python version and every library with its version, as pinned by the lock file.",
    operation_id="get_image",
    responses={200: {"model": ImageOut}, **documented(404)},
)
async def get_image(
    request: Request,
    name: Annotated[
        str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="The image's name.", examples=["python"])
    ],
) -> Response:
    """See the decorator."""
    try:
        found = await node_of(request).engine.runtime.manifest(name)
    except ImageNotBuilt as error:
        raise UnknownImage(f"the image {name} is not built on this server") from error
    return encode.answer(encode.manifest(found))
