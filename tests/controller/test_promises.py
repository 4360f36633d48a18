"""The design's guarantees, under random events in random order."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reconciler.core.defaults import Defaults
from reconciler.core.errors import Problem, Reason
from reconciler.core.records import LoadRequest, LoadSpec, RequestedSettings
from tests.controller.faulty import WEIGHTS, DeadMountError
from tests.controller.machine import World

NAMES = ("a", "b", "c")
MODELS = (*WEIGHTS, "p/absent")
FILES = ("1.yaml", "2.yaml", "3.yaml")
SECONDS = (0.5, 1.0, 2.0, 30.0, 400.0)
TRANSIENT = Problem(Reason.LOAD_FAILED, "hiccup", permanent=False)
PERMANENT = Problem(Reason.LOAD_FAILED, "broken")

names = st.sampled_from(NAMES)
# Models that can be loaded are more frequent than others.
models = st.sampled_from(["p/small", "p/small", "p/other", *MODELS])
contexts = st.none() | st.integers(1, 30) | st.integers(1, 60)
defaults = st.sampled_from([Defaults(), Defaults(), Defaults(temperature=0.0), Defaults(top_k=5)])
specs = st.builds(
    LoadSpec,
    models,
    st.builds(RequestedSettings, context_length=contexts),
    defaults,
    suspend=st.sampled_from([False, False, False, True]),
    priority=st.integers(0, 1),
    update_strategy=st.sampled_from(["auto", "load-first", "unload-first"]),
    idle_ttl_seconds=st.sampled_from([None, None, None, 20]),
)
requests = st.builds(
    LoadRequest,
    models,
    st.builds(RequestedSettings, context_length=contexts),
    st.sampled_from([frozenset(), frozenset({"context_length"})]),
    st.none() | names,
    st.sampled_from([None, None, None, 20]),
    defaults,
)


class Promises(RuleBasedStateMachine):
    """Random sequences of file changes, calls, faults, restarts and waits."""

    @initialize()
    def begin(self) -> None:
        self.world = World()

    @rule(
        file=st.sampled_from(FILES),
        documents=st.lists(st.tuples(names, specs), min_size=1, max_size=2),
    )
    def write_a_file(self, file: str, documents: list[tuple[str, LoadSpec]]) -> None:
        self.world.files[file] = tuple(documents)
        self.world.scan()

    @rule(file=st.sampled_from(FILES))
    def break_a_file(self, file: str) -> None:
        self.world.files[file] = None
        self.world.scan()

    @rule(file=st.sampled_from(FILES))
    def delete_a_file(self, file: str) -> None:
        self.world.files.pop(file, None)
        self.world.scan()

    @rule(gone=st.booleans())
    def lose_or_find_the_directory(self, gone: bool) -> None:
        self.world.unreadable = gone
        self.world.scan()

    @rule(request=requests)
    def load(self, request: LoadRequest) -> None:
        self.world.load(request)

    @rule(name=st.sampled_from((*NAMES, "p/small")), spec=specs)
    def put(self, name: str, spec: LoadSpec) -> None:
        self.world.put(name, spec)

    @rule(name=st.sampled_from((*NAMES, *MODELS)))
    def ask(self, name: str) -> None:
        self.world.ask(name)

    @precondition(lambda self: self.world.engine.loaded)
    @rule(index=st.integers(0, 9), size=st.integers(0, 60))
    def complete(self, index: int, size: int) -> None:
        loaded = sorted(self.world.engine.loaded)
        self.world.complete(loaded[index % len(loaded)], size)

    @precondition(lambda self: self.world.engine.sessions.requests())
    @rule(index=st.integers(0, 9), what=st.sampled_from(["arrives", "arrives", "ends", "is freed"]))
    def go_on_with_a_request(self, index: int, what: str) -> None:
        sessions = self.world.engine.sessions
        requests = sessions.requests()
        request = requests[index % len(requests)]
        session = sessions.of(request.session)
        if what == "arrives" and session.arriving:
            session.arrive()
        elif what == "ends":
            self.world.end_request(request)
        elif what == "is freed":
            self.world.free_request(request)

    @precondition(lambda self: self.world.engine.sessions.recalls)
    @rule(answered=st.sampled_from([True, True, False]))
    def end_a_recall(self, answered: bool) -> None:
        self.world.end_recall(answered=answered)

    @rule(name=st.sampled_from((*NAMES, *MODELS)))
    def unload(self, name: str) -> None:
        self.world.unload(name)

    @precondition(lambda self: self.world.engine.pending)
    @rule(index=st.integers(0, 9), problem=st.sampled_from([None, None, TRANSIENT, PERMANENT]))
    def end_an_action(self, index: int, problem: Problem | None) -> None:
        pending = self.world.engine.pending
        self.world.end(pending[index % len(pending)], problem)

    @precondition(lambda self: self.world.engine.pending)
    @rule(problem=st.sampled_from([None, TRANSIENT, PERMANENT]), seconds=st.sampled_from(SECONDS))
    def end_all_actions_and_let_time_pass(self, problem: Problem | None, seconds: float) -> None:
        for pending in list(self.world.engine.pending):
            self.world.end(pending, problem)
        self.world.pass_time(seconds)

    @precondition(lambda self: self.world.engine.loaded)
    @rule(index=st.integers(0, 9))
    def kill_a_worker(self, index: int) -> None:
        loaded = sorted(self.world.engine.loaded)
        self.world.kill(loaded[index % len(loaded)])

    @rule(seconds=st.sampled_from(SECONDS))
    def let_time_pass(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(there=st.booleans())
    def change_the_models_on_disk(self, there: bool) -> None:
        if there:
            self.world.catalog.weights["p/absent"] = 20
        else:
            self.world.catalog.weights.pop("p/absent", None)
        self.world.catalog.version += 1

    @rule(model=models, hangs=st.booleans())
    def sicken_a_model(self, model: str, hangs: bool) -> None:
        self.world.sicken(model, DeadMountError if hangs else ZeroDivisionError)

    @rule()
    def cure_all_models(self) -> None:
        self.world.cure()

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(reboot=st.booleans())
    def crash(self, reboot: bool) -> None:
        self.world.crash(reboot=reboot)

    @rule(can=st.sampled_from([True, True, False]))
    def fill_or_free_the_disk(self, can: bool) -> None:
        self.world.let_write(can)

    @rule(name=st.sampled_from(NAMES))
    def clear(self, name: str) -> None:
        self.world.clear(name)

    @invariant()
    def promises_hold(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.converge()
            finally:
                self.world.close()


def test_the_guarantees_hold_after_every_step() -> None:
    run_state_machine_as_test(
        Promises,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_guarantees_hold_for_long() -> None:
    run_state_machine_as_test(
        Promises,
        settings=settings(
            max_examples=1500,
            stateful_step_count=60,
            derandomize=False,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
