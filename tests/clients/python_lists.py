"""Lists in pages, watches that go on or begin anew, and each kind of patch."""

import json
import unittest

from kubernetes import client, dynamic, watch
from kubernetes.client.rest import ApiException

from python_client import SPACE, eventually, refused, setUpModule, tearDownModule  # noqa: F401


def config_map(name, **data):
    return {"metadata": {"name": name, "labels": {"made": "here"}}, "data": data}


def overflow(core):
    """Change one object until the log of its resource holds nothing of before."""
    core.create_namespaced_config_map(SPACE, config_map("large"))
    for number in range(24):
        data = {"data": {"filling": str(number) + "-" * 900_000}}
        core.patch_namespaced_config_map("large", SPACE, data)
    core.delete_namespaced_config_map("large", SPACE)


class Watches(unittest.TestCase):
    def setUp(self):
        self.core = client.CoreV1Api()
        self.addCleanup(
            self.core.delete_collection_namespaced_config_map, SPACE, label_selector="made=here"
        )

    def seen(self, revision, **more):
        """What one watch of a second says, and where to go on."""
        watcher = watch.Watch()
        events = watcher.stream(
            self.core.list_namespaced_config_map,
            SPACE,
            label_selector="made=here",
            resource_version=revision,
            timeout_seconds=1,
            **more,
        )
        said = [(event["type"], event["raw_object"]["metadata"].get("name")) for event in events]
        return said, watcher.resource_version

    def test_a_watch_goes_on_where_another_ended(self):
        revision = self.core.list_namespaced_config_map(SPACE).metadata.resource_version
        self.core.create_namespaced_config_map(SPACE, config_map("first"))
        said, revision = self.seen(revision)
        self.assertEqual(said, [("ADDED", "first")])
        self.core.patch_namespaced_config_map("first", SPACE, {"data": {"a": "b"}})
        self.core.create_namespaced_config_map(SPACE, config_map("second"))
        self.core.delete_namespaced_config_map("first", SPACE)
        said, revision = self.seen(revision)
        self.assertEqual(said, [("MODIFIED", "first"), ("ADDED", "second"), ("DELETED", "first")])
        # A label that no longer fits is a deletion to who watches by it.
        unlabel = {"metadata": {"labels": {"made": None}}}
        self.core.patch_namespaced_config_map("second", SPACE, unlabel)
        said, revision = self.seen(revision)
        self.assertEqual(said, [("DELETED", "second")])
        self.core.delete_namespaced_config_map("second", SPACE)

    def test_bookmarks_carry_the_revision_on(self):
        revision = self.core.list_namespaced_config_map(SPACE).metadata.resource_version
        self.core.create_namespaced_secret(SPACE, {"metadata": {"name": "elsewhere"}})
        said, later = self.seen(revision, allow_watch_bookmarks=True)
        self.assertEqual(said, [("BOOKMARK", None)])
        self.assertGreater(int(later), int(revision))
        self.core.delete_namespaced_secret("elsewhere", SPACE)

    def test_an_initial_list_comes_as_a_stream(self):
        for name in ["a", "b"]:
            self.core.create_namespaced_config_map(SPACE, config_map(name))
        said, _ = self.seen(
            None,
            allow_watch_bookmarks=True,
            send_initial_events=True,
            resource_version_match="NotOlderThan",
        )
        self.assertEqual(said[:3], [("ADDED", "a"), ("ADDED", "b"), ("BOOKMARK", None)])

    def test_a_revision_that_is_gone_is_answered_with_410(self):
        old = self.core.list_namespaced_config_map(SPACE).metadata.resource_version
        self.core.create_namespaced_config_map(SPACE, config_map("page-1"))
        self.core.create_namespaced_config_map(SPACE, config_map("page-2"))
        token = self.core.list_namespaced_config_map(SPACE, limit=1).metadata._continue
        overflow(self.core)
        with self.assertRaises(ApiException) as caught:
            self.seen(old)
        self.assertEqual(caught.exception.status, 410)
        self.assertIn("too old resource version", caught.exception.reason)
        # Without a limit of time the client lists and watches again by itself; here it is done by
        # hand, as its documentation says.
        now = self.core.list_namespaced_config_map(SPACE).metadata.resource_version
        self.core.create_namespaced_config_map(SPACE, config_map("after"))
        said, _ = self.seen(now)
        self.assertEqual(said, [("ADDED", "after")])
        # A page of a list that old is refused, with a token that goes on with the present.
        with self.assertRaises(ApiException) as caught:
            self.core.list_namespaced_config_map(SPACE, limit=1, _continue=token)
        self.assertEqual(caught.exception.status, 410)
        status = json.loads(caught.exception.body)
        self.assertEqual(status["reason"], "Expired")
        token = status["metadata"]["continue"]
        rest = self.core.list_namespaced_config_map(SPACE, _continue=token)
        names = [item.metadata.name for item in rest.items]
        self.assertEqual(names[-2:], ["page-1", "page-2"])
        refused(
            self, 410, "Expired", self.core.list_namespaced_config_map, SPACE,
            resource_version=old, resource_version_match="Exact",
        )


class Lists(unittest.TestCase):
    def setUp(self):
        self.core = client.CoreV1Api()
        for number in range(5):
            self.core.create_namespaced_config_map(SPACE, config_map("page-%d" % number))
        self.addCleanup(
            self.core.delete_collection_namespaced_config_map, SPACE, label_selector="made=here"
        )

    def test_pages_count_what_remains(self):
        remaining, token, names = [], None, []
        while True:
            page = self.core.list_namespaced_config_map(SPACE, limit=2, _continue=token)
            names += [item.metadata.name for item in page.items]
            remaining.append(page.metadata.remaining_item_count)
            token = page.metadata._continue
            if not token:
                break
        # Five of ours and the standing one.
        self.assertEqual(remaining, [4, 2, None])
        self.assertEqual(names, ["kube-root-ca.crt"] + ["page-%d" % n for n in range(5)])

    def test_tokens_are_not_to_be_made_up(self):
        refused(
            self, 400, "BadRequest", self.core.list_namespaced_config_map, SPACE, _continue="made-up"
        )
        token = self.core.list_namespaced_config_map(SPACE, limit=2).metadata._continue
        refused(
            self, 400, "BadRequest", self.core.list_namespaced_config_map, SPACE,
            _continue=token, resource_version="1",
        )

    def test_pages_of_all_namespaces(self):
        token, names = None, []
        while True:
            page = self.core.list_config_map_for_all_namespaces(limit=3, _continue=token)
            names += [(i.metadata.namespace, i.metadata.name) for i in page.items]
            token = page.metadata._continue
            if not token:
                break
        self.assertEqual(names, sorted(names))
        self.assertIn((SPACE, "page-4"), names)


class Patches(unittest.TestCase):
    def setUp(self):
        self.apps = client.AppsV1Api()
        self.apps.create_namespaced_deployment(
            SPACE,
            {
                "metadata": {"name": "patched"},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": {"app": "patched"}},
                    "template": {
                        "metadata": {"labels": {"app": "patched"}},
                        "spec": {"containers": [{"name": "main", "image": "none/one"}]},
                    },
                },
            },
        )
        self.addCleanup(self.apps.delete_namespaced_deployment, "patched", SPACE)

    def patch(self, body, **more):
        answer = self.apps.patch_namespaced_deployment("patched", SPACE, body, **more)
        return {c.name: c.image for c in answer.spec.template.spec.containers}

    def test_lists_are_merged_by_key_replaced_or_edited(self):
        side = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "none/two"}]}}}}
        strategic = "application/strategic-merge-patch+json"
        both = {"main": "none/one", "side": "none/two"}
        self.assertEqual(self.patch(side, _content_type=strategic), both)
        gone = {"name": "main", "$patch": "delete"}
        body = {"spec": {"template": {"spec": {"containers": [gone]}}}}
        self.assertEqual(self.patch(body, _content_type=strategic), {"side": "none/two"})
        main = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "none/3"}]}}}}
        merge = "application/merge-patch+json"
        self.assertEqual(self.patch(main, _content_type=merge), {"main": "none/3"})
        place = "/spec/template/spec/containers"
        steps = [
            {"op": "test", "path": place + "/0/name", "value": "main"},
            {"op": "copy", "from": place + "/0", "path": place + "/-"},
            {"op": "replace", "path": place + "/1/name", "value": "copy"},
            {"op": "move", "from": place + "/1", "path": place + "/0"},
        ]
        answer = self.patch(steps, _content_type="application/json-patch+json")
        self.assertEqual(answer, {"copy": "none/3", "main": "none/3"})
        with self.assertRaises(ApiException) as caught:
            self.patch([{"op": "test", "path": "/spec/replicas", "value": 9}])
        self.assertEqual(caught.exception.status, 422)

    def test_an_apply_patch_needs_a_manager_and_may_force(self):
        apply = {"_content_type": "application/apply-patch+yaml"}
        body = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "patched"},
            "spec": {"replicas": 1},
        }
        refused(
            self, 422, "Invalid",
            self.apps.patch_namespaced_deployment, "patched", SPACE, body, **apply,
        )
        apply["field_manager"] = "python"
        with self.assertRaises(ApiException) as caught:
            self.patch(body, **apply)
        self.assertEqual(caught.exception.status, 409)
        cause = json.loads(caught.exception.body)["details"]["causes"][0]
        self.assertEqual((cause["reason"], cause["field"]), ("FieldManagerConflict", ".spec.replicas"))
        self.patch(body, force=True, **apply)
        scale = self.apps.read_namespaced_deployment_scale("patched", SPACE)
        self.assertEqual(scale.spec.replicas, 1)

    def test_an_unknown_kind_of_patch_is_refused(self):
        with self.assertRaises(ApiException) as caught:
            self.patch({}, _content_type="application/json")
        self.assertEqual(caught.exception.status, 415)
        self.assertIn("Unsupported Media Type", caught.exception.body)


class DynamicCustomResources(unittest.TestCase):
    GROUP = "dynamic.example.test"

    def definition(self):
        versions = []
        for name, storage in [("v1", True), ("v1beta1", False)]:
            versions.append(
                {
                    "name": name,
                    "served": True,
                    "storage": storage,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.size",
                            "statusReplicasPath": ".status.size",
                        },
                    },
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                "spec": {
                                    "type": "object",
                                    "properties": {
                                        "size": {"type": "integer", "default": 1},
                                        "tags": {"type": "array", "items": {"type": "string"}},
                                    },
                                },
                                "status": {
                                    "type": "object",
                                    "properties": {"size": {"type": "integer"}},
                                },
                            },
                        }
                    },
                }
            )
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "rafts." + self.GROUP},
            "spec": {
                "group": self.GROUP,
                "scope": "Namespaced",
                "names": {"plural": "rafts", "singular": "raft", "kind": "Raft", "shortNames": ["rf"]},
                "versions": versions,
            },
        }

    def test_what_a_definition_adds_is_found_and_used(self):
        dynamics = dynamic.DynamicClient(client.ApiClient())
        definitions = dynamics.resources.get(
            api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition"
        )
        name = "rafts." + self.GROUP
        definitions.create(body=self.definition())
        self.addCleanup(definitions.delete, name=name)

        def found():
            dynamics.resources.invalidate_cache()
            try:
                return dynamics.resources.get(api_version=self.GROUP + "/v1", kind="Raft")
            except dynamic.exceptions.ResourceNotFoundError:
                return None

        rafts = eventually(found, 20)
        self.assertEqual(sorted(rafts.subresources), ["scale", "status"])
        raft = {
            "apiVersion": self.GROUP + "/v1",
            "kind": "Raft",
            "metadata": {"name": "log"},
            "spec": {"tags": ["a"]},
        }
        made = rafts.create(body=raft, namespace=SPACE)
        self.assertEqual(made.spec.size, 1)
        merge = {"content_type": "application/merge-patch+json"}
        rafts.patch(name="log", namespace=SPACE, body={"spec": {"size": 4}}, **merge)
        status = {"status": {"size": 3}, "spec": {"size": 9}}
        after = rafts.status.patch(name="log", namespace=SPACE, body=status, **merge)
        self.assertEqual((after.status.size, after.spec.size), (3, 4))
        scale = rafts.scale.get(name="log", namespace=SPACE)
        self.assertEqual((scale.spec.replicas, scale.status.replicas), (4, 3))
        # A custom resource has no strategic merge.
        with self.assertRaises(dynamic.exceptions.DynamicApiError) as caught:
            rafts.patch(
                name="log", namespace=SPACE, body={},
                content_type="application/strategic-merge-patch+json",
            )
        self.assertEqual(caught.exception.status, 415)
        older = dynamics.resources.get(api_version=self.GROUP + "/v1beta1", kind="Raft")
        shown = older.get(name="log", namespace=SPACE)
        self.assertEqual((shown.apiVersion, shown.spec.size), (self.GROUP + "/v1beta1", 4))
        kinds = []
        for event in rafts.watch(namespace=SPACE, timeout=1):
            kinds.append((event["type"], event["object"].metadata.name))
        self.assertEqual(kinds, [("ADDED", "log")])
        listed = rafts.get(namespace=SPACE, field_selector="metadata.name=log")
        self.assertEqual([item.metadata.name for item in listed.items], ["log"])
        rafts.delete(name="log", namespace=SPACE)
        self.assertEqual(rafts.get(namespace=SPACE).items, [])
