"""The official Python client against a running host.

usage, in this folder:
    KUBECONFIG=… python3 -W ignore -m unittest -v python_client python_lists python_manifests

Everything happens in a namespace of its own. IMAGE_WEB names a Wasm web service in the host's
registry, and IMAGE_BUSYBOX, if set, a container image with a shell; without it what needs one is
skipped.
"""

import os
import threading
import time
import unittest

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

SPACE = "python-client"


def eventually(what, seconds=60):
    """The first truthy answer of `what`, or a failure."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = what()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError("not within %s s" % seconds)


def setUpModule():
    config.load_kube_config()
    core = client.CoreV1Api()
    core.create_namespace({"metadata": {"name": SPACE}})
    eventually(lambda: core.list_namespaced_service_account(SPACE).items)


def tearDownModule():
    core = client.CoreV1Api()
    core.delete_namespace(SPACE)
    gone = lambda: SPACE not in [n.metadata.name for n in core.list_namespace().items]
    eventually(gone)


def refused(case, status, reason, call, *arguments, **options):
    with case.assertRaises(ApiException) as caught:
        call(*arguments, **options)
    case.assertEqual(caught.exception.status, status)
    case.assertIn('"reason":"%s"' % reason, caught.exception.body.replace(" ", ""))


class Objects(unittest.TestCase):
    def setUp(self):
        self.core = client.CoreV1Api()

    def test_an_object_is_created_read_replaced_patched_and_deleted(self):
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="life"), data={"a": "1"})
        made = self.core.create_namespaced_config_map(SPACE, body)
        self.assertTrue(made.metadata.uid)
        refused(self, 409, "AlreadyExists", self.core.create_namespaced_config_map, SPACE, body)
        made.data["b"] = "2"
        changed = self.core.replace_namespaced_config_map("life", SPACE, made)
        self.assertNotEqual(changed.metadata.resource_version, made.metadata.resource_version)
        refused(self, 409, "Conflict", self.core.replace_namespaced_config_map, "life", SPACE, made)
        patched = self.core.patch_namespaced_config_map("life", SPACE, {"data": {"a": None, "c": "3"}})
        self.assertEqual(patched.data, {"b": "2", "c": "3"})
        steps = [{"op": "replace", "path": "/data/b", "value": "4"}]
        patched = self.core.patch_namespaced_config_map("life", SPACE, steps)
        self.assertEqual(patched.data, {"b": "4", "c": "3"})
        self.core.delete_namespaced_config_map("life", SPACE)
        refused(self, 404, "NotFound", self.core.read_namespaced_config_map, "life", SPACE)

    def test_a_list_comes_in_pages_of_one_revision(self):
        for number in range(7):
            meta = client.V1ObjectMeta(name="page-%d" % number, labels={"page": "yes"})
            self.core.create_namespaced_config_map(SPACE, client.V1ConfigMap(metadata=meta))
        seen, token, revisions = [], None, set()
        while True:
            page = self.core.list_namespaced_config_map(
                SPACE, label_selector="page=yes", limit=3, _continue=token
            )
            seen += [item.metadata.name for item in page.items]
            revisions.add(page.metadata.resource_version)
            token = page.metadata._continue
            if not token:
                break
        self.assertEqual(seen, ["page-%d" % n for n in range(7)])
        self.assertEqual(len(revisions), 1)

    def test_a_watch_sees_changes_in_order(self):
        revision = self.core.list_namespaced_secret(SPACE).metadata.resource_version

        def change():
            body = client.V1Secret(
                metadata=client.V1ObjectMeta(name="watched"), string_data={"a": "1"}
            )
            self.core.create_namespaced_secret(SPACE, body)
            self.core.patch_namespaced_secret("watched", SPACE, {"stringData": {"a": "2"}})
            self.core.delete_namespaced_secret("watched", SPACE)

        worker = threading.Thread(target=change)
        worker.start()
        seen = []
        events = watch.Watch().stream(
            self.core.list_namespaced_secret, SPACE, resource_version=revision, timeout_seconds=20
        )
        for event in events:
            if event["object"].metadata.name == "watched":
                seen.append(event["type"])
            if seen and seen[-1] == "DELETED":
                break
        worker.join()
        self.assertEqual(seen, ["ADDED", "MODIFIED", "DELETED"])

    def test_what_is_wrong_is_said_by_field(self):
        pod = {"metadata": {"name": "Wrong Name"}, "spec": {"containers": []}}
        with self.assertRaises(ApiException) as caught:
            self.core.create_namespaced_pod(SPACE, pod)
        self.assertEqual(caught.exception.status, 422)
        self.assertIn("spec.containers: Required value", caught.exception.body)


class Apply(unittest.TestCase):
    def test_two_managers_share_an_object_and_conflict_over_a_field(self):
        dynamics = dynamic.DynamicClient(client.ApiClient())
        deployments = dynamics.resources.get(api_version="apps/v1", kind="Deployment")

        def body(replicas, image):
            return {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "applied", "namespace": SPACE},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"app": "applied"}},
                    "template": {
                        "metadata": {"labels": {"app": "applied"}},
                        "spec": {"containers": [{"name": "main", "image": image}]},
                    },
                },
            }

        first = deployments.server_side_apply(
            body=body(0, "none/one"), namespace=SPACE, name="applied", field_manager="first"
        )
        managers = [entry.manager for entry in first.metadata.managedFields]
        self.assertEqual(managers, ["first"])
        with self.assertRaises(ApiException) as caught:
            deployments.server_side_apply(
                body=body(1, "none/one"), namespace=SPACE, name="applied", field_manager="second"
            )
        self.assertEqual(caught.exception.status, 409)
        self.assertIn(".spec.replicas", str(caught.exception.body))
        forced = deployments.server_side_apply(
            body=body(0, "none/two"),
            namespace=SPACE,
            name="applied",
            field_manager="second",
            force_conflicts=True,
        )
        self.assertEqual(forced.spec.template.spec.containers[0].image, "none/two")
        deployments.delete(name="applied", namespace=SPACE)


class CustomResources(unittest.TestCase):
    def test_a_definition_is_served_checked_and_removed(self):
        definitions = client.ApiextensionsV1Api()
        schema = {
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "properties": {"size": {"type": "integer", "minimum": 1, "default": 3}},
                    "x-kubernetes-validations": [
                        {"rule": "self.size < 10", "message": "size must be small"}
                    ],
                }
            },
        }
        definitions.create_custom_resource_definition(
            {
                "metadata": {"name": "boats.py.example.test"},
                "spec": {
                    "group": "py.example.test",
                    "scope": "Namespaced",
                    "names": {"plural": "boats", "singular": "boat", "kind": "Boat"},
                    "versions": [
                        {
                            "name": "v1",
                            "served": True,
                            "storage": True,
                            "schema": {"openAPIV3Schema": schema},
                        }
                    ],
                },
            }
        )
        api = client.CustomObjectsApi()
        place = ("py.example.test", "v1", SPACE, "boats")
        kind = {"apiVersion": "py.example.test/v1", "kind": "Boat"}

        def create(name, spec):
            return api.create_namespaced_custom_object(
                *place, {**kind, "metadata": {"name": name}, "spec": spec}
            )

        def served():
            try:
                return create("tender", {"unknown": 1})
            except ApiException as error:
                if error.status == 404:
                    return None
                raise

        made = eventually(served, 10)
        self.assertEqual(made["spec"], {"size": 3})
        for spec, words in [({"size": 0}, "greater than or equal to 1"), ({"size": 12}, "size must be small")]:
            with self.assertRaises(ApiException) as caught:
                create("other", spec)
            self.assertEqual(caught.exception.status, 422)
            self.assertIn(words, caught.exception.body)
        definitions.delete_custom_resource_definition("boats.py.example.test")

        def gone():
            try:
                api.list_namespaced_custom_object(*place)
            except ApiException as error:
                return error.status == 404

        eventually(gone, 20)


class Access(unittest.TestCase):
    def test_a_service_account_may_do_what_its_role_says(self):
        core, rbac = client.CoreV1Api(), client.RbacAuthorizationV1Api()
        core.create_namespaced_service_account(SPACE, {"metadata": {"name": "reader"}})
        rbac.create_namespaced_role(
            SPACE,
            {
                "metadata": {"name": "reader"},
                "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}],
            },
        )
        rbac.create_namespaced_role_binding(
            SPACE,
            {
                "metadata": {"name": "reader"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
                "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": SPACE}],
            },
        )
        request = client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)
        )
        answer = core.create_namespaced_service_account_token("reader", SPACE, request)
        own = client.Configuration.get_default_copy()
        own.cert_file = own.key_file = None
        own.api_key = {"authorization": "Bearer " + answer.status.token}
        reader = client.CoreV1Api(client.ApiClient(own))
        reader.list_namespaced_config_map(SPACE)
        refused(self, 403, "Forbidden", reader.list_namespaced_secret, SPACE)
        refused(self, 403, "Forbidden", reader.delete_namespaced_config_map, "x", SPACE)
        own.api_key = {"authorization": "Bearer forged"}
        stranger = client.CoreV1Api(client.ApiClient(own))
        refused(self, 401, "Unauthorized", stranger.list_namespaced_config_map, SPACE)


class Pods(unittest.TestCase):
    def run_pod(self, name, image, **more):
        core = client.CoreV1Api()
        container = {"name": "main", "image": image, **more}
        core.create_namespaced_pod(
            SPACE,
            {
                "metadata": {"name": name},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        )

        def running():
            pod = core.read_namespaced_pod(name, SPACE)
            return pod if pod.status.phase == "Running" else None

        return eventually(running)

    def test_a_guest_serves_through_a_forwarded_port(self):
        self.run_pod("web", os.environ["IMAGE_WEB"], ports=[{"containerPort": 8080}])
        core = client.CoreV1Api()
        forward = portforward(
            core.connect_get_namespaced_pod_portforward, "web", SPACE, ports="8080"
        )
        socket = forward.socket(8080)
        socket.setblocking(True)
        socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := socket.recv(4096):
            answer += chunk
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"), answer)
        core.delete_namespaced_pod("web", SPACE)

    @unittest.skipUnless(os.environ.get("IMAGE_BUSYBOX"), "SKIPPED: no container image")
    def test_a_program_runs_in_a_container(self):
        command = ["/bin/sh", "-c", "echo started; while true; do sleep 1; done"]
        self.run_pod("shell", os.environ["IMAGE_BUSYBOX"], command=command)
        core = client.CoreV1Api()
        said = stream(
            core.connect_get_namespaced_pod_exec,
            "shell",
            SPACE,
            command=["/bin/sh", "-c", "echo out; echo err >&2"],
            stdout=True,
            stderr=True,
            stdin=False,
            tty=False,
        )
        self.assertEqual(sorted(said.split()), ["err", "out"])
        session = stream(
            core.connect_get_namespaced_pod_exec,
            "shell",
            SPACE,
            command=["/bin/sh"],
            stdout=True,
            stderr=True,
            stdin=True,
            tty=False,
            _preload_content=False,
        )
        session.write_stdin("echo typed; exit 9\n")
        session.run_forever(timeout=20)
        self.assertEqual(session.read_stdout(), "typed\n")
        self.assertEqual(session.returncode, 9)
        log = eventually(lambda: core.read_namespaced_pod_log("shell", SPACE))
        self.assertEqual(log, "started\n")
        core.delete_namespaced_pod("shell", SPACE)


class Manifests(unittest.TestCase):
    def test_objects_of_several_kinds_are_created_from_one_document(self):
        documents = [
            {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}},
            {
                "apiVersion": "batch/v1",
                "kind": "CronJob",
                "spec": {
                    "schedule": "0 0 1 1 *",
                    "suspend": True,
                    "jobTemplate": {
                        "spec": {
                            "template": {
                                "spec": {
                                    "restartPolicy": "Never",
                                    "containers": [{"name": "main", "image": "none/none"}],
                                }
                            }
                        }
                    },
                },
            },
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "spec": {"podSelector": {}},
            },
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "spec": {
                    "maxReplicas": 3,
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"},
                },
            },
        ]
        for document in documents:
            document["metadata"] = {"name": "together", "namespace": SPACE}
            utils.create_from_dict(client.ApiClient(), document)
        service = client.CoreV1Api().read_namespaced_service("together", SPACE)
        self.assertRegex(service.spec.cluster_ip, r"^10\.")
        job = client.BatchV1Api().read_namespaced_cron_job("together", SPACE)
        self.assertEqual(job.spec.concurrency_policy, "Allow")
