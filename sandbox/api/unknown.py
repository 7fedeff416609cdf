"""Words for a field that there is not, such that whoever sent it can repair the call."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from sandbox.nearest import nearest


def advice(model: type[BaseModel], place: Sequence[int | str]) -> str:
    """place: of the field, as pydantic reports it, in the JSON that `model` describes."""
    *above, name = place
    for step in above:
        if isinstance(step, str):
            model = _model_in(model.model_fields[step].annotation) or model
    near = nearest(str(name), model.model_fields)
    rest = f"did you mean {near}?" if near else f"there are: {', '.join(model.model_fields)}"
    return f"there is no such field; {rest}"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a list, or what may be left out, is of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model_in(each)) is not None), None)
