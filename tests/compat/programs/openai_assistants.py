"""The assistant that everybody built: it is given a table, draws a chart of it, and the chart is downloaded.

Nothing in it knows where it runs: the SDK reads `OPENAI_BASE_URL` and `OPENAI_API_KEY`.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from openai import AssistantEventHandler, OpenAI

client = OpenAI()
MODEL = os.environ["MODEL"]
SALES = "region,amount\nnorth,120\nsouth,80\neast,95\n"

directory = Path(tempfile.mkdtemp())
(directory / "sales.csv").write_text(SALES)

# 1. An assistant with the code interpreter.
assistant = client.beta.assistants.create(
    name="Data visualizer",
    description="Makes charts of tables.",
    instructions="You are great at creating beautiful data visualizations.",
    model=MODEL,
    tools=[{"type": "code_interpreter"}],
)

# 2. The file, and a thread whose message has it.
with open(directory / "sales.csv", "rb") as table:
    file = client.files.create(file=table, purpose="assistants")
thread = client.beta.threads.create()
client.beta.threads.messages.create(
    thread_id=thread.id,
    role="user",
    content="Draw a bar chart of sales by region, and give me the totals as a file.",
    attachments=[{"file_id": file.id, "tools": [{"type": "code_interpreter"}]}],
)

# 3. A run, until it is over.
run = client.beta.threads.runs.create_and_poll(
    thread_id=thread.id, assistant_id=assistant.id, instructions="Please be brief."
)
assert run.status == "completed", run
assert run.usage is not None
assert run.usage.total_tokens == run.usage.prompt_tokens + run.usage.completion_tokens

# 4. What it says, with its chart and its file.
messages = list(client.beta.threads.messages.list(thread_id=thread.id, order="asc"))
question, answer = messages[0], messages[-1]
assert question.role == "user"
assert answer.role == "assistant"
for content in answer.content:
    if content.type == "image_file":
        chart = client.files.content(content.image_file.file_id).read()
        (directory / "chart.png").write_bytes(chart)
    elif content.type == "text":
        for annotation in content.text.annotations:
            assert annotation.type == "file_path"
            start, end = annotation.start_index, annotation.end_index
            assert content.text.value[start:end] == annotation.text
            made = client.files.retrieve(annotation.file_path.file_id)
            assert made.purpose == "assistants_output"
            client.files.content(made.id).write_to_file(directory / made.filename)
        text = content.text.value

# 5. How it got there.
steps = list(client.beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id, order="asc"))
outputs = []
for step in steps:
    if step.step_details.type == "tool_calls":
        for call in step.step_details.tool_calls:
            if call.type == "code_interpreter":
                outputs += [output.type for output in call.code_interpreter.outputs]


# 6. The next question, as a stream.
class Handler(AssistantEventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.said = ""
        self.code = ""
        self.logs = ""

    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.said += delta.value or ""

    def on_tool_call_delta(self, delta: Any, snapshot: Any) -> None:
        if delta.type == "code_interpreter" and delta.code_interpreter:
            self.code += delta.code_interpreter.input or ""
            for output in delta.code_interpreter.outputs or []:
                self.logs += getattr(output, "logs", None) or ""


client.beta.threads.messages.create(thread_id=thread.id, role="user", content="And the sum?")
handler = Handler()
with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id, event_handler=handler) as stream:
    stream.until_done()
last = client.beta.threads.messages.list(thread_id=thread.id, limit=1).data[0]
assert last.content[0].type == "text"
assert last.content[0].text.value == handler.said

# 7. Nothing is left.
for each in list(client.files.list(purpose="assistants_output")):
    client.files.delete(each.id)
assert client.beta.threads.delete(thread.id).deleted
assert client.beta.assistants.delete(assistant.id).deleted
assert client.files.delete(file.id).deleted

print(
    json.dumps(
        {
            "text": text,
            "chart": (directory / "chart.png").read_bytes()[:8].hex(),
            "totals": (directory / "totals.csv").read_text(),
            "steps": [step.type for step in steps],
            "outputs": outputs,
            "said": handler.said,
            "code": handler.code,
            "logs": handler.logs,
        }
    )
)
