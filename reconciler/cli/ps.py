"""`ps`: loaded, loading and failed instances, and their memory."""

import asyncio
from typing import Any

import click

from reconciler.cli.client import Client, asks
from reconciler.cli.output import Column, age, condition, output, show
from reconciler.core.memory import readable_bytes


def used(key: str) -> Any:
    """Column function for a number of bytes of a row's instance, as text; None if it has none."""

    def cell(row: Any) -> str | None:
        size = (row["instance"] or {}).get(key)
        return None if size is None else readable_bytes(size)

    return cell


def in_force(key: str) -> Any:
    """Column function for an effective setting of a row's instance."""
    return lambda row: (row["status"]["config"] or {}).get(key)


def until(row: Any) -> str | None:
    """Time until a row's instance is unloaded as idle: `in 9m`."""
    seconds = (row["instance"] or {}).get("seconds_until_idle")
    if seconds is None:
        return None
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"in {seconds / length:.0f}{unit}"
    return f"in {seconds:.0f}s"


def _load_time(row: Any) -> str | None:
    seconds = row["status"]["load_time_seconds"]
    return None if seconds is None or not row["instance"] else f"{seconds:.2f}s"


ROWS = (
    Column("NAME", lambda r: r["name"]),
    Column("STATE", lambda r: condition(r, "Ready")["reason"]),
    Column("OWN", used("reserved_bytes")),
    Column("SHARED", used("shared_bytes")),
    Column("KV", used("kv_bytes")),
    Column("REQUESTS", lambda r: (r["instance"] or {}).get("requests")),
    Column("UNLOAD", until),
    Column("LOADED", lambda r: age(r["status"]["loaded_at"]) if r["instance"] else None),
    Column("MODEL", lambda r: r["spec"]["model"], wide=True),
    Column("CONTEXT", in_force("context_length"), wide=True),
    Column("BATCH", in_force("eval_batch_size"), wide=True),
    Column("FLASH", in_force("flash_attention"), wide=True),
    Column("EXPERTS", in_force("num_experts"), wide=True),
    Column("KV-ON-GPU", in_force("offload_kv_cache_to_gpu"), wide=True),
    Column("KV-BITS", in_force("kv_cache_bits"), wide=True),
    Column("KEPT-KV", used("kept_bytes"), wide=True),
    Column("LOAD-TIME", _load_time, wide=True),
    Column("OWNER", lambda r: r["owner"], wide=True),
    Column("PID", lambda r: r["status"]["worker_pid"], wide=True),
    Column("RESTARTS", lambda r: r["status"]["restarts"], wide=True),
    Column("MESSAGE", lambda r: condition(r, "Ready")["message"], wide=True),
)


async def rows(client: Client, *, resting: bool = False) -> list[Any]:
    """Records with their loaded `instance`, or None.

    Suspended and idle records are left out unless `resting`.
    """
    records, loaded = await asyncio.gather(
        client.get("/api/v1/records"), client.get("/api/v1/instances")
    )
    instances = {instance["name"]: instance for instance in loaded["instances"]}
    found = [record | {"instance": instances.get(record["name"])} for record in records["records"]]
    return [row for row in found if resting or row["instance"] or _is_active(row)]


def _is_active(row: Any) -> bool:
    return any(condition(row, kind)["status"] == "True" for kind in ("Progressing", "Stalled"))


@click.command()
@click.option("-a", "--all", "resting", is_flag=True, help="Include suspended and idle records.")
@output
@asks
async def ps(client: Client, *, resting: bool, form: str) -> None:
    """List instances that are loaded, loading or failed, and their memory.

    OWN is memory reserved for the instance's KV cache and prefill. SHARED is memory of weights and
    process, which all instances of the checkpoint share. KV is memory that the KV cache may use for
    active requests. UNLOAD is the time until the instance is unloaded if it gets no request.
    """
    found = await rows(client, resting=resting)
    show(found, ROWS, form, empty="nothing is loaded, loading or failed")
