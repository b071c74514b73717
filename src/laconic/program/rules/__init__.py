"""One small rule per operation, by kind: how the axes of its result follow from those of its operands.

To add a rule, write a function of the walk and the node that returns the result's axes, in the file of its kind:

    @rule(aten.my_operation.default)
    def _my_operation(walk: Walk, node: Node) -> Axes:
        return walk.of(node.args[0])          # channels in, the same channels out

`walk.unify` equates two dimensions (a residual sum), `walk.contract` two that are multiplied and summed, `walk.algebra.blur` marks one
whose reduction changes when it is cut, and `walk.freeze` keeps one whole. An operation without a rule, or whose rule does not give the
shape that the operation has, freezes everything it touches: nothing is cut wrongly for want of a rule.
"""

from laconic.program.rules import elementwise, joining, layers, norms, pictures, products, recurrent, reductions, shape
from laconic.program.rules.table import rule, rule_for

__all__ = ["elementwise", "joining", "layers", "norms", "pictures", "products", "recurrent", "reductions", "rule", "rule_for", "shape"]
