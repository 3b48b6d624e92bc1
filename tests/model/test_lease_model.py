"""The lease, the token and the fence, explored exhaustively: every order of events on two machines.

One target, two desired versions one after the other, two daemons on one store (tomorrow's two machines; today's one
machine is a part of it). A state is what the store holds and what each machine is about to do. Every reachable state
is visited, and these must hold in each:

  I1  at most one process of the target lives
  I2  the recorded state never goes back to an older token
  I3  a version that was recorded as deployed is not claimed again

The last test removes one safeguard at a time: each mutant must break one of them. That is the test of the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest

MACHINES = 2
MAX_TOKENS = 4
MAX_CRASHES = 2
VERSIONS = 2


@dataclass(frozen=True)
class Design:
    """The safeguards; all of them are in the product."""

    one_statement_claim: bool = True  # store: `claim` is one INSERT … ON CONFLICT … WHERE … RETURNING
    recheck: bool = True  # store.start before the first process, and the supervisor's own look at its lease
    lifeline: bool = True  # the tree ends with its daemon: the supervisor sees to it, and the next daemon looks
    self_fence: bool = True  # the supervisor ends the tree before the lease may be taken over
    guarded_write: bool = True  # store.finish WHERE token = ?


class Machine(NamedTuple):
    """One daemon: idle, read (a claim that is not one statement), claimed, started, or done (not recorded yet)."""

    phase: str = "idle"
    token: int = 0
    version: int = 0


class State(NamedTuple):
    machines: tuple[Machine, ...] = (Machine(),) * MACHINES
    processes: tuple[tuple[int, int], ...] = ()  # (machine, token) of what lives
    holder: int | None = None  # machine of the lease
    token: int = 0  # newest one
    expired: bool = False
    desired: int = 0
    deployed: int | None = None
    recorded_token: int = 0
    crashes: int = 0
    broken: str = ""


def steps(state: State, design: Design) -> Iterator[State]:
    """Yield every state that can follow."""
    if state.desired + 1 < VERSIONS:
        yield state._replace(desired=state.desired + 1)
    if state.holder is not None and not state.expired:
        yield expire(state, design)
    for index, machine in enumerate(state.machines):
        yield from moves(state, design, index, machine)
        if state.crashes < MAX_CRASHES and machine.phase != "idle":
            yield crash(state, design, index)


def expire(state: State, design: Design) -> State:
    """The lease runs out: a machine that stands still does not notice. Supervisors look at their own clock."""
    processes = state.processes
    if design.self_fence:
        processes = tuple(process for process in processes if process[1] != state.token)
    return state._replace(expired=True, processes=processes)


def crash(state: State, design: Design, index: int) -> State:
    processes = state.processes
    if design.lifeline:
        processes = tuple(process for process in processes if process[0] != index)
    return with_machine(state, index, Machine())._replace(processes=processes, crashes=state.crashes + 1)


def moves(state: State, design: Design, index: int, machine: Machine) -> Iterator[State]:
    # A daemon that starts again takes its dead predecessor's lease over at once: the state directory's lock is its
    # own, and it makes sure first that nothing of the old deploy lives (which the lifeline has seen to).
    free = state.holder is None or state.expired or (state.holder == index and machine.phase == "idle")
    wanted = state.deployed != state.desired and state.token < MAX_TOKENS
    mine = state.holder == index and state.token == machine.token and not state.expired
    if machine.phase == "idle" and free and wanted:
        if design.one_statement_claim:
            yield claim(state, index)
        else:
            yield with_machine(state, index, Machine("read", state.token + 1, state.desired))
    elif machine.phase == "read":
        yield claim(state, index, machine.token)
    elif machine.phase == "claimed":
        if mine or not design.recheck:
            lives = (*state.processes, (index, machine.token))
            yield with_machine(state, index, machine._replace(phase="started"))._replace(processes=lives)
        else:
            yield with_machine(state, index, Machine())
    elif machine.phase == "started":
        rest = tuple(process for process in state.processes if process != (index, machine.token))
        yield with_machine(state, index, machine._replace(phase="done"))._replace(processes=rest)
    elif machine.phase == "done":
        yield record(state, design, index, machine)


def claim(state: State, index: int, token: int | None = None) -> State:
    token = state.token + 1 if token is None else token
    broken = state.broken or ("I3" if state.deployed == state.desired else "")
    machine = Machine("claimed", token, state.desired)
    return with_machine(state, index, machine)._replace(
        holder=index, token=max(token, state.token), expired=False, broken=broken
    )


def record(state: State, design: Design, index: int, machine: Machine) -> State:
    after = with_machine(state, index, Machine())
    mine = state.holder == index and state.token == machine.token
    if design.guarded_write and not mine:
        return after
    broken = "I2" if machine.token < state.recorded_token else state.broken
    return after._replace(
        holder=None if mine else state.holder,
        deployed=machine.version,
        recorded_token=machine.token,
        broken=broken,
    )


def with_machine(state: State, index: int, machine: Machine) -> State:
    machines = list(state.machines)
    machines[index] = machine
    return state._replace(machines=tuple(machines))


def explore(design: Design) -> tuple[int, str]:
    """Visit every reachable state; return how many there are, and which law broke first."""
    begin = State()
    seen, pending = {begin}, deque([begin])
    while pending:
        state = pending.popleft()
        for following in steps(state, design):
            if len(following.processes) > 1:
                return len(seen), "I1"
            if following.broken:
                return len(seen), following.broken
            if following not in seen:
                seen.add(following)
                pending.append(following)
    return len(seen), ""


def test_the_design_holds_in_every_reachable_state() -> None:
    visited, broken = explore(Design())
    assert broken == ""
    assert visited > 1_000


@pytest.mark.parametrize("safeguard", ["one_statement_claim", "recheck", "lifeline", "self_fence", "guarded_write"])
def test_without_any_one_safeguard_it_breaks(safeguard: str) -> None:
    _, broken = explore(replace(Design(), **{safeguard: False}))
    assert broken in ("I1", "I2", "I3")
