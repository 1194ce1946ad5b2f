"""Interpreting Ray's errors: whether a node was lost, and the reason in one line."""

import re

from ray.exceptions import ActorUnavailableError, NodeDiedError, RayError, RayTaskError

_NODE_DIED = re.compile(r"node (has )?died|node was terminated", re.IGNORECASE)


def may_be_node_loss(error: RayError) -> bool:
    """Whether a lost node may be the cause: Ray declares a silent node dead only after a while."""
    return isinstance(error, (ActorUnavailableError, NodeDiedError))


def is_node_loss(error: RayError) -> bool:
    """Whether a lost node is the cause, as far as Ray knows by now."""
    return may_be_node_loss(error) or _NODE_DIED.search(str(error)) is not None


def reason_of(error: Exception) -> str:
    """The line of the error that says what happened, without what Ray adds around it."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if not lines:
        return type(cause).__name__
    if isinstance(error, RayTaskError):
        return lines[0]
    if "creation task" in lines[0]:
        return lines[-1]
    return next((line for line in lines if "because" in line), lines[0])
