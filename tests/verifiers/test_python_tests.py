"""`python_tests`: what passes, what does not, and what cannot be forged."""

from typing import Any

import pytest
from pydantic import ValidationError

from verifiers.errors import VerifierError, VerifierUnavailable
from verifiers.python_tests import PythonTests, code_of
from verifiers.types import Candidate, Capabilities, Prompt, Task

POLICY = Capabilities(context_length=100)
TESTS = ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"]
GOOD = "def add(a, b):\n    return a + b\n"


async def score(
    *codes: str, tests: list[str] = TESTS, prelude: str = "", **fields: Any
) -> list[float | None]:
    """Return the values; None for an abstention."""
    verifier = PythonTests()
    await verifier.start()
    assert verifier.unavailable(POLICY, POLICY) is None
    given = {"tests": tests, "prelude": prelude, **fields}
    verifier.Fields.model_validate(given)
    candidates = [Candidate(str(n), code, finish_reason="stop") for n, code in enumerate(codes)]
    scores = await verifier.score(Task(Prompt(()), given), candidates, None)  # type: ignore[arg-type]
    await verifier.aclose()
    return [None if each.abstained else each.value for each in scores]


async def test_the_share_of_tests_that_pass() -> None:
    half = "def add(a, b):\n    return int(a) + int(b)\n"
    assert await score(GOOD, half, "def add(a): pass", "def add(:", "I do not know.", GOOD) == [
        *(1, 0.5, 0, 0),
        *(None, 1),
    ]


async def test_unfinished_replies_abstain() -> None:
    verifier = PythonTests()
    await verifier.start()
    task = Task(Prompt(()), {"tests": TESTS})
    [only] = await verifier.score(task, [Candidate("a", GOOD)], None)  # type: ignore[arg-type]
    assert only.abstained


CHEATS = {
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "exit in the function": "import os\ndef add(a, b): os._exit(0)",
    "SystemExit in the function": "def add(a, b): raise SystemExit(0)",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): raise SystemExit",
    "prints the verdict": "print('ready\\npassed\\npassed', flush=True)\nimport os\n"
    "for n in range(64):\n  try: os.write(n, b'ready\\npassed\\n')\n  except OSError: pass",
    "equal to all": "class Any:\n  def __eq__(self, other): return True\n  __ne__ = None\n"
    "def add(a, b): return Any()",
    "an int that is equal to all": "class Any(int):\n  def __eq__(self, other): return True\n"
    "  def __ne__(self, other): return False\ndef add(a, b): return Any()",
    "kills the referee": "import os\nfor n in (9, 15, 2, 1):\n  os.kill(os.getppid(), n)",
    "kills all": "import os\nos.kill(-1, 9)",
    "hides Python's names": "class AssertionError: pass\ndef add(a, b): return 0\n"
    "def compile(*a): pass\ndef exec(*a): pass",
    "patches builtins": "import builtins, json, operator\nbuiltins.exec = print\n"
    "builtins.AssertionError = Exception\noperator.eq = lambda *a: True\ndef add(a, b): return 0",
    "looks for the tests": "import gc, sys, os\ndef add(a, b):\n  frame = sys._getframe()\n"
    "  found = []\n  while frame:\n    found += [str(frame.f_locals), str(frame.f_globals)]\n"
    "    frame = frame.f_back\n  text = ''.join(found) + str(gc.get_objects()) + str(sys.argv)\n"
    "  return 3 if 'assert' + chr(32) + 'add' in text else 0",
    "reads all files": "import os\ndef add(a, b):\n  for n in range(64):\n"
    "    try:\n      if b'== 3' in os.read(n, 9): return 3\n    except OSError: pass\n"
    "  for root in ('/tmp', '/proc', '/program.py'):\n    for d, _, fs in os.walk(root):\n"
    "      for f in fs:\n        if '== 3' in open(os.path.join(d, f)).read(): return 3",
    "answers for the protocol": "import os\nfor n in range(64):\n"
    '  try: os.write(n, b\'{"names": {}}\\n{"value": 3, "after": []}\\n\')\n'
    "  except OSError: pass\ndef add(a, b): return 0",
    "nonsense for the protocol": "import os\ndef add(a, b):\n  for n in range(64):\n"
    "    try: os.write(n, b'[' * 10**5 + b'\\n')\n    except OSError: pass\n",
    "hangs": "def add(a, b):\n  while True: pass",
    "forks": "import os\nfor n in range(5): os.fork()\ndef add(a, b): return 0",
    "raises what the test does not catch": "def add(a, b): raise KeyboardInterrupt",
}


async def test_nothing_is_won_by_cheating() -> None:
    values = await score(*CHEATS.values(), GOOD, timeout_s=1.5, tests=TESTS[:1])
    assert dict(zip(CHEATS, values, strict=False)) == dict.fromkeys(CHEATS, 0)
    assert values[-1] == 1


async def test_a_test_that_catches_everything_does_not_pass_by_a_dead_candidate() -> None:
    test = "try:\n    add(1, 2)\nexcept BaseException:\n    pass"
    dies, raises = "import os\ndef add(a, b): os._exit(0)", "def add(a, b): raise ValueError"
    hangs = "def add(a, b):\n  while 1: pass"
    assert await score(dies, raises, hangs, tests=[test], timeout_s=1) == [0, 1, 0]


async def test_computing_with_an_object_cannot_be_made_to_fit() -> None:
    code = (
        "class Fit:\n  def __sub__(self, other): return 0\n  __rsub__ = __sub__\n"
        "  def __lt__(self, other): return True\n  def __contains__(self, other): return True\n"
        "  def __abs__(self): return 0\ndef add(a, b): return Fit()"
    )
    tests = ["assert abs(add(1, 2) - 3) < 1", "assert add(1, 2) < 9", "assert 3 in add(1, 2)"]
    assert await score(code, tests=tests) == [0]


async def test_one_test_does_not_spoil_the_next() -> None:
    code = (
        "import time\nseen = []\ndef f(x):\n  seen.append(x)\n  if x: time.sleep(60)\n  return seen"
    )
    tests = ["f(0)", "f(1)", "assert f(0) == [0]"]
    assert await score(code, tests=tests, timeout_s=1) == [pytest.approx(2 / 3)]


async def test_values_go_there_and_back() -> None:
    values = [
        *("None", "True", "-7", "2**100", "1.5", "float('inf')", "'\\ud800é\\n'", "b'\\x00'", "1j"),
        *("[1, (2, {3})]", "{(1, 2): {'a': frozenset()}}", "range(1, 9, 2)", "bytearray(b'x')"),
        *("Decimal('1.10')", "Fraction(1, 3)", "OrderedDict(a=1)", "Counter('aab')"),
    ]
    prelude = "from decimal import Decimal\nfrom fractions import Fraction\n"
    prelude += "from collections import Counter, OrderedDict"
    tests = [f"assert same({value}) == {value}" for value in values]
    tests += ["assert type(same(True)) is bool and type(same(1.0)) is float and same(None) is None"]
    assert await score("def same(x): return x", tests=tests, prelude=prelude) == [1]


async def test_functions_classes_iterators_and_exceptions() -> None:
    code = """
import itertools
class Stack:
    def __init__(self, *items): self.items = list(items)
    def push(self, item): self.items.append(item)
    def __len__(self): return len(self.items)
    def __eq__(self, other): return self.items == other.items
    def __enter__(self): return self
    def __exit__(self, *error): pass
class Odd(ValueError): pass
def change(numbers, table): numbers.sort(); table["n"] = len(numbers)
def even(n):
    if n % 2: raise Odd("odd")
    return (x for x in itertools.count(n))
"""
    tests = [
        "s = Stack(1); s.push(2); assert len(s) == 2 and s.items == [1, 2]",
        "assert isinstance(Stack(), Stack) and not isinstance(1, Stack)",
        "assert Stack(1) == Stack(1) and Stack(1) != Stack(2) and Stack(1) != [1]",
        "with Stack(3) as s: s.items = []\nassert not s and s.items == []",
        "n, t = [3, 1], {}; change(n, t); assert (n, t) == ([1, 3], {'n': 2})",
        "found = even(2); assert (next(found), next(found)) == (2, 3)",
        "try: even(1)\nexcept ValueError as error: assert str(error) == 'odd'\nelse: assert False",
        "assert even.__name__ == 'even' and callable(even)",
        "print('passed')\nraise SystemExit",
    ]
    assert await score(code, tests=tests) == [pytest.approx(8 / 9)]


async def test_the_prelude_is_before_both() -> None:
    prelude = "import math\nclass Node:\n    def __init__(self, value): self.value = value\n"
    prelude += "def size(x):\n    return 7\ndef twice(node):\n    '''Double.'''\n"
    body = "    return math.floor(node.value * 2)"
    whole = "def twice(node):\n    return node.value * 2\ndef size(x): return 0"
    tests = ["assert twice(Node(4)) == 8", "assert size(0) == 7", "assert math.floor(1.5) == 1"]
    values = await score(body, whole, tests=tests, prelude=prelude, entry_point="twice")
    assert values == [1, 1]


def test_where_the_code_is() -> None:
    fenced = "```python\ndef f(): pass\n```\nUse it:\n```py\nf()\n```\nthen\n```sh\nls\n```"
    assert code_of(fenced) == "f()\n"
    assert code_of(fenced, "f") == "def f(): pass\n"
    assert code_of("Cut:\n```python\nx = 1") == "x = 1"
    assert code_of("```\nx = 1\n```") == "x = 1\n"
    assert code_of("    return 1") == "    return 1"
    assert code_of("The answer is 4.") is None
    assert code_of("") is None


async def test_without_a_sandbox_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = PythonTests()
    assert verifier.unavailable(POLICY, POLICY) == "its sandbox has not been started"
    monkeypatch.setenv("PATH", "/nowhere")
    await verifier.start()
    assert "not installed" in str(verifier.unavailable(POLICY, POLICY))
    with pytest.raises(VerifierUnavailable, match="not installed"):
        await verifier.score(
            Task(Prompt(()), {"tests": TESTS}),
            [Candidate("a", GOOD, finish_reason="stop")],
            None,  # type: ignore[arg-type]
        )
    await verifier.check()  # it is listed as unavailable: the server is ready without it


async def test_a_sandbox_that_fails_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = PythonTests()
    await verifier.start()
    monkeypatch.setattr("verifiers.sandbox.sandboxed", lambda *_: ["/bin/false"])
    with pytest.raises(VerifierError, match="ran no test"):
        await verifier.score(
            Task(Prompt(()), {"tests": TESTS}),
            [Candidate("a", GOOD, finish_reason="stop")],
            None,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tests": []},
        {"tests": [""]},
        {"tests": "assert True"},
        {"tests": ["x"] * 65},
        {"tests": ["x" * 50_001]},
        {"tests": ["x"], "entry_point": "a.b"},
        {"tests": ["x"], "timeout_s": 0},
        {"tests": ["x"], "timeout_s": 31},
        {"tests": ["x"], "url": "http://elsewhere"},
    ],
)
def test_request_fields_are_bounded(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PythonTests.Fields.model_validate(fields)
