r"""Spelling: what LaTeX, Unicode and Markdown write differently without meaning anything by it."""

from __future__ import annotations

import re

_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "×": r"\times ", "÷": "/", "·": r"\cdot ", "⋅": r"\cdot ", "⁄": "/",
        "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
        "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "°": "",
        "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
        "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "’": "'",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "",
        "€": "", "£": "", "¥": "", "₹": "",
    }
)  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")

_SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:boxed|fbox)(?![A-Za-z])", ""),
        (r"\\!|\\(?:displaystyle|limits)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\{,\}", ","),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\s?\.?", ""),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])", ""),
        (r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf)|mbox)\s*\{([^{}]*)\}", r" \1 "),
        (r"(?<!\\)\\[()\[\]]|\\?[$%]|\\(?:pounds|euro)(?![A-Za-z])", ""),
        (r"\*\*", "^"),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\leq(?:slant)?(?![A-Za-z])|<=", r"\\le "),
        (r"\\geq(?:slant)?(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
    )
)

_ARGUMENTS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9])\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9])", r"\1{\2}"),
        (r"\\sqrt\s*([0-9])", r"\\sqrt{\1}"),
    )
)
_SINGLE = re.compile(r"([_^])\{\s*([A-Za-z0-9])\s*\}")
_SPACES = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|([0-9])\s+(?=[0-9])|\s+")


def tidy(text: str) -> str:
    """Undo spelling, keep the words and the spaces between them."""
    text = text.strip('*`"“” \t\n')
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_RAISED)}}}", text)
    text = text.translate(_SIGNS)
    for pattern, replacement in (*_SPELLINGS, *_ARGUMENTS):
        text = pattern.sub(replacement, text)
    return text.strip()


def expression(text: str) -> str:
    """Drop the spaces and braces that carry no meaning in a formula."""
    text = _SINGLE.sub(r"\1\2", text)
    return _SPACES.sub(_meaningful_space, text).strip()


def _meaningful_space(match: re.Match[str]) -> str:
    kept = match[1] or match[2]
    return f"{kept} " if kept else ""
