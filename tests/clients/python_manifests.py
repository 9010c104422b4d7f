"""What Helm renders for a typical web application, created from one file of many documents."""

import os
import unittest

from kubernetes import client, utils

from python_client import SPACE, eventually, setUpModule, tearDownModule  # noqa: F401

CHART = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rendered.yaml")


class Rendered(unittest.TestCase):
    def test_every_document_of_a_rendered_chart_is_created(self):
        made = utils.create_from_yaml(client.ApiClient(), CHART, namespace=SPACE)
        kinds = [group[0].kind for group in made]
        self.assertEqual(len(kinds), 17)
        labels = "app.kubernetes.io/instance=shop,app.kubernetes.io/managed-by=Helm"
        core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
        service = core.list_namespaced_service(SPACE, label_selector=labels).items[0]
        self.assertRegex(service.spec.cluster_ip, r"^10\.")
        deployment = apps.read_namespaced_deployment("shop", SPACE)
        container = deployment.spec.template.spec.containers[0]
        self.assertEqual(container.liveness_probe.period_seconds, 10)
        self.assertEqual(container.env[1].value_from.secret_key_ref.name, "shop-database")
        self.assertEqual(deployment.spec.strategy.rolling_update.max_surge, "25%")
        secret = core.read_namespaced_secret("shop-database", SPACE)
        self.assertEqual(secret.data["username"], "c2hvcA==")
        scaler = client.AutoscalingV2Api().read_namespaced_horizontal_pod_autoscaler("shop", SPACE)
        self.assertEqual(len(scaler.spec.metrics), 2)
        job = batch.read_namespaced_cron_job("shop-report", SPACE)
        self.assertEqual(job.spec.successful_jobs_history_limit, 3)
        hooks = {
            job.metadata.name: job.metadata.annotations["helm.sh/hook"]
            for job in batch.list_namespaced_job(SPACE).items
        }
        self.assertEqual(
            hooks, {"shop-migrate": "pre-install,pre-upgrade", "shop-smoke": "post-install,test"}
        )
        ingress = client.NetworkingV1Api().read_namespaced_ingress("shop", SPACE)
        self.assertEqual(ingress.spec.rules[0].http.paths[0].backend.service.port.name, "http")
        account = "system:serviceaccount:%s:shop" % SPACE
        review = client.AuthorizationV1Api().create_subject_access_review(
            {
                "spec": {
                    "user": account,
                    "resourceAttributes": {
                        "namespace": SPACE, "verb": "watch", "resource": "configmaps",
                    },
                }
            }
        )
        self.assertTrue(review.status.allowed)

        # The pods come, under the chart's own account.
        def pods():
            selector = "app.kubernetes.io/name=shop"
            return core.list_namespaced_pod(SPACE, label_selector=selector).items

        pod = eventually(pods)[0]
        self.assertEqual(pod.spec.service_account_name, "shop")

        # Once more is told for each object, and changes none.
        with self.assertRaises(utils.FailToCreateError) as caught:
            utils.create_from_yaml(client.ApiClient(), CHART, namespace=SPACE)
        reasons = {error.reason for error in caught.exception.api_exceptions}
        self.assertEqual(reasons, {"Conflict"})
        self.assertEqual(len(caught.exception.api_exceptions), 17)
        again = apps.read_namespaced_deployment("shop", SPACE)
        self.assertEqual(again.metadata.generation, deployment.metadata.generation)
        rights = client.RbacAuthorizationV1Api()
        rights.delete_cluster_role_binding("shop-python-client")
        rights.delete_cluster_role("shop-python-client")
