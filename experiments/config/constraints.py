"""Conditions over settings, for `require` of a sweep; parsed without eval."""

import ast
import operator
from collections.abc import Iterable
from typing import Any

from experiments.config.settings import Tree, setting_of
from experiments.config.yaml_source import nearest

OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
}
"""Operators of a condition, besides `and` and `or`."""


class ConditionError(ValueError):
    """Invalid text of a condition, or a condition that cannot be evaluated."""


class Condition:
    """A condition such as `pretrain.mask_ratio <= 0.65 and model.keep_rate > 0.5`."""

    def __init__(self, text: str, known: Iterable[str]) -> None:
        """Read a condition over the settings `known`.

        Raises:
            ConditionError: it holds anything but settings, numbers, words, arithmetic, comparisons, and/or/not.
        """
        self.text = text
        try:
            self._expression = ast.parse(text.strip(), mode="eval").body
            _check(self._expression, set(known))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConditionError(str(error)) from error

    def holds(self, tree: Tree) -> bool:
        """Return whether these settings fulfil it.

        Raises:
            ConditionError: it cannot be evaluated, e.g. it divides by zero.
        """
        try:
            return bool(_value(self._expression, tree))
        except (ArithmeticError, TypeError, RecursionError) as error:
            raise ConditionError(str(error)) from error


def _check(node: ast.AST, known: set[str]) -> None:
    if isinstance(node, ast.Attribute | ast.Name):
        name = ast.unparse(node)
        if name not in known:
            raise ConditionError(f"setting {name!r} is unknown; {nearest(name, known)}")
        return
    if isinstance(node, ast.Constant) and not isinstance(node.value, int | float | str):
        raise ConditionError(f"{node.value!r} is neither a number nor a word")
    allowed = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.And, ast.Or, *OPERATORS)
    if not isinstance(node, allowed):
        raise ConditionError(f"{ast.unparse(node) or type(node).__name__!r} is not allowed")
    for child in ast.iter_child_nodes(node):
        _check(child, known)


def _value(node: ast.AST, tree: Tree) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.UnaryOp():
            return OPERATORS[type(node.op)](_value(node.operand, tree))
        case ast.BinOp():
            return OPERATORS[type(node.op)](_number(node.left, tree), _number(node.right, tree))
        case ast.BoolOp(op=ast.And()):
            return all(_value(value, tree) for value in node.values)
        case ast.BoolOp():
            return any(_value(value, tree) for value in node.values)
        case ast.Compare():
            left = _value(node.left, tree)
            for op, term in zip(node.ops, node.comparators, strict=True):
                right = _value(term, tree)
                if not OPERATORS[type(op)](left, right):
                    return False
                left = right
            return True
        case _:
            return setting_of(tree, ast.unparse(node))


def _number(node: ast.AST, tree: Tree) -> int | float:
    """Evaluate a term of arithmetic; words and lists are refused, since a number times one can be huge."""
    value = _value(node, tree)
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value
