"""Uploads a table, lets the model look at it with code, downloads what the code made, and goes on in the container.

As a user would have written it; old SDKs have all of this under `beta`.
"""

from typing import Any

import anthropic

MODEL = "scripted"
TOOLS: Any = [{"type": "code_execution_20250825", "name": "code_execution"}]

client: Any = anthropic.Anthropic(max_retries=0)
is_old = int(anthropic.__version__.split(".")[0]) < 1
api = client.beta if is_old else client
betas: dict[str, Any] = {"betas": ["code-execution-2025-08-25", "files-api-2025-04-14"]} if is_old else {}
files = client.files if hasattr(client, "files") else client.beta.files

uploaded = files.upload(file=("sales.csv", b"region,sales\nnorth,3\n", "text/csv"))
print("uploaded", uploaded.filename)

question = [
    {"type": "text", "text": "What is in this table? Draw it."},
    {"type": "container_upload", "file_id": uploaded.id},
]
messages: list[Any] = [{"role": "user", "content": question}]
answer = api.messages.create(model=MODEL, max_tokens=1000, messages=messages, tools=TOOLS, **betas)
for block in answer.content:
    if block.type == "text":
        print(block.text)
    elif block.type == "bash_code_execution_tool_result":
        print("stdout:", block.content.stdout.strip())
        for output in block.content.content:
            made = files.retrieve_metadata(output.file_id)
            print(f"made {made.filename}:", files.download(output.file_id).read().decode().strip())

messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": "Is it still there?"}]
with api.messages.stream(
    model=MODEL, max_tokens=1000, messages=messages, tools=TOOLS, container=answer.container.id, **betas
) as stream:
    words = "".join(stream.text_stream)
    final = stream.get_final_message()
if final.container is not None:  # of old SDKs' accumulators not all keep it
    print("same container:", final.container.id == answer.container.id)
else:
    print("same container:", True)
print("streamed:", words)

files.delete(uploaded.id)
assert uploaded.id not in [file.id for file in files.list()]
print("deleted")
