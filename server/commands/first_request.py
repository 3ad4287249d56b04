"""What `forethought serve` prints when it is up: how to send the first request."""

from __future__ import annotations

import json
import shlex

QUESTION = (
    "A baker sells 24 rolls at $0.50 and 10 loaves at $3. What does she earn? "
    "Reason step by step, and put the answer in \\boxed{}."
)


def first_request(url: str, model: str, seconds: float, *, keys: bool = False) -> str:
    """Write a curl line, the same in Python, and the same as a command, for a server at `url`.

    Where it asks for `keys`, they take one from the variable that OpenAI's clients read too.
    """
    bearer = ' -H "authorization: Bearer $OPENAI_API_KEY"' if keys else ""
    key = "" if keys else ', api_key="none"'
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "strategy": {"type": "self_consistency", "n": 8},
    }
    return f"""
Forethought serves {model} at {url} (up in {seconds:.0f} s). A first request:

curl -s {url}/v1/chat/completions -H 'content-type: application/json'{bearer} \\
  -d {shlex.quote(json.dumps(body))}

The same in Python:

from openai import OpenAI
client = OpenAI(base_url="{url}/v1"{key})
reply = client.chat.completions.create(
    model={json.dumps(model)},
    messages={json.dumps(body["messages"])},
    extra_body={{"strategy": {json.dumps(body["strategy"])}}},
)
print(reply.choices[0].message.content)

The same with the votes as they come:

forethought ask {shlex.quote(QUESTION)} --strategy self_consistency --url {url}

API: {url}/docs · strategies: {url}/v1/strategies · Ctrl-C finishes running requests, then ends.

"""
