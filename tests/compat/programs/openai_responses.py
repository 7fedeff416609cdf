"""Upload sales, have them drawn, save the chart, and ask once more; as one writes it for OpenAI's own service."""

import os
from typing import Any

import openai

client: Any = openai.OpenAI()
file = client.files.create(file=("sales.csv", b"region,amount\nnorth,3\nsouth,4\n"), purpose="assistants")
tools = [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": [file.id]}}]
response = client.responses.create(
    model=os.environ["MODEL"],
    input="Draw the sales of each region.",
    tools=tools,
    include=["code_interpreter_call.outputs"],
)
for item in response.output:
    if item.type == "code_interpreter_call":
        print(item.outputs[0].logs.strip())
for annotation in response.output[-1].content[0].annotations:
    chart = client.containers.files.content.retrieve(annotation.file_id, container_id=annotation.container_id)
    kind = "a PNG" if chart.read().startswith(b"\x89PNG") else "something else"
    print(f"{annotation.filename} is {kind}")

with client.responses.stream(
    model=os.environ["MODEL"],
    input="How much is the most?",
    tools=tools,
    previous_response_id=response.id,
) as stream:
    for _ in stream:
        pass
    print(stream.get_final_response().output_text)

client.responses.delete(response.id)
