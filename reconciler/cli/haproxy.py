"""A configuration for HAProxy that sends each request to a node that has its model.

Requests are routed by the `model` of their body, as OpenAI's clients send it. A node is asked for
each model whether it can answer; one that says no, or nothing, gets no new requests, and what it
refused before it had a chance to say so is sent to another.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

from reconciler.cli.inventory import Node

BUFFER_BYTES = 1024 * 1024
"""The longest request that can be routed, and sent again to another node."""

NAME = re.compile(r"[A-Za-z0-9._/@:+-]{1,500}")
"""Of instances and models that can stand in the configuration as they are."""

HEAD = """\
global
    tune.bufsize {buffer}

defaults
    mode http
    option http-buffer-request
    option redispatch 1
    option httpchk
    balance leastconn
    retries 3
    # A node that is going answers 503; its requests are sent to another.
    retry-on conn-failure empty-response 503
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-request 30s
    timeout queue 60s
    timeout check 5s
    default-server check inter 1s fall 2 rise 1

frontend openai
    bind {bind}
    http-request set-var(txn.model) req.body,json_query('$.model')
"""


def configuration(models: Mapping[str, Sequence[Node]], bind: str) -> str:
    """The configuration for models, each with the nodes that have it."""
    names = sorted(models)
    backends = {name: _backend_name(name, i) for i, name in enumerate(names)}
    lines = [HEAD.format(buffer=BUFFER_BYTES, bind=bind)]
    lines += [f"    acl {backends[n]} var(txn.model) -m str {n}\n" for n in names]
    listed = [f"    use_backend {b} if {b}\n" for b in backends.values()]
    lines += [*listed, "    default_backend nowhere\n\n"]
    for name in names:
        lines.append(_backend(backends[name], name, models[name]))
    lines.append(NOWHERE)
    return "".join(lines)


NOWHERE = """\
backend nowhere
    http-request return status 404 content-type application/json string \
'{"error":{"type":"model_not_found","code":"model_not_found",\
"message":"no node of this fleet has that model"}}'
"""


def _backend(backend: str, model: str, nodes: Sequence[Node]) -> str:
    """The nodes that have a model; a token stands in HAProxy's environment, not in the file."""
    guarded = any(node.token_file is not None for node in nodes)
    lines = [f"backend {backend}"]
    check = f"    http-check send meth GET uri /api/v1/ready/{quote(model)}"
    check += " ver HTTP/1.1 hdr Host localhost"
    if guarded:
        lines.append('    http-request set-header Authorization "Bearer ${RECONCILER_TOKEN}"')
        check += ' hdr Authorization "Bearer ${RECONCILER_TOKEN}"'
    lines += [check, "    http-check expect status 200"]
    for node in nodes:
        address = urlsplit(node.url)
        tls = " ssl verify required ca-file @system-ca" if address.scheme == "https" else ""
        port = address.port or (443 if tls else 80)
        lines.append(f"    server {_word(node.name)} {address.hostname}:{port}{tls}")
    return "\n".join(lines) + "\n\n"


def _backend_name(model: str, number: int) -> str:
    return f"model_{number}_{_word(model)}"


def _word(name: str) -> str:
    """As HAProxy takes names."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
