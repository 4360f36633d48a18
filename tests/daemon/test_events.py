"""`GET /api/v1/events` and `GET /api/v1/history` of a real daemon."""

import json
import urllib.parse
import urllib.request
from collections.abc import Generator
from typing import Any

from reconciler.models.checkpoint import read_facts
from tests.support import Daemon, copied, parse_events


def listen(daemon: Daemon, after: str | None = None, query: str = "") -> Generator[Any, None, None]:
    """Yield the events as they arrive."""
    headers = {"Last-Event-ID": after} if after else {}
    request = urllib.request.Request(f"{daemon.url}/api/v1/events?{query}", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert reply.headers["Content-Type"] == "text/event-stream"
        yield from parse_events(reply)


def test_the_events_of_a_load_arrive_during_it_with_bytes_read(shared: Daemon) -> None:
    path = copied(shared, "events/read")
    events = listen(shared, query="name=events/read")
    shared.load({"model": "events/read"})
    seen = []
    for event in events:
        seen.append(event)
        if (seen[-1]["type"], seen[-1]["reason"]) == ("transition", "Loaded"):
            break
    reasons = [(e["type"], e["reason"]) for e in seen if e["type"] != "phase"]
    assert ("record", "Created") in reasons
    assert ("transition", "Loading") in reasons
    phases = [e["progress"] for e in seen if e["type"] == "phase"]
    assert list(dict.fromkeys(p["phase"] for p in phases)) == ["worker", "weights", "warm_up"]
    weights = read_facts(path).weights_bytes
    read = [p["bytes_read"] for p in phases if p["phase"] == "weights"]
    assert read == sorted(read)
    assert (read[0], read[-1]) == (0, weights)
    assert {p["bytes_total"] for p in phases if p["phase"] == "weights"} == {weights}


def test_a_listener_resumes_where_it_left_off(shared: Daemon) -> None:
    shared.load({"model": "tiny/llama", "instance_id": "events/first"})
    first = shared.events()[-1]["id"]
    shared.load({"model": "tiny/llama", "instance_id": "events/left"})
    everything = shared.events(f"follow=false&after={first}")
    last = everything[-1]["id"]
    shared.unload("events/left")
    missed = shared.events(f"follow=false&after={last}")
    assert missed
    assert {e["id"] for e in missed}.isdisjoint({e["id"] for e in everything})
    assert next(listen(shared, last)) == missed[0]
    assert shared.events(f"follow=false&after={first}") == everything + missed


def test_an_unknown_id_gets_a_lost_event(shared: Daemon) -> None:
    shared.load({"model": "tiny/llama"})
    run, _, _ = shared.events()[-1]["id"].rpartition("-")
    for number in ("9" * 5000, "9" * 18, "-1", "²", ""):
        after = urllib.parse.quote(f"{run}-{number}")
        assert shared.events(f"follow=false&after={after}")[0] == "lost"


def test_events_can_be_requested_for_one_record(shared: Daemon) -> None:
    shared.load({"model": "tiny/llama", "instance_id": "events/one"})
    shared.load({"model": "tiny/llama", "instance_id": "events/two"})
    seen = shared.events("follow=false&name=events/one")
    assert {e["name"] for e in seen} == {"events/one"}


def test_an_invalid_query_is_an_error_in_the_standard_form(shared: Daemon) -> None:
    status, answer = shared.request("GET", "/api/v1/events?follow=perhaps")
    assert (status, answer["error"]["param"]) == (400, "follow")


def test_history_keeps_the_last_20_generations(shared: Daemon) -> None:
    body = {"model": "tiny/llama", "instance_id": "many"}
    for length in range(1, 26):
        shared.load(body | {"context_length": length})
    kept = shared.get("/api/v1/history?name=many")["history"]
    assert [g["generation"] for g in kept] == list(range(25, 5, -1))
    assert json.dumps(kept)
