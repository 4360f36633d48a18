"""HAProxy configuration that routes each request to a node with its model.

Requests are routed by the `model` of their body, as OpenAI's clients send it. HAProxy checks each
node for each model. A node whose check fails gets no new requests; requests that it rejected before
the check noticed are retried on another node.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

from reconciler.cli.inventory import Node

BUFFER_BYTES = 1024 * 1024
"""Size limit of requests that can be routed and retried on another node."""

NAME = re.compile(r"[A-Za-z0-9._/@:+-]{1,500}")
"""Names of instances and models that the configuration can contain literally."""

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
    # A node that shuts down answers 503; its requests are retried on another.
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
    """Configuration that routes each model to its nodes."""
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
    """Backend of a model with its nodes. HAProxy reads a token from its environment."""
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
    """Replace characters that HAProxy does not allow in names."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
