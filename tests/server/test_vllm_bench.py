"""vLLM's own benchmark asks this server as it asks vLLM's: `vllm bench serve`, by its module."""

import re
import subprocess
import sys

import pytest

from server.models import SilentProgress, resolve
from tests.server.serving import environment, serving

PROGRAM = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@pytest.mark.model
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/best_of_n/chat/completions"])
def test_all_of_its_requests_are_answered(path: str) -> None:
    """The tokenizer is what its random prompts are made with; replies are scripted."""
    tokenizer = resolve("smollm2-135m-instruct", SilentProgress()).path
    with serving() as server:
        options = {
            "backend": "openai-chat",
            "base-url": server.url,
            "endpoint": path,
            "model": "scripted",
            "tokenizer": str(tokenizer),
            "dataset-name": "random",
            "random-input-len": "16",
            "random-output-len": "8",
            "num-prompts": "12",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words],
            env=environment() | {"OPENAI_API_KEY": "none"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert re.search(r"Successful requests: +12\b", done.stdout)
    assert re.search(r"Failed requests: +0\b", done.stdout)
