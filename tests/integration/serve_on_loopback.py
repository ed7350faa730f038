"""The toolkit's ``serve``, made to run beside others and without root; started by toolkits.Serve.

In a container it is alone. Here, as it is, it would write to /etc and adopt any TorchServe of the machine as its own.
Nothing of what it does with a model or a request is changed.
"""

from __future__ import annotations

import os
import time

import psutil
from sagemaker_pytorch_serving_container import torchserve
from sagemaker_pytorch_serving_container.serving import main

START_S = 60.0

properties = torchserve._generate_ts_config_properties


def whole_lines(handler_service: str) -> str:
    """2.0.25's defaults end without a line break, so that the first property after them is lost."""
    return str(properties(handler_service)).replace("enable_model_api=true", "enable_model_api=true\n", 1)


def own_server() -> psutil.Process:
    """The TorchServe that this process started, in whose session it stays, though what started it has ended."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == os.getsid(0) and torchserve.TS_NAMESPACE in process.cmdline():
                    return process
            except (psutil.Error, OSError):  # it just ended, or is another user's
                continue
        time.sleep(0.1)
    raise TimeoutError("TorchServe did not start")


torchserve.TS_CONFIG_FILE = os.environ["CATDOG_TEST_TS_CONFIG"]
torchserve._generate_ts_config_properties = whole_lines
torchserve._retrieve_ts_server_process = own_server
main()
