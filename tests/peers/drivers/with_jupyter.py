"""A Jupyter kernel on the host, which contains nothing: the floor of all that is built on one."""

from jupyter_client.manager import KernelManager

from tests.peers.drivers.measuring import Box, Shown, main

_READY_S = 120


class Kernel:
    def __init__(self) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel()
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=_READY_S)

    def run(self, code: str) -> Shown:
        asked = self._client.execute(code)
        text, images = "", 0
        while True:
            message = self._client.get_iopub_msg(timeout=_READY_S)
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                text += content["text"]
            elif message["msg_type"] == "display_data":
                images += "image/png" in content["data"]
            elif message["msg_type"] == "error":
                raise RuntimeError(content["evalue"])
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return Shown(text, images)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def opened() -> Box:
    return Kernel()


if __name__ == "__main__":
    main(opened)
