"""Files, uploads in parts and containers, as a program of a user's has them. It knows nothing of the server."""

import hashlib

import openai

CSV = b"city,amount\nParis,3\nRome,4\n"


def files(client: openai.OpenAI) -> str:
    """Keep a file, look at it, find it in the list; its id."""
    file = client.files.create(file=("sales.csv", CSV), purpose="assistants")
    file = client.files.wait_for_processing(file.id)
    assert (file.filename, file.bytes, file.purpose, file.status) == ("sales.csv", len(CSV), "assistants", "processed")
    assert client.files.retrieve(file.id) == file
    assert file.id in [each.id for each in client.files.list(purpose="assistants", limit=2)]
    assert client.files.content(file.id).read() == CSV
    return file.id


def uploads(client: openai.OpenAI) -> None:
    """Send a file in parts."""
    upload = client.uploads.upload_file_chunked(
        file=CSV * 1000,
        filename="long.csv",
        bytes=len(CSV) * 1000,
        mime_type="text/csv",
        purpose="user_data",
        part_size=10_000,
        md5=hashlib.md5(CSV * 1000).hexdigest(),
    )
    assert upload.status == "completed"
    assert upload.file is not None
    assert client.files.content(upload.file.id).read() == CSV * 1000
    client.files.delete(upload.file.id)


def containers(client: openai.OpenAI, file_id: str) -> None:
    """Make a container with a file, put another one into it, fetch both, and delete everything."""
    container = client.containers.create(name="numbers", file_ids=[file_id])
    assert container.id.startswith("cntr_")
    assert (container.name, container.status) == ("numbers", "running")
    added = client.containers.files.create(container.id, file=("notes.txt", b"hello"))
    assert (added.path, added.source, added.bytes) == ("/mnt/data/notes.txt", "user", 5)
    listed = {each.path: each.id for each in client.containers.files.list(container.id, order="asc")}
    assert list(listed) == ["/mnt/data/sales.csv", "/mnt/data/notes.txt"]
    content = client.containers.files.content.retrieve(listed["/mnt/data/sales.csv"], container_id=container.id)
    assert content.read() == CSV
    client.containers.files.delete(added.id, container_id=container.id)
    client.containers.delete(container.id)
    try:
        client.containers.retrieve(container.id)
    except openai.NotFoundError as error:
        told = str(error)
    assert f"Container with id '{container.id}' not found." in told


def main() -> None:
    """With `OPENAI_BASE_URL` and `OPENAI_API_KEY` in the environment, as always."""
    client = openai.OpenAI()
    file_id = files(client)
    uploads(client)
    containers(client, file_id)
    assert client.files.delete(file_id).deleted
    print("done with", openai.__version__)


if __name__ == "__main__":
    main()
