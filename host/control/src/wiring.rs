//! What the controllers of Services, of jobs, of nodes and of storage listen to.

use std::sync::Mutex;

use eyot_client::{Cache, Change, Controller, Key, Watches, view::Pod};
use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{Endpoints, Node, PersistentVolume, PersistentVolumeClaim, Service},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
    storage::v1::StorageClass,
};
use kube::{Api, Client, runtime::watcher};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Clients,
    announce::Announcer,
    cron_job::{self, CronJobs},
    disruption::{self, Disruptions},
    endpoint_slice::{self, EndpointSlices, mirror},
    endpoints::{self, AllEndpoints},
    horizontal_pod_autoscaler::{self, HorizontalPodAutoscalers},
    job,
    node_labels::{self, NodeLabels},
    node_life::{self, NodeLives},
    pod_control::PodControl,
    pod_gc::{self, PodGc},
    service, storage,
    taint_eviction::{self, TaintEvictions},
};

/// Starts controllers.
pub(crate) struct Wiring<'a> {
    pub(crate) clients: &'a Clients,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) watches: &'a Watches,
    pub(crate) pods: &'a Cache<Pod>,
    pub(crate) nodes: &'a Cache<Node>,
    pub(crate) claims: &'a Cache<PersistentVolumeClaim>,
    pub(crate) volumes: &'a Cache<PersistentVolume>,
    pub(crate) classes: &'a Cache<StorageClass>,
    pub(crate) tasks: &'a mut JoinSet<()>,
}

impl Wiring<'_> {
    pub(crate) fn start(mut self) {
        self.endpoints();
        self.jobs();
        self.taints();
        self.nodes();
        self.budgets();
        self.autoscalers();
        self.storage();
    }

    fn announcer(&self, client: &Client, component: &'static str) -> Announcer {
        Announcer::start(client.clone(), component, self.stop.clone())
    }

    fn run<R: eyot_client::Reconciler>(&mut self, controller: Controller<R>) {
        self.tasks.spawn(controller.run(self.stop.clone()));
    }

    fn taints(&mut self) {
        let client = self.clients.controller("node-controller");
        let there = self.pods.clone();
        let evicting = Controller::new(TaintEvictions {
            client: client.clone(),
            pods: self.pods.clone(),
            nodes: self.nodes.clone(),
            announcer: self.announcer(&client, "taint-eviction-controller"),
            leaving: Mutex::default(),
        })
        .on(self.pods, |change| taint_eviction::of_pod(&change))
        .on(self.nodes, move |change| {
            taint_eviction::of_node(&there, &change)
        });
        self.run(evicting);
    }

    fn storage(&mut self) {
        let client = self.clients.controller("persistent-volume-binder");
        let announcer = self.announcer(&client, "persistentvolume-controller");
        let [of_volumes, of_classes] = [(); 2].map(|()| self.claims.clone());
        let binding = Controller::new(storage::claims::Claims {
            client: client.clone(),
            claims: self.claims.clone(),
            volumes: self.volumes.clone(),
            classes: self.classes.clone(),
            pods: self.pods.clone(),
            nodes: self.nodes.clone(),
            announcer: announcer.clone(),
        })
        // One after the other, so that no two take the same volume.
        .concurrency(1)
        .on(self.claims, |change| Some(change.key.clone()))
        .on(self.volumes, move |change| {
            storage::claims::of_volume(&of_volumes, &change)
        })
        .on(self.classes, move |_| {
            storage::claims::of_class(&of_classes)
        })
        .on(self.pods, |_| None)
        .on(self.nodes, |_| None);
        let of_claims = self.volumes.clone();
        let reclaiming = Controller::new(storage::volumes::Volumes {
            client: client.clone(),
            claims: self.claims.clone(),
            volumes: self.volumes.clone(),
            announcer,
        })
        .on(self.volumes, |change| Some(change.key.clone()))
        .on(self.claims, move |change| {
            storage::volumes::of_claim(&of_claims, &change)
        });
        let client = self.clients.controller("ephemeral-volume-controller");
        let making = Controller::new(storage::ephemeral::Ephemeral {
            client: client.clone(),
            pods: self.pods.clone(),
            claims: self.claims.clone(),
            announcer: self.announcer(&client, "ephemeral-volume-controller"),
        })
        .on(self.pods, |change| {
            let pod = change.after.filter(|pod| storage::ephemeral::concerns(pod));
            pod.map(|_| change.key.clone())
        })
        .on(self.claims, |_| None);
        self.run(binding);
        self.run(reclaiming);
        self.run(making);
    }

    fn nodes(&mut self) {
        let client = self.clients.controller("node-controller");
        let leases: Cache<Lease> = Cache::default();
        let there = self.nodes.clone();
        let living = Controller::new(NodeLives::new(
            client.clone(),
            self.nodes.clone(),
            self.pods.clone(),
            &leases,
            self.announcer(&client, "node-controller"),
        ))
        .on(self.nodes, move |change| {
            node_life::of_node(&there, &change)
        });
        self.run(living);
        let labelling = Controller::new(NodeLabels {
            client,
            nodes: self.nodes.clone(),
        })
        .on(self.nodes, |change| node_labels::of_node(&change));
        self.run(labelling);
        let api = Api::namespaced(self.clients.reader(), node_life::LEASES);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            leases.run(api, watcher::Config::default(), stop).await;
        });
        let (nodes, pods) = (self.nodes.clone(), self.pods.clone());
        let clearing = Controller::new(PodGc {
            client: self.clients.controller("pod-garbage-collector"),
            pods: self.pods.clone(),
            nodes: self.nodes.clone(),
            missing: Mutex::default(),
            counted: Mutex::default(),
        })
        .on(self.pods, move |change| pod_gc::of_pod(&nodes, &change))
        .on(self.nodes, move |change| pod_gc::of_node(&pods, &change));
        self.run(clearing);
    }

    fn endpoints(&mut self) {
        let services: Cache<Service> = self.watches.of();
        let all: Cache<Endpoints> = self.watches.of();
        let slices: Cache<EndpointSlice> = self.watches.of();
        let of_service = |change: Change<'_, Service>| Some(change.key.clone());
        let (here, there, everywhere) = (services.clone(), services.clone(), services.clone());
        let client = self.clients.controller("endpointslice-controller");
        let slicing = Controller::new(EndpointSlices {
            client: client.clone(),
            services: services.clone(),
            pods: self.pods.clone(),
            nodes: self.nodes.clone(),
            slices: slices.clone(),
            announcer: self.announcer(&client, "endpoint-slice-controller"),
        })
        .on(&services, of_service)
        .on(self.pods, move |change| service::of_pod(&here, &change))
        .on(self.nodes, move |change| {
            let touched = endpoint_slice::moves(&change);
            let services = touched.then(|| everywhere.list()).into_iter().flatten();
            services.map(|s| Key::of(&s.metadata)).collect::<Vec<_>>()
        })
        .on(&slices, |change| {
            change
                .object()
                .and_then(|slice| endpoint_slice::of_slice(slice))
        });
        let client = self.clients.controller("endpointslicemirroring-controller");
        let mirroring = Controller::new(mirror::Mirror {
            client: client.clone(),
            services: services.clone(),
            endpoints: all.clone(),
            slices: slices.clone(),
            announcer: self.announcer(&client, "endpoint-slice-mirroring-controller"),
        })
        .on(&services, of_service)
        .on(&all, |change| Some(change.key.clone()))
        .on(&slices, |change| {
            change.object().and_then(|slice| mirror::of_slice(slice))
        });
        let client = self.clients.controller("endpoint-controller");
        let listing = Controller::new(AllEndpoints {
            client: client.clone(),
            services: services.clone(),
            pods: self.pods.clone(),
            endpoints: all.clone(),
            announcer: self.announcer(&client, "endpoint-controller"),
        })
        .on(&services, of_service)
        .on(self.pods, move |change| service::of_pod(&there, &change))
        .on(&all, |change| endpoints::of_endpoints(&change));
        self.run(slicing);
        self.run(mirroring);
        self.run(listing);
    }

    fn jobs(&mut self) {
        let jobs: Cache<Job> = self.watches.of();
        let (client, pods) = (self.clients.controller("job-controller"), self.pods.clone());
        let announcer = self.announcer(&client, "job-controller");
        let of_job = |change: Change<'_, Job>| Some(change.key.clone());
        let here = jobs.clone();
        let running = Controller::new(job::Jobs {
            client: client.clone(),
            jobs: jobs.clone(),
            pods: pods.clone(),
            control: PodControl::new(client, pods, announcer.clone()),
            announcer,
        })
        .on(&jobs, of_job)
        .on(self.pods, move |change| job::of_pod(&here, &change));
        let ending = Controller::new(job::ttl::Ttl {
            client: self.clients.controller("ttl-after-finished-controller"),
            jobs: jobs.clone(),
        })
        .on(&jobs, of_job);
        let cron_jobs: Cache<CronJob> = self.watches.of();
        let client = self.clients.controller("cronjob-controller");
        let starting = Controller::new(CronJobs {
            client: client.clone(),
            cron_jobs: cron_jobs.clone(),
            jobs: jobs.clone(),
            announcer: self.announcer(&client, "cronjob-controller"),
        })
        .on(&cron_jobs, |change| Some(change.key.clone()))
        .on(&jobs, |change| cron_job::of_job(&change));
        self.run(running);
        self.run(ending);
        self.run(starting);
    }

    fn budgets(&mut self) {
        let client = self.clients.controller("disruption-controller");
        let budgets: Cache<PodDisruptionBudget> = self.watches.of();
        let here = budgets.clone();
        let reckoning = Controller::new(Disruptions {
            client: client.clone(),
            budgets: budgets.clone(),
            pods: self.pods.clone(),
            announcer: self.announcer(&client, "controllermanager"),
        })
        .on(&budgets, |change| Some(change.key.clone()))
        .on(self.pods, move |change| disruption::of_pod(&here, &change));
        self.run(reckoning);
    }

    fn autoscalers(&mut self) {
        let client = self.clients.controller("horizontal-pod-autoscaler");
        let hpas: Cache<HorizontalPodAutoscaler> = self.watches.of();
        let following = Controller::new(HorizontalPodAutoscalers::new(
            client.clone(),
            hpas.clone(),
            self.pods.clone(),
            self.announcer(&client, "horizontal-pod-autoscaler"),
        ))
        .on(&hpas, |change| horizontal_pod_autoscaler::of_hpa(&change))
        .on(self.pods, |_| None);
        self.run(following);
    }
}
