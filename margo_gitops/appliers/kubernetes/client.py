"""The API server of a cluster: one bounded request at a time, with typed errors, over the package `kubernetes`.

CLUSTER-1  The package reads the kubeconfig or the service account, runs exec plug-ins and renews tokens. Its models are
           not used: bodies and answers are plain values.
CLUSTER-2  An answer is read up to `MOST_BYTES`, a request ends after its seconds, and no redirect is followed. A proxy
           of the environment is used only where the agent may use it; `proxy-url` of the kubeconfig counts.
           What does not come from an API server (a portal's page, half of an answer) counts as no answer.
CLUSTER-3  After 401, the credentials are read again, once. After 429 and 503 the request is sent again where the server
           says when (Retry-After), after twice the pause each time, as long as its seconds last.
CLUSTER-4  What the server has is asked once for each API version (discovery), and again when a kind is missing.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.kubernetes.refusals import refusal
from margo_gitops.appliers.settings import Settings
from margo_gitops.documents.kubernetes_objects import KubernetesObject, ObjectId, list_at, mapping_at, text_at
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import (
    ApplierUnusable,
    ApplyError,
    ClusterRefusesAgent,
    EngineUnavailable,
    KindMissing,
    ListExpired,
    ObjectMissing,
)
from margo_gitops.values import dataclass
from margo_gitops.web.tls import alike

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from urllib3 import BaseHTTPResponse

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
MOST_BYTES: Final = 32 * 1024 * 1024
"""Of an answer."""
REQUEST_SECONDS: Final = 30.0

_PAGE, _MOST_PAGES, _CHUNK = 500, 20, 65536
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOME = "margo-gitops"
_AGAIN = (429, 503)
_SECONDS = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the API server has it.

    Attributes:
        plural: its name in paths.
        namespaced: whether its objects are in namespaces.
        verbs: what can be done with it.
    """

    api_version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: tuple[str, ...]

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return the path of an object, or of the list of them; without a namespace in all of them."""
        parts = ["api" if "/" not in self.api_version else "apis", *self.api_version.split("/")]
        if namespace and self.namespaced:
            parts += ["namespaces", quote(namespace, safe="")]
        return "/" + "/".join([*parts, self.plural, *([quote(name, safe="")] if name else [])])


def connect(context: ApplierContext, settings: Settings) -> ClusterClient:
    """Return the client of a cluster, from the settings kubeconfig, context and namespace; nothing is asked yet.

    Raises:
        ApplierUnusable: wrong settings, or the package `kubernetes` is missing.
    """
    kubeconfig, chosen, home = settings.path("kubeconfig"), settings.text("context"), settings.text("namespace")
    if chosen and kubeconfig is None:
        raise settings.wrong("context", "needs kubeconfig")
    if find_spec("kubernetes") is None:
        raise ApplierUnusable(
            "the package kubernetes is not installed", remedy="install it: pip install 'margo-gitops[kubernetes]'"
        )
    return ClusterClient(kubeconfig, chosen, home=home or _own_namespace(), use_proxy=context.proxy_from_environment)


def _own_namespace() -> str:
    """Return the namespace of the agent's pod; a name of our own outside a cluster."""
    try:
        return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or _HOME
    except OSError:
        return _HOME


class ClusterClient:
    """Asks an API server; every error is an `ApplyError` with what the server says.

    Args:
        kubeconfig: the file that says where it is; None: this process runs inside the cluster.
        context: of the kubeconfig; None: its current one.
        home: the namespace for the agent's own objects.
        use_proxy: whether the proxy that the environment names may be used.

    Attributes:
        requests, received: how many requests were sent, and bytes of answers read.
    """

    def __init__(
        self, kubeconfig: Path | None, context: str | None = None, *, home: str = _HOME, use_proxy: bool = False
    ) -> None:
        self.kubeconfig, self.context, self.home = kubeconfig, context, home
        self.requests = self.received = 0
        self._use_proxy = use_proxy
        self._api: ApiClient | None = None
        self._resources: dict[str, dict[str, Resource]] = {}
        self._versions: dict[str, tuple[str, ...]] = {}

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        seconds: float = REQUEST_SECONDS,
        about: str = "",
    ) -> tuple[int, Json]:
        """Send a request, and return the status below 300 and the answer.

        Args:
            body: sent as JSON; None: nothing is sent.
            seconds: after which it has failed, with what CLUSTER-3 takes.
            about: what it is about, for people.

        Raises:
            EngineUnavailable: the server does not answer, or says to try later (429, 5xx).
            ObjectMissing: what is asked is not there (404).
            ListExpired: a list must be read from its start again (410).
            ApplyError: the server refuses it; the class says why.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        deadline = time.monotonic() + seconds
        renewed, pause = False, 0.5
        while True:
            headers = {"Content-Type": content_type, "Accept": accept}
            response, answer = self._send(method, target, content, headers, deadline)
            status = response.status
            if status < 300:
                if path != "/version" and not text_at(answer, "kind"):
                    raise _silent(f"what answers {method} {path} is not an API server")
                return status, answer
            if status == 401 and not renewed:
                renewed, self._api = True, None
                continue
            told = response.headers.get("Retry-After", "")
            if status in _AGAIN and _SECONDS.fullmatch(told):
                pause = max(2 * pause, float(told))
                if time.monotonic() + pause < deadline:
                    time.sleep(pause)
                    continue
            raise refusal(status, answer, f"{method} {path}", about)

    def ask(self, path: str, *, query: Mapping[str, str] | None = None, accept: str = JSON) -> Json:
        """Return what is at a path; None where nothing is there."""
        try:
            return self.request("GET", path, query=query, accept=accept)[1]
        except ObjectMissing:
            return None

    def list_objects(
        self, resource: Resource, namespace: str = "", *, selector: str = "", metadata_only: bool = False
    ) -> list[dict[str, Json]]:
        """Return all objects of a kind with some labels; without a namespace of all namespaces."""
        for _ in range(3):
            try:
                return list(self._pages(resource, namespace, selector, METADATA_LIST if metadata_only else JSON))
            except ListExpired:
                continue
            except ObjectMissing:  # its CRD is gone, or has other versions now
                self.forget_kinds()
                found = self.resource_for(ObjectId(resource.api_version.rpartition("/")[0], resource.kind, "", ""))
                if found is None or found == resource:
                    return []
                resource = found
        raise EngineUnavailable(
            f"the list of {resource.plural} ends before it is read", remedy="wait: the agent tries again after a pause"
        )

    def _pages(self, resource: Resource, namespace: str, selector: str, accept: str) -> Iterator[dict[str, Json]]:
        query = {"limit": str(_PAGE), **({"labelSelector": selector} if selector else {})}
        for _ in range(_MOST_PAGES):
            answer = self.request("GET", resource.path(namespace), query=query, accept=accept, about=resource.plural)[1]
            if not text_at(answer, "kind").endswith("List"):
                raise _silent(f"it does not give a list of {resource.plural}")
            for each in list_at(answer, "items"):
                if isinstance(each, dict):  # items of a list do not say what they are
                    yield {**each, "apiVersion": resource.api_version, "kind": resource.kind}
            query["continue"] = text_at(answer, "metadata", "continue")
            if not query["continue"]:
                return
        raise EngineUnavailable(f"there are too many {resource.plural}", remedy="delete what is not needed")

    def resource(self, api_version: str, kind: str) -> Resource:
        """Return a kind as the server has it (KindMissing: it has none; CLUSTER-4)."""
        for fresh in (False, True):
            if fresh or api_version not in self._resources:
                self._resources[api_version] = self._discover(api_version)
            if found := self._resources[api_version].get(kind):
                return found
        group = api_version.rpartition("/")[0]
        versions = [each.rpartition("/")[2] for each in self.versions(group)] if group else []
        if self._resources[api_version] or api_version.rpartition("/")[2] in versions:
            why = f"{api_version} has no such kind"
        else:
            why = f"of {group}, it has {', '.join(versions)}" if versions else f"it has no {group or api_version}"
        raise KindMissing(
            f"the API server has no {kind} in {api_version}",
            why=[why],
            remedy="write an apiVersion that it has, or install what brings the kind",
        )

    def resource_of(self, obj: KubernetesObject) -> Resource:
        """Return the kind of an object (KindMissing, with its place)."""
        try:
            return self.resource(obj.api_version, obj.kind)
        except KindMissing as error:
            error.where = obj.place
            raise

    def resource_for(self, identity: ObjectId) -> Resource | None:
        """Return a kind by its group, in the version that the server prefers; None where it has none."""
        for version in self.versions(identity.group):
            try:
                return self.resource(version, identity.kind)
            except KindMissing:
                continue
        return None

    def versions(self, group: str) -> tuple[str, ...]:
        """Return the API versions of a group, the preferred one first; nothing where the server has no such group."""
        if not group:
            return ("v1",)
        if not self._versions.get(group):
            answer = self.ask(f"/apis/{group}")
            found = [mapping_at(answer, "preferredVersion"), *map(mapping_at, list_at(answer, "versions"))]
            self._versions[group] = tuple(
                dict.fromkeys(text for each in found if (text := text_at(each, "groupVersion")))
            )
        return self._versions[group]

    def every_resource(self, *, all_versions: bool = False) -> Iterator[Resource]:
        """Yield each kind that the server has, in its preferred version or in all."""
        groups = [text_at(each, "name") for each in list_at(self.ask("/apis"), "groups")]
        for group in ("", *groups):
            for version in self.versions(group)[: None if all_versions else 1]:
                if version not in self._resources:
                    self._resources[version] = self._discover(version)
                yield from self._resources[version].values()

    def first(self, resource: Resource, namespace: str = "", own: Collection[str] = ()) -> str:
        """Return the name of an object of a kind, other than some; empty where there is no such object."""
        query = {"limit": str(len(own) + 1)}
        answer = self.request("GET", resource.path(namespace), query=query, accept=METADATA_LIST)[1]
        names = [text_at(each, "metadata", "name") for each in list_at(answer, "items")]
        return next((name for name in names if name not in own), "")

    def forget_kinds(self) -> None:
        """Ask the server for its kinds again when one is needed: CRDs have come or gone."""
        self._resources.clear()
        self._versions.clear()

    def _discover(self, api_version: str) -> dict[str, Resource]:
        prefix = "/apis/" if "/" in api_version else "/api/"
        found = {}
        for each in list_at(self.ask(prefix + api_version), "resources"):
            plural, kind = text_at(each, "name"), text_at(each, "kind")
            if plural and "/" not in plural:
                verbs = tuple(verb for verb in list_at(each, "verbs") if isinstance(verb, str))
                found[kind] = Resource(api_version, kind, plural, mapping_at(each).get("namespaced") is True, verbs)
        return found

    def _send(
        self, method: str, target: str, content: bytes | None, headers: dict[str, str], deadline: float
    ) -> tuple[BaseHTTPResponse, Json]:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        api = self._connected()
        try:  # it may read a token, or run a plug-in, again
            api.update_params_for_auth(headers, [], ["BearerToken"], target, method, content)
        except Exception as error:
            raise _no_way(self.kubeconfig, error) from error
        left = max(deadline - time.monotonic(), 0.1)
        self.requests += 1
        try:
            response = api.rest_client.pool_manager.request(
                method,
                api.configuration.host + target,
                body=content,
                headers=headers,
                timeout=Timeout(total=left),
                preload_content=False,
                redirect=False,
                retries=False,
            )
            data = _body(response, deadline)
            response.release_conn() if len(data) <= MOST_BYTES else response.close()
        except (HTTPError, OSError, ValueError) as error:
            raise _silent(str(error)) from error
        self.received += len(data)
        if len(data) > MOST_BYTES:
            raise _silent(f"its answer has more than {MOST_BYTES} bytes")
        try:
            return response, json.loads(data) if data else None
        except (ValueError, RecursionError):
            return response, {"message": data[:200].decode(errors="replace").strip()}

    def _connected(self) -> ApiClient:
        if self._api is None:
            from kubernetes.client import ApiClient, Configuration
            from kubernetes.config import load_incluster_config, load_kube_config
            from urllib3.util.ssl_ import create_urllib3_context

            settings = Configuration()
            settings.proxy = settings.proxy if self._use_proxy else None
            try:
                if self.kubeconfig is None:
                    load_incluster_config(settings)  # type: ignore[no-untyped-call]
                else:
                    load_kube_config(  # type: ignore[no-untyped-call]
                        str(self.kubeconfig), self.context, settings, persist_config=False
                    )
            # The package, exec plug-ins and YAML readers below it raise what they like.
            except Exception as error:
                raise _no_way(self.kubeconfig, error) from error
            self._api = ApiClient(settings)
            pool = self._api.rest_client.pool_manager.connection_pool_kw
            pool["ssl_context"] = alike(create_urllib3_context(cert_reqs=pool.get("cert_reqs")))
        return self._api


def _body(response: BaseHTTPResponse, deadline: float) -> bytes:
    """Return the body of an answer, cut off after `MOST_BYTES` and a chunk (TimeoutError: it does not end in time)."""
    found = bytearray()
    while len(found) <= MOST_BYTES and (part := response.read1(_CHUNK, decode_content=True)):
        found += part
        if time.monotonic() > deadline:
            response.close()
            raise TimeoutError("its answer does not end in time")
    return bytes(found)


def _silent(why: str) -> EngineUnavailable:
    return EngineUnavailable(
        "the API server of the cluster does not answer",
        why=[why],
        remedy="start it, and check the address in the kubeconfig; the agent tries again after a pause",
    )


def _no_way(kubeconfig: Path | None, error: Exception) -> ApplyError:
    if kubeconfig is None:
        return ClusterRefusesAgent(
            "the agent is not in a cluster, and has no kubeconfig",
            why=[str(error)],
            remedy="set kubeconfig in the applier's settings, or run the agent as a pod with a service account",
        )
    return ClusterRefusesAgent(
        f"the kubeconfig {kubeconfig} cannot be used",
        why=[f"{type(error).__name__}: {error}"],
        remedy="correct it; `kubectl --kubeconfig FILE get --raw /version` shows whether it works",
    )
