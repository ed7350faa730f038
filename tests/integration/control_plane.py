"""AWS's control plane on loopback: moto in a process of its own, behind a proxy that fails on purpose.

    with ControlPlane(port_of_moto) as plane:
        plane.faults["CreateEndpoint"] = iter(["throttle", "refuse"])
        plane.states["catdog-x"] = iter([{"EndpointStatus": "Creating"}])

The proxy also does what moto 5.2 doesn't: UpdateEndpoint, to refuse a name that is taken, and IAM. With ``policy`` it
refuses what a policy in docs/aws doesn't allow, as AWS would.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.iam import Need, allows, person_needs, read_policy
from tests.integration.aws_on_loopback import QuietHandler, moto_server

FAULTS: Final = {
    "throttle": (400, "ThrottlingException", "Rate exceeded"),
    "error": (500, "InternalFailure", "An internal failure occurred."),
    "quota": (400, "ResourceLimitExceeded", "The account-level service limit is 0 Instances."),
    "missing": (400, "ValidationException", 'Could not find endpoint "arn:aws:sagemaker:::x".'),
    "refuse": (
        400,
        "AccessDeniedException",
        "User: arn:aws:iam::123456789012:user/x is not authorized to perform: sagemaker:It on resource: y",
    ),
}
KINDS: Final = ("Model", "EndpointConfig", "Endpoint", "TransformJob")
Headers = dict[str, str]


class ControlPlane(ThreadingHTTPServer):
    """The proxy; ``with`` runs it in a thread."""

    daemon_threads = True

    def __init__(self, behind: int, policy: str | None = None, role_policy: str = "endpoint-role") -> None:
        """``policy``: what those who ask may do. ``role_policy``: what IAM says that any role may do."""
        super().__init__(("127.0.0.1", 0), _Request)
        self.behind = behind
        self.policy = policy
        self.role_policy = role_policy
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        """Service, operation and parameters of what was asked, with botocore's names."""
        self.forbidden: list[Need] = []
        """What was refused for want of a permission."""
        self.faults: dict[str, Iterator[str]] = {}
        """By operation ("CreateModel", "PUT /bucket/..."): what happens to its requests, one after the other.

        A key of FAULTS, "hang up" (nothing is done), "lose answer" (it is done), "" (nothing special).
        """
        self.states: dict[str, Iterator[dict[str, Any]]] = {}
        """By the name of an endpoint or a job: what Describe... says differently, one answer after the other."""
        self.on_done: Callable[[str, dict[str, Any]], None] = lambda operation, asked: None
        """Called with what SageMaker has granted, before the answer: operation and parameters."""
        self.seen: list[str] = []
        self.taken: set[tuple[str, str]] = set()
        """Kind and name of what was made and not deleted."""
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """For AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def reset(self) -> None:
        """Forget plans and what was seen."""
        self.faults.clear()
        self.states.clear()
        self.seen.clear()
        self.requests.clear()
        self.forbidden.clear()

    def next_fault(self, operation: str) -> str:
        with self._lock:
            self.seen.append(operation)
            return next(self.faults.get(operation, iter(())), "")

    def __enter__(self) -> ControlPlane:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Request(QuietHandler):
    server: ControlPlane

    def do_any(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        service, called, parameters = self.understand(sent)
        operation = f"{self.command} {self.path.partition('?')[0]}" if service == "s3" else called
        fault = self.server.next_fault(operation)
        if fault == "hang up":
            self.close_connection = True
        elif fault in FAULTS:
            self.refuse(service, *FAULTS[fault])
        elif missing := self.missing_permission(service, called, parameters):
            self.server.forbidden.append(missing)
            self.refuse(
                service, *FAULTS["refuse"][:2], f"not authorized to perform: {missing.action} on {missing.resource}"
            )
        elif called == "SimulatePrincipalPolicy":
            self.simulate(parameters)
        elif taken := self.refusal(operation, sent):
            body = json.dumps({"__type": "ValidationException", "message": taken}).encode()
            self.answer(400, {"Content-Type": "application/x-amz-json-1.1"}, body)
        else:
            status, headers, body = self.update(sent) if operation == "UpdateEndpoint" else self.ask(sent)
            self.note(operation, sent, status)
            if operation.startswith("Describe") and status == 200:
                body = self.disguised(operation.removeprefix("Describe"), sent, body)
            if fault == "lose answer":
                self.close_connection = True
            else:
                self.answer(status, headers, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

    def understand(self, sent: bytes) -> tuple[str, str, dict[str, Any]]:
        """Service, operation and parameters, with botocore's names; of S3 and IAM those that matter to a policy."""
        signed = re.search(r"Credential=[^/]*/[^/]*/[^/]*/([^/]*)/", self.headers.get("Authorization", ""))
        service = {"monitoring": "cloudwatch"}.get(signed[1], signed[1]) if signed else "s3"
        target, path = self.headers.get("X-Amz-Target", ""), urlsplit(self.path)
        if target:
            return service, target.rpartition(".")[2], json.loads(sent or b"{}")
        query = dict(parse_qsl(path.query, keep_blank_values=True))
        if service != "s3":
            query |= parse_qsl(sent.decode())
            return service, query.pop("Action", self.path), query
        return "s3", *self.understand_s3(path.path, query, sent)

    def understand_s3(self, path: str, query: dict[str, str], sent: bytes) -> tuple[str, dict[str, Any]]:
        bucket, _, key = unquote(path.lstrip("/")).partition("/")
        parameters: dict[str, Any] = {"Bucket": bucket, "Prefix": query.get("prefix", "")}
        if not key:
            of_bucket = {"list-type": "ListObjectsV2", "delete": "DeleteObjects", "encryption": "GetBucketEncryption"}
            of_bucket |= {"publicAccessBlock": "GetPublicAccessBlock", "location": "GetBucketLocation"}
            keys = [{"Key": found} for found in re.findall(r"<Key>(.*?)</Key>", sent.decode("utf-8", "replace"))]
            name = next((of_bucket[word] for word in query if word in of_bucket), f"{self.command} bucket")
            return name, parameters | ({"Delete": {"Objects": keys}} if name == "DeleteObjects" else {})
        encryption_key = self.headers.get("x-amz-server-side-encryption-aws-kms-key-id")
        parameters |= {"Key": key} | ({"SSEKMSKeyId": encryption_key} if encryption_key else {})
        if self.command == "DELETE":
            return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject", parameters
        return {"HEAD": "HeadObject", "GET": "GetObject"}.get(self.command, "PutObject"), parameters

    def missing_permission(self, service: str, operation: str, parameters: dict[str, Any]) -> Need | None:
        self.server.requests.append((service, operation, parameters))
        if self.server.policy is None:
            return None
        policy = read_policy(self.server.policy)
        return next((need for need in person_needs(service, operation, parameters) if not allows(policy, need)), None)

    def simulate(self, parameters: dict[str, Any]) -> None:
        """IAM's word on what the role may do."""
        need = Need(parameters["ActionNames.member.1"], parameters["ResourceArns.member.1"])
        decision = "allowed" if allows(read_policy(self.server.role_policy), need) else "implicitDeny"
        names = f"<EvalActionName>{need.action}</EvalActionName><EvalDecision>{decision}</EvalDecision>"
        result = f"<EvaluationResults><member>{names}</member></EvaluationResults><IsTruncated>false</IsTruncated>"
        body = f"<SimulatePrincipalPolicyResult>{result}</SimulatePrincipalPolicyResult>"
        xml = f"<SimulatePrincipalPolicyResponse>{body}</SimulatePrincipalPolicyResponse>"
        self.answer(200, {"Content-Type": "text/xml"}, xml.encode())

    def refuse(self, service: str, status: int, code: str, message: str) -> None:
        """An error in the form of the service."""
        if service in ("s3", "iam"):
            xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            wrapped = xml if service == "s3" else f"<ErrorResponse>{xml}</ErrorResponse>"
            self.answer(403 if "Denied" in code else status, {"Content-Type": "text/xml"}, wrapped.encode())
        else:
            body = json.dumps({"__type": code, "message": message}).encode()
            self.answer(status, {"Content-Type": "application/x-amz-json-1.1"}, body)

    def ask(self, sent: bytes, operation: str | None = None) -> tuple[int, Headers, bytes]:
        """Hand a request on to moto, or another one of the same service."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        if operation:
            headers |= {"X-Amz-Target": f"SageMaker.{operation}", "Content-Length": str(len(sent))}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        try:
            connection.request(self.command, self.path, sent, headers)
            got = connection.getresponse()
            kept = {k: v for k, v in got.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
            return got.status, kept, got.read()
        finally:
            connection.close()

    def refusal(self, operation: str, sent: bytes) -> str:
        """What SageMaker says when a name is taken, where moto would replace what has it."""
        kind = operation.removeprefix("Create")
        if kind not in KINDS or (kind, json.loads(sent)[f"{kind}Name"]) not in self.server.taken:
            return ""
        return f'Cannot create already existing {kind.lower()} "arn:aws:sagemaker:::{json.loads(sent)[f"{kind}Name"]}".'

    def note(self, operation: str, sent: bytes, status: int) -> None:
        for kind in KINDS if status == 200 else ():
            if operation == f"Create{kind}":
                self.server.taken.add((kind, json.loads(sent)[f"{kind}Name"]))
            elif operation == f"Delete{kind}":
                self.server.taken.discard((kind, json.loads(sent)[f"{kind}Name"]))
        if status == 200 and self.headers.get("X-Amz-Target", "").startswith("SageMaker."):
            self.server.on_done(operation, json.loads(sent))

    def update(self, sent: bytes) -> tuple[int, Headers, bytes]:
        """UpdateEndpoint, as far as it can be seen: the endpoint serves the new config and keeps its tags."""
        asked = json.loads(sent)
        name = {"EndpointName": asked["EndpointName"]}
        status, headers, body = self.ask(json.dumps(name).encode(), "DescribeEndpoint")
        if status != 200:
            return status, headers, body
        arn = json.loads(body)["EndpointArn"]
        tags = json.loads(self.ask(json.dumps({"ResourceArn": arn}).encode(), "ListTags")[2])["Tags"]
        self.ask(json.dumps(name).encode(), "DeleteEndpoint")
        made = {**name, "EndpointConfigName": asked["EndpointConfigName"], "Tags": tags}
        answer = self.ask(json.dumps(made).encode(), "CreateEndpoint")
        if asked.get("RetainAllVariantProperties"):
            kept = [
                {"VariantName": v["VariantName"], "DesiredInstanceCount": v["DesiredInstanceCount"], "DesiredWeight": 1}
                for v in json.loads(body)["ProductionVariants"]
            ]
            again = {**name, "DesiredWeightsAndCapacities": kept}
            self.ask(json.dumps(again).encode(), "UpdateEndpointWeightsAndCapacities")
        return answer

    def disguised(self, kind: str, sent: bytes, body: bytes) -> bytes:
        state = next(self.server.states.get(json.loads(sent).get(f"{kind}Name"), iter(())), {})
        return json.dumps({**json.loads(body), **state}).encode()

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.title() != "Content-Length":
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)


if __name__ == "__main__":
    with moto_server() as port, ControlPlane(port) as running:
        sys.stdout.write(f"{running.url}\n")
        sys.stdout.flush()
        threading.Event().wait()
