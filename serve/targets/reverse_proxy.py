"""An nginx site in front of TorchServe: TLS, tokens, limits, and requests that are read whole and framed anew.

TorchServe's HTTP is netty 4.1.53 of 2020, which takes bytes before a method and has known faults of framing. Behind
this site it only sees requests that nginx wrote itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

from ...core.errors import UserError
from ..requests.v2 import EXTENSIONS

SITE, TOKENS = "retort-nginx.conf", "retort-tokens.conf"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_PATH = re.compile(r"/[^\s\"'\\$;{}]+")


@dataclass(frozen=True)
class Site:
    """What the site publishes.

    Attributes:
        host: name of the machine in addresses and in the certificate.
        port: port for TLS.
        upstream: port of TorchServe on 127.0.0.1.
        models: names of the models; everything else is 404. The first says whether the server is ready.
        certificate: absolute path of the certificate chain in PEM form.
        key: absolute path of its key.
        tokens: absolute path of the file of tokens.
        request_bytes: largest body.
        timeout_s: longest wait for an answer of TorchServe, in seconds.
        rate: requests per second of one address; as many more at once.
    """

    host: str
    port: int
    upstream: int
    models: Sequence[str]
    certificate: str
    key: str
    tokens: str
    request_bytes: int
    timeout_s: int
    rate: int

    def text(self) -> str:
        """The file for nginx, for its ``http`` context.

        Raises:
            UserError: a name or a path cannot stand in it.
        """
        if not _HOST.fullmatch(self.host):
            raise UserError(f"'{self.host}' is no name of a machine", "give one such as models.example.org")
        for path in (self.certificate, self.key, self.tokens):
            if not _PATH.fullmatch(path):
                raise UserError(f"the path {path!r} cannot stand in a file of nginx", "use one without such characters")
        return Template(_SITE).substitute(
            host=self.host,
            port=self.port,
            upstream=self.upstream,
            models="|".join(sorted(set(self.models))),
            first=self.models[0],
            server="'" + json.dumps({"name": "retort", "version": "1", "extensions": EXTENSIONS}) + "'",
            certificate=self.certificate,
            key=self.key,
            tokens=self.tokens,
            body=self.request_bytes,
            timeout=self.timeout_s,
            rate=self.rate,
            refusals="\n".join(_refusal(*one) for one in _REFUSALS),
            unauthorized=_json(401, "no valid token", "send the header 'Authorization: Bearer TOKEN'"),
            form=_json(415, "forms of this type are not taken", "send 'Content-Type: application/json'"),
        )


def token_line(token: str, client: str) -> str:
    """A line of the file of tokens: who has a token."""
    return f'"Bearer {token}" "{client}";\n'


def _json(status: int, message: str, remedy: str) -> str:
    text = f'{{"code":{status},"message":"{message}","remedy":"{remedy}"}}'
    return "'" + text.replace("'", "\\'") + "'"


def _refusal(status: int, name: str, message: str, remedy: str) -> str:
    return (
        f"    error_page {status} @{name};\n    location @{name} {{\n        default_type application/json;\n"
        f"        return {status} {_json(status, message, remedy)};\n    }}"
    )


_REFUSALS = (
    (404, "nothing", "there is nothing at this address", "ask for /predictions/MODEL"),
    (405, "method", "this method is not taken", "use POST"),
    (413, "large", "the request is too large", "send fewer rows in one request"),
    (429, "often", "too many requests from this address", "send the request again after the time in Retry-After"),
    (502, "away", "the model is starting again", "send the request again later"),
    (504, "slow", "the model did not answer in time", "send fewer rows in one request"),
)
_SITE = """# Written by `retort deploy`, for the http context of nginx: /etc/nginx/conf.d/ on Debian.
# Bodies are read whole and sent on with their length; TorchServe sees no header but those that are named here.

map $$http_authorization $$retort_client {
    default "";
    include $tokens;
}
map $$content_type $$retort_form {
    default "";
    "~*^\\s*application/x-www-form-urlencoded" "yes";
}
map $$status $$retort_retry_after {
    default "";
    429 1;
    502 5;
    503 1;
}
map $$request_uri $$retort_operation {
    default "";
    "~^/v2/models/[^/?]+(/versions/[^/?]+)?([?]|$$)" "metadata";
    "~^/v2/(health|models/[^/?]+(/versions/[^/?]+)?)/ready([?]|$$)" "healthcheck";
}
limit_req_zone $$binary_remote_addr zone=retort_rate:10m rate=${rate}r/s;
limit_conn_zone $$binary_remote_addr zone=retort_connections:10m;

upstream retort {
    server 127.0.0.1:$upstream max_fails=0;
    keepalive 32;
}

server {
    listen $port ssl;
    server_name $host;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    ssl_protocols TLSv1.2 TLSv1.3;
    server_tokens off;

    client_max_body_size $body;
    client_body_timeout 20s;
    client_header_timeout 10s;
    send_timeout 20s;
    large_client_header_buffers 4 8k;
    limit_req zone=retort_rate burst=$rate nodelay;
    limit_req_status 429;
    limit_conn retort_connections 64;
    limit_conn_status 429;
    add_header Retry-After $$retort_retry_after always;

$refusals

    # the addresses of KServe, which TorchServe has not
    rewrite "^/v1/models/($models):predict$$" /predictions/$$1;
    rewrite "^/v2/models/($models)(/ready|/infer)?$$" /predictions/$$1;
    rewrite "^/v2/models/($models)/versions/([A-Za-z0-9_.-]+)(/ready|/infer)?$$" /predictions/$$1/$$2;
    rewrite "^/v2/health/ready$$" /predictions/$first;

    location / {
        return 404;
    }
    location = /v2 {
        default_type application/json;
        return 200 $server;
    }
    location = /v2/health/live {
        proxy_pass http://retort/ping;
        proxy_pass_request_headers off;
        proxy_pass_request_body off;
    }
    location ~ "^/(predictions|explanations)/($models)(/[A-Za-z0-9_.-]+)?(/healthcheck)?$$" {
        default_type application/json;
        if ($$retort_client = "") {
            return 401 $unauthorized;
        }
        if ($$retort_form) {
            return 415 $form;
        }
        if ($$request_method !~ "^(GET|POST)$$") {
            return 405;
        }
        proxy_pass http://retort$$uri;
        proxy_http_version 1.1;
        proxy_request_buffering on;
        proxy_pass_request_headers off;
        proxy_set_header Host $$host;
        proxy_set_header Connection "";
        proxy_set_header Content-Type $$content_type;
        proxy_set_header Accept $$http_accept;
        proxy_set_header Inference-Header-Content-Length $$http_inference_header_content_length;
        proxy_set_header X-Retort-Top-K $$http_x_retort_top_k;
        proxy_set_header X-Retort-Explain $$http_x_retort_explain;
        proxy_set_header X-Retort-Operation $$retort_operation;
        proxy_set_header X-Request-Id $$request_id;
        proxy_set_header X-Request-Start "t=$$msec";
        proxy_connect_timeout 2s;
        proxy_read_timeout ${timeout}s;
        proxy_next_upstream off;
        proxy_buffering on;
    }
}
"""
